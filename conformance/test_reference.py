"""REF: what podman does with an image, locald does; where it does not, `departures.toml` says why.

podman's answers are the same for both of locald's modes, so each is asked for once. The tests take turns: two that ask
at the same moment would both wait for both.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest
from python_on_whales.exceptions import DockerException

from conformance.likeness import (
    find_faults,
    name_all,
    read_departures,
    see_devices,
    see_hidden,
    see_hosts,
    see_mounts,
    see_namespaces,
    see_process,
    see_rights,
    see_user,
)
from conformance.observation import Facts
from conformance.oracle import (
    BUSYBOX,
    CALLER,
    IMAGES,
    OBSERVE,
    READY,
    STORED,
    Oracle,
    demand_good,
    make_client,
    name_image,
)
from conformance.runtimes import Mode
from conformance.subject import HOME, Job, Result, Subject

pytestmark = pytest.mark.alone("podman")

BUILT: Final = "localhost/kit-built:latest"
NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
# The kit's names of the files of an image, with everything that a layer says of them.
TREE: Final = f'{BUSYBOX} find /etc/passwd /srv -exec {BUSYBOX} stat -c "%n|%F|%u:%g|%a|%s" {{}} +'
NAMES: Final = (
    f"for f in hostname hosts resolv.conf; do echo == $f; {BUSYBOX} cat /etc/$f; done; "
    f"echo == name; {BUSYBOX} hostname; echo == end"
)


@pytest.fixture(scope="session")
def asked(product: Subject) -> Oracle:
    """Return podman in the guest; what it answered lasts for the worker."""
    return Oracle(product, make_client(product.guest.profile.name))


@pytest.fixture
def oracle(asked: Oracle, subject: Subject) -> Oracle:
    """Return podman in the guest, with nothing recorded yet."""
    assert asked.subject is subject
    return asked


def run(subject: Subject, mode: Mode, image: str, *args: str, options: tuple[str, ...] = ()) -> Job:
    """Return the job that runs one of the kit's images, or another reference, by locald."""
    reference = image if ":" in image else f"oci:{IMAGES}/{image}"
    return subject.locald("run", "--mode", mode, *options, reference, *(("--", *args) if args else ()))


def assert_alike(clause: str, mode: Mode, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Assert that both are alike but for what `departures.toml` explains."""
    faults = find_faults(clause, mode, ours, theirs, read_departures())
    assert not faults, "\n".join(faults)


def facts_of(*results: Result) -> list[Facts]:
    """Return what the observer saw in each container, all of which ended well."""
    for result in results:
        assert result.exit_code == 0, result
    return [result.facts for result in results]


def seen(cases: tuple[str, ...], views: list[dict[str, str]]) -> dict[str, str]:
    """Return one view of several cases."""
    return {
        name: value
        for case, view in zip(cases, views, strict=True)
        for name, value in name_all(case, view).items()
    }


def sections(result: Result) -> dict[str, str]:
    """Return a script's output by its headings."""
    assert result.exit_code == 0, result
    parts = result.stdout.split("== ")[1:]
    assert parts and parts[-1].startswith("end"), result  # noqa: PT018  # one says as much as the other
    found = {head: body.strip() for head, _, body in (part.partition("\n") for part in parts[:-1])}
    return see_hosts(found.pop("hosts")) | found


# --- what an image's config comes to ----------------------------------------------------------------------------------

CASES: Final = ("image", "changed", "bare", "replaced")
GIVEN: Final = {"IMAGE_SAYS": "no", "GIVEN": "a b=c", "EMPTY_TOO": ""}


def ours_of(subject: Subject, mode: Mode) -> list[Facts]:
    """Return what locald makes of four command lines: see `theirs_of`."""
    given = tuple(word for name, value in GIVEN.items() for word in ("-e", f"{name}={value}"))
    return facts_of(
        *subject.call(
            run(subject, mode, "full"),
            run(subject, mode, "full", "glance", "and", "more", options=(*given, "-w", "/tmp")),  # noqa: S108
            run(subject, mode, "bare"),
            run(
                subject, mode, "full", "sh", "-c", f"exec {OBSERVE} glance", options=("--entrypoint", BUSYBOX)
            ),
        )
    )


def theirs_of(oracle: Oracle) -> list[Facts]:
    """Return what podman makes of them: an image, all of it changed, one that says little, another entry point."""
    full, bare = name_image("full"), name_image("bare")
    theirs = demand_good(
        oracle.see(full),
        oracle.see(full, "glance", "and", "more", envs=GIVEN, workdir="/tmp"),  # noqa: S108
        oracle.see(bare),
        oracle.see(full, "sh", "-c", f"exec {OBSERVE} glance", entrypoint=BUSYBOX),
    )
    return facts_of(*theirs)


def assert_cases_alike(
    clause: str, subject: Subject, oracle: Oracle, mode: Mode, see: Callable[[Facts], dict[str, str]]
) -> None:
    """Judge one view of each of the four containers, ours beside theirs."""
    ours, theirs = ours_of(subject, mode), theirs_of(oracle)
    assert_alike(
        clause,
        mode,
        seen(CASES, [see(facts) for facts in ours]),
        seen(CASES, [see(facts) for facts in theirs]),
    )


@pytest.mark.clause("REF-001")
def test_the_environment(subject: Subject, oracle: Oracle, mode: Mode) -> None:
    """Every variable, in four containers."""
    assert_cases_alike("REF-001", subject, oracle, mode, lambda facts: dict(facts.environ))


@pytest.mark.clause("REF-002")
def test_the_arguments(subject: Subject, oracle: Oracle, mode: Mode) -> None:
    """Entry point and arguments, in four containers."""
    assert_cases_alike("REF-002", subject, oracle, mode, lambda facts: {"argv": see_process(facts)["argv"]})


@pytest.mark.clause("REF-003")
def test_the_working_directory(subject: Subject, oracle: Oracle, mode: Mode) -> None:
    """The directory in four containers, and a command line that names one that nobody made."""
    absent = "/srv/nobody/made"
    (ours_absent,) = subject.call(run(subject, mode, "full", options=("-w", absent)))
    theirs_absent = oracle.see(name_image("full"), workdir=absent)
    ours, theirs = ours_of(subject, mode), theirs_of(oracle)

    assert_alike(
        "REF-003",
        mode,
        seen(CASES, [{"cwd": see_process(facts)["cwd"]} for facts in ours])
        | {"absent: exit code": str(ours_absent.exit_code)},
        seen(CASES, [{"cwd": see_process(facts)["cwd"]} for facts in theirs])
        | {"absent: exit code": str(theirs_absent.exit_code)},
    )


@pytest.mark.clause("REF-004")
def test_users(subject: Subject, oracle: Oracle) -> None:
    """The image's own by name; -u by number, with a group, as root, and by names of both."""
    users = ("", "0", "1234", "1234:4321", "daemon:staff", "999")
    ours = subject.call(
        *(run(subject, "mapped", "named", options=("-u", user) if user else ()) for user in users)
    )
    theirs = [oracle.see(name_image("named"), **({"user": user} if user else {})) for user in users]
    cases = tuple(user or "image" for user in users)

    assert_alike(
        "REF-004",
        "mapped",
        seen(cases, [see_user(facts) for facts in facts_of(*ours)]),
        seen(cases, [see_user(facts) for facts in facts_of(*demand_good(*theirs))]),
    )


# --- volumes, ends and signals ----------------------------------------------------------------------------------------


@pytest.mark.clause("REF-005")
def test_volumes(subject: Subject, oracle: Oracle) -> None:
    """Root and USER write into a volume of the caller's, and try one that is read-only; who owns what is there then.

    `keep-id` is podman's way to have another user write as the caller, which locald's is always.
    """
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "root": ("0", {}),
        "another user": ("999", {}),
        "keep-id": ("999", {"userns": KEEP_ID}),
    }
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for case, (user, options) in cases.items():
        with volume(subject, f"ours-{user}") as place:
            write, refused = subject.call(
                *(
                    run(
                        *(subject, "mapped", "named", "touch", "/data/made"),
                        options=("-u", user, "-v", f"{place}:/data{ending}"),
                    )
                    for ending in ("", ":ro")
                )
            )
            ours |= name_all(case, written(subject, place, write, refused))
        with volume(subject, f"theirs-{user}") as place:
            made = [
                oracle.run(
                    *(name_image("named"), "touch", "/data/made"),
                    user=user,
                    **options,
                    volumes=[(place, "/data", *ending)],
                )
                for ending in ((), ("ro",))
            ]
            theirs |= name_all(case, written(subject, place, *demand_good(*made)))

    assert_alike("REF-005", "mapped", ours, theirs)


KEEP_ID: Final = "keep-id:uid=999,gid=998"


class volume:  # noqa: N801  # a context manager, used as a function
    """A directory of the caller's on the host, for as long as it is looked at."""

    def __init__(self, subject: Subject, name: str) -> None:
        self._subject = subject
        self._place = f"{HOME}/homes/{CALLER}-{subject.worker}/volume-{name}"

    def __enter__(self) -> str:
        caller = self._subject.caller(CALLER)
        self._subject.root(f"rm -rf {self._place}; install -d -o {caller.uid} -g {caller.gid} {self._place}")
        return self._place

    def __exit__(self, *_: object) -> None:
        self._subject.root(f"rm -rf {self._place}")


def written(subject: Subject, place: str, write: Result, refused: Result) -> dict[str, str]:
    """Return what two writes came to, and who owns the file on the host: the caller, or a number."""
    owner = subject.root(f"stat -c %u:%g {place}/made 2>/dev/null || echo absent").stdout.strip()
    caller = subject.caller(CALLER)
    return {
        "write": write.stdout.strip(),
        "write to ro": refused.stdout.strip(),
        "owner outside": "the caller" if owner == f"{caller.uid}:{caller.gid}" else owner,
    }


ENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "0": (OBSERVE, "exit", "0"),
    "7": (OBSERVE, "exit", "7"),
    "125": (OBSERVE, "exit", "125"),
    "no program": ("/etc/passwd",),
    "nothing": ("/absent",),
    "not in PATH": ("absent",),
    "KILL": (BUSYBOX, "sh", "-c", "kill -KILL $$"),
    "TERM": (BUSYBOX, "sh", "-c", "kill -TERM $$"),
}


@pytest.mark.clause("REF-006")
def test_exit_codes(subject: Subject, oracle: Oracle, mode: Mode) -> None:
    """Eight ends; a payload that ends itself by a signal needs an init above it, which locald has always."""
    ours = subject.call(*(run(subject, mode, "bare", *args) for args in ENDS.values()))
    theirs = [oracle.see(name_image("bare"), *args, init=args[0] == BUSYBOX) for args in ENDS.values()]

    assert_alike(
        "REF-006",
        mode,
        {name: str(result.exit_code) for name, result in zip(ENDS, ours, strict=True)},
        {name: str(result.exit_code) for name, result in zip(ENDS, theirs, strict=True)},
    )


@pytest.mark.clause("REF-007")
def test_stopping(subject: Subject, oracle: Oracle, mode: Mode) -> None:
    """A payload that reports its signals, with an image that names one and with one that does not; one that dies."""
    stop = [{"expect": READY}, {"signal": 15, "to": "user"}]
    arguments = {
        "named": ("stops",),
        "not named": ("bare", OBSERVE, "signals", "1"),
        "no handler": ("bare", OBSERVE, "wait"),
    }
    ours = subject.call(
        *(
            run(subject, mode, image, *args) | {"steps": stop, "limit_s": 60.0}
            for image, *args in arguments.values()
        )
    )
    theirs = [oracle.end(name_image(image), *args, init=True) for image, *args in arguments.values()]

    assert [result.problem for result in ours] == ["", "", ""], ours
    assert_alike("REF-007", mode, said(arguments, ours), said(arguments, theirs))


def said(names: Mapping[str, Any], results: list[Result]) -> dict[str, str]:
    """Return the signals that payloads reported, and how they ended."""
    return {
        f"{name}: {what}": value
        for name, result in zip(names, results, strict=True)
        for what, value in (
            ("signals", " ".join(result.stdout.replace(READY, "").split()) or "none"),
            ("exit code", str(result.exit_code)),
        )
    }


# --- what a container is made of --------------------------------------------------------------------------------------


@pytest.mark.clause("REF-008")
def test_mounts_and_devices(subject: Subject, oracle: Oracle) -> None:
    """What is mounted where, what is in /dev, and which files of the host's are hidden."""
    ours, theirs = whole(subject, oracle)

    assert_alike(
        "REF-008",
        "mapped",
        see_mounts(ours) | see_devices(ours) | see_hidden(ours),
        see_mounts(theirs) | see_devices(theirs) | see_hidden(theirs),
    )


def whole(subject: Subject, oracle: Oracle) -> list[Facts]:
    """Return everything that root of a container sees, under locald and under podman."""
    (ours,) = subject.call(run(subject, "mapped", "bare", OBSERVE, "facts"))
    return facts_of(ours, *demand_good(oracle.see(name_image("bare"), OBSERVE, "facts")))


@pytest.mark.clause("REF-009")
def test_rights(subject: Subject, oracle: Oracle) -> None:
    """What root and USER hold and may do, and which namespaces are the container's own."""
    host = read_namespaces(subject)
    (user,) = subject.call(run(subject, "mapped", "named", "facts"))
    ours_user, theirs_user = facts_of(user, *demand_good(oracle.see(name_image("named"), "facts")))
    ours, theirs = whole(subject, oracle)

    assert_alike(
        "REF-009",
        "mapped",
        name_all("root", see_rights(ours))
        | name_all("user", see_rights(ours_user))
        | see_namespaces(ours, host),
        name_all("root", see_rights(theirs))
        | name_all("user", see_rights(theirs_user))
        | see_namespaces(theirs, host),
    )


def read_namespaces(subject: Subject) -> dict[str, str]:
    """Return the links of the namespaces of the machine itself."""
    links = subject.root("".join(f"readlink /proc/1/ns/{kind}\n" for kind in NAMESPACES)).stdout.split()
    return dict(zip(NAMESPACES, links, strict=True))


@pytest.mark.clause("REF-010")
def test_names(subject: Subject, oracle: Oracle, mode: Mode) -> None:
    """On the host's network, and on none under a name that was given."""
    script = ("sh", "-c", NAMES)
    ours = subject.call(
        run(subject, mode, "bare", BUSYBOX, *script),
        run(subject, mode, "bare", BUSYBOX, *script, options=("--network", "none", "--name", "given")),
    )
    image = name_image("bare")
    theirs = [
        oracle.see(image, BUSYBOX, *script),
        oracle.see(
            *(image, BUSYBOX, *script),
            networks=["none"],
            hostname="given",
            name=f"kit-names-{subject.worker}",
        ),
    ]

    cases = ("host", "none")
    assert_alike(
        "REF-010",
        mode,
        seen(cases, [sections(result) for result in ours]),
        seen(cases, [sections(result) for result in demand_good(*theirs)]),
    )


# --- images that go from one to the other -----------------------------------------------------------------------------


@pytest.fixture
def place(subject: Subject) -> Iterator[str]:
    """Return a directory of the caller's in the guest."""
    path = f"{HOME}/homes/{CALLER}-{subject.worker}/{subject.make_token()}"
    caller = subject.caller(CALLER)
    subject.root(f"install -d -m 0700 -o {caller.uid} -g {caller.gid} {path}")
    yield path
    subject.root(f"rm -rf {path}")


ROOT_LISTS: Final[tuple[str, ...]] = ("sh", "-c", TREE)


# What podman adds to every environment is REF-001's business.
ADDED: Final = frozenset({"container", "HOSTNAME", "TERM"})


def see_whole(facts: Facts) -> dict[str, str]:
    """Return what an image's config comes to."""
    own = {f"env {name}": text for name, text in facts.environ.items() if name not in ADDED}
    return see_process(facts) | see_user(facts) | own


def see_tree(result: Result) -> dict[str, str]:
    """Return the files that were listed; the size of anything but a file is the file system's own business."""
    assert result.exit_code == 0, result
    found = {}
    for line in result.stdout.splitlines():
        name, kind, *rest, size = line.split("|")
        found[f"file {name}"] = " ".join([kind, *rest, *([size] if "file" in kind else [])])
    return found


@pytest.mark.clause("REF-011")
def test_an_image_that_podman_built(subject: Subject, oracle: Oracle, place: str) -> None:
    """Built of eight steps, saved as an archive and as a directory; the files too are what they are under podman."""
    oracle.build(BUILT)
    oracle.call("image", "save", "--format=oci-archive", f"--output={place}/built.tar", BUILT)
    oracle.call("image", "save", "--format=oci-dir", f"--output={place}/built", BUILT)
    as_root = ("-u", "0", "--entrypoint", BUSYBOX)
    archive, directory, tree = subject.call(
        run(subject, "mapped", f"oci-archive:{place}/built.tar"),
        run(subject, "mapped", f"oci:{place}/built"),
        run(subject, "mapped", f"oci:{place}/built", *ROOT_LISTS, options=as_root),
    )
    theirs, files = demand_good(
        oracle.run(BUILT), oracle.run(BUILT, *ROOT_LISTS, user="0", entrypoint=BUSYBOX)
    )

    expected = see_whole(*facts_of(theirs)) | see_tree(files)
    # Of what was built: a listing that is empty on both sides would be alike.
    assert "file /srv/work/opaque/upper" in expected, expected
    for form in (archive, directory):
        assert_alike("REF-011", "mapped", see_whole(*facts_of(form)) | see_tree(tree), expected)


@pytest.mark.clause("REF-012")
def test_an_image_of_the_store(subject: Subject, oracle: Oracle, place: str) -> None:
    """Pulled by locald; its blobs as they lie, and an index that names the manifest: a layout that podman loads."""
    reference = f"oci:{IMAGES}/{STORED}"
    home = {"HOME": f"{place}/home"}
    pulled, listed = subject.call(
        subject.locald("pull", reference, env=home), subject.locald("images", "--json", env=home)
    )
    assert pulled.exit_code == 0, pulled
    assert listed.stdout.startswith("["), listed
    (image,) = listed.answer
    lay_out(
        subject,
        f"{place}/home/.local/share/locald/store/blobs",
        image["manifest_digest"],
        f"{place}/out",
    )
    # Before locald reads the store again: it is podman that has to find the blobs to be what they are called.
    name = load(oracle, f"{place}/out")
    as_root = ("-u", "0", "--entrypoint", BUSYBOX)
    ours, tree = subject.call(
        run(subject, "mapped", reference) | {"env": subject.host_env(CALLER) | home},
        run(subject, "mapped", reference, *ROOT_LISTS, options=as_root)
        | {"env": subject.host_env(CALLER) | home},
    )
    theirs, files = oracle.run(name), oracle.run(name, *ROOT_LISTS, user="0", entrypoint=BUSYBOX)
    # Else podman would know the layer the next time, and not read it.
    oracle.client.image.remove(name, force=True)

    expected = see_whole(*facts_of(theirs)) | see_tree(files)
    assert "file /srv/stored" in expected, expected
    assert_alike("REF-012", "mapped", see_whole(*facts_of(ours)) | see_tree(tree), expected)


def lay_out(subject: Subject, blobs: str, digest: str, target: str) -> None:
    """Make a layout of a store's blobs as they lie: the rest of a layout is two short files."""
    manifest = f"{blobs}/{digest.replace(':', '/')}"
    size = int(subject.root(f"stat -c %s {manifest}").stdout)
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest,
        "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    subject.guest.succeed(["mkdir", target], user=CALLER)
    subject.guest.succeed(["ln", "-s", blobs, f"{target}/blobs"], user=CALLER)
    subject.guest.push(b'{"imageLayoutVersion": "1.0.0"}', f"{target}/oci-layout", user=CALLER)
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    subject.guest.push(index, f"{target}/index.json", user=CALLER)


def load(oracle: Oracle, layout: str) -> str:
    """Load a layout into podman and return its name; a layout that podman refuses is no image."""
    try:
        (name,) = oracle.client.image.load(layout, quiet=True)
    except DockerException as error:
        # A podman that takes no image at all says nothing of this one.
        oracle.call("image", "load", "--quiet", f"--input={IMAGES}/bare")
        pytest.fail(f"podman took no image: {error}")
    return name
