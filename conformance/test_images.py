"""IMG: an image, from wherever it comes, is run as it says."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from conformance import inputs
from conformance.inputs import Entry
from conformance.install import REGISTRY_PORT, SHARED
from conformance.observation import Facts
from conformance.runtimes import ONCE, Mode
from conformance.subject import HOME, Job, Result, Subject

IMAGES: Final = f"{HOME}/images"
PORT: Final = 8080
STANDARD_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Started for one job and ended with a later one, so without the job's name: by it the agent knows what a job left.
# The registry is Debian's, its storage was filled by skopeo.
REGISTRY: Final = (
    f"env -i PATH=$PATH setsid docker-registry serve {HOME}/registry.yml </dev/null >{HOME}/registry.log 2>&1 &\n"
    f"PID=$!; echo $PID > {HOME}/registry.pid\n"
    # One that does not answer in time has no later job to end it: the job that would is not begun.
    f"trap 'kill $PID || true; cat {HOME}/registry.log' EXIT; trap 'exit 1' HUP INT TERM\n"
    "for i in $(seq 200); do\n"
    f"    if curl -fs http://127.0.0.1:{REGISTRY_PORT}/v2/ >/dev/null; then trap - EXIT; exit 0; fi\n"
    "    sleep 0.1\n"
    "done; exit 1"
)
STOP_REGISTRY: Final = f"kill $(cat {HOME}/registry.pid) || true; cat {HOME}/registry.log"
# What a client on the host sees, while the container runs; nobody has reaped a subject that ended.
ASK: Final = (
    "for i in $(seq 600); do\n"
    f"    curl -fs http://127.0.0.1:{PORT}/ && break\n"
    "    grep -q '^State:.Z' /proc/$SUBJECT/status && break\n"
    "    sleep 0.2\n"
    "done\n"
    f"curl -s -o /dev/null -w 'status %{{http_code}}\\n' http://127.0.0.1:{PORT}/ || true"
)
BIG: Final[dict[str, Any]] = {"limit_s": 90.0, "settle_s": 5.0}
# One store for all tests of the Debian image: an emulated guest unpacks it once for each mode, not once a test.
STORE: Final = {"HOME": f"{HOME}/homes/plain-{SHARED}"}


def image_facts(
    subject: Subject, reference: str, mode: Mode, *options: str, env: Mapping[str, str] | None = None
) -> Facts:
    """Run the observer of an image and return what it saw."""
    (result,) = subject.call(subject.locald("run", "--mode", mode, *options, reference, env=env))
    assert result.exit_code == 0, result
    return result.facts


def assert_runs_as_said(subject: Subject, reference: str, mode: Mode) -> None:
    """Judge that the image `small` runs with its own arguments, environment and directory, whatever its caller has."""
    host = {
        "HOME": f"{HOME}/homes/plain-{subject.worker}/odd",
        "PATH": "/odd/bin:/usr/bin:/bin",
        "USER": "odd",
        "LOGNAME": "odd",
        "TERM": "odd",
        "TZ": "Odd/Place",
        "LANG": "C.UTF-8",
        "http_proxy": "http://192.0.2.1:3128",
        "SSH_AUTH_SOCK": "/odd/agent",
        "CNB_PLATFORM_API": "0.1",
    }
    facts = image_facts(subject, reference, mode, env=host)

    assert facts.text("argv") == "/bin/observe\nfacts"
    # Less what the image says, this is what every container has: the home that its passwd gives root.
    assert facts.environ == {"IMAGE_SAYS": "yes", "PATH": STANDARD_PATH, "HOME": "/root"}
    assert facts.process["cwd"] == "/srv"


@pytest.mark.clause("IMG-001")
def test_a_layout_directory(subject: Subject, mode: Mode) -> None:
    """`oci:DIR` runs with the image's entry point, environment and working directory; nothing of the host leaks."""
    assert_runs_as_said(subject, f"oci:{IMAGES}/small", mode)


@pytest.mark.clause("IMG-002")
def test_an_archive(subject: Subject) -> None:
    """`oci-archive:FILE` runs the same image in the same way."""
    assert_runs_as_said(subject, f"oci-archive:{IMAGES}/small.tar", ONCE)


@pytest.mark.clause("IMG-003")
def test_options_of_run(subject: Subject, mode: Mode) -> None:
    """-e, -w, --read-only and --network none have their effect in the container."""
    options = ("-e", "GIVEN=here", "-w", "/tmp", "--read-only", "--network", "none")  # noqa: S108  # in the container
    facts = image_facts(subject, f"oci:{IMAGES}/small", mode, *options)

    assert facts.environ["GIVEN"] == "here"
    assert facts.process["cwd"] == "/tmp"  # noqa: S108
    assert facts.attempts["make-root"] == 30  # EROFS
    assert [line.split(":")[0].strip() for line in facts.lines("net")[2:]] == ["lo"]
    # Of a host whose own network is lo alone that would say nothing.
    assert facts.table("namespaces")["net"] != subject.root("readlink /proc/self/ns/net").stdout.strip()


@pytest.mark.clause("IMG-004")
def test_several_owners(subject: Subject) -> None:
    """Mapped, the files of an image have their owners, USER runs by name, and a volume is the caller's.

    The host has a mount that cannot be bound, elsewhere: of the host, unpacking needs a few directories.
    """
    caller = subject.caller()
    aside = f"{HOME}/$TOKEN.unbindable"
    volume = f"{HOME}/homes/plain-{subject.worker}/volume"
    image = f"oci:{IMAGES}/owners"
    owners, writes = subject.call(
        subject.locald(
            *(
                "run",
                "--mode",
                "mapped",
                image,
                "--",
                "/bin/observe",
                "stat",
                "/srv/service",
                "/srv/daemon",
                "/srv/root",
            ),
            before=f"mkdir -p {aside}; mount -t tmpfs none {aside}; mount --make-unbindable {aside}",
            after=f"umount {aside}; rmdir {aside}",
            **BIG,
        ),
        subject.locald(
            *(
                "run",
                "--mode",
                "mapped",
                "-v",
                f"{volume}:/data",
                image,
                "--",
                "/bin/observe",
                "touch",
                "/data/made",
            ),
            before=f"rm -rf {volume}; install -d -o {caller.uid} -g {caller.gid} {volume}",
            after=f"stat -c %u:%g {volume}/made || true",
            **BIG,
        ),
    )

    assert [line.rsplit(" ", 1)[0] for line in owners.stdout.splitlines()] == [
        "/srv/service 999 998",
        "/srv/daemon 1 1",
        "/srv/root 0 0",
    ], owners
    assert writes.stdout == "touch 0\n", writes
    assert writes.after.strip() == f"{caller.uid}:{caller.gid}"


@pytest.mark.clause("IMG-010")
def test_what_layers_say_is_what_the_tree_holds(subject: Subject) -> None:
    """A whiteout and an opaque directory hide what is below; setuid, setgid and sticky bits are kept."""
    shared = "/tmp"  # noqa: S108  # of the image
    names = ("kept", "gone", "emptied/old", "emptied/new", "merged/old", "merged/new", "marked")
    words = ("--mode", ONCE, f"oci:{IMAGES}/layers", "--", "/bin/observe", "stat")
    (result,) = subject.call(subject.locald("run", *words, *(f"/srv/{name}" for name in names), shared))
    seen = {name: rest for name, *rest in map(str.split, result.stdout.splitlines())}
    absent = ["errno", str(errno.ENOENT)]

    assert {name for name, rest in seen.items() if rest == absent} == {"/srv/gone", "/srv/emptied/old"}, (
        result
    )
    assert (seen["/srv/marked"][-1], seen[shared][-1]) == ("106755", "41777"), result


@pytest.mark.clause("IMG-017")
def test_layers_in_every_form(subject: Subject) -> None:
    """As it is, by gzip and by zstd; a file has its second name, a FIFO is one, and a device is nobody's."""
    names = ("named", "again", "fifo", "device", "last")
    words = ("--mode", ONCE, f"oci:{IMAGES}/forms", "--", "/bin/observe", "stat")
    (result,) = subject.call(subject.locald("run", *words, *(f"/srv/{name}" for name in names)))
    seen = {name: rest[-1] for name, *rest in map(str.split, result.stdout.splitlines())}

    assert result.exit_code == 0, result
    assert seen == {
        "/srv/named": "100644",
        "/srv/again": "100644",
        "/srv/fifo": "10644",
        "/srv/device": str(errno.ENOENT),
        "/srv/last": "100644",
    }


@pytest.mark.clause("IMG-013")
def test_dates_and_attributes(subject: Subject) -> None:
    """A file has the time that its layer gives it, to the fraction of a second, and its extended attribute."""
    words = ("--mode", ONCE, f"oci:{IMAGES}/layers", "--", "/bin/observe", "dated", "/srv/dated", "user.says")
    (result,) = subject.call(subject.locald("run", *words))

    assert result.stdout.split() == ["1234567890.500000000", "so"], result


@pytest.mark.clause("IMG-014")
def test_what_no_image_needs_goes(subject: Subject) -> None:
    """Of two images that share a layer one is removed: its own layers go, the other runs. With both, all goes."""
    home = f"{HOME}/homes/plain-{subject.worker}/two-images"
    place = {"XDG_DATA_HOME": home}
    blobs = f"ls {home}/locald/store/blobs/sha256 2>/dev/null | wc -l"
    small, layers = f"oci:{IMAGES}/small", f"oci:{IMAGES}/layers"
    one, two, fewer, runs, none = subject.call(
        subject.locald("pull", small, env=place, before=f"rm -rf {home}", after=blobs),
        subject.locald("pull", layers, env=place, after=blobs),
        subject.locald("rmi", layers, env=place, after=blobs),
        subject.locald("run", small, "--", "/bin/observe", "exit", "7", env=place),
        subject.locald("rmi", small, env=place, after=f"{blobs}; rm -rf {home}"),
    )

    assert [result.exit_code for result in (one, two, fewer, runs, none)] == [0, 0, 0, 7, 0], none
    # Manifest, config and layer; of the second, manifest, config and the two layers that it does not share.
    counts = [int(result.after) for result in (one, two, fewer, none)]
    assert counts == [3, 7, 3, 0], counts


@pytest.mark.clause("IMG-005")
def test_a_damaged_image(subject: Subject) -> None:
    """A blob that is not what its digest says is refused by name, and nothing of it is run."""
    broken = f"{HOME}/homes/plain-{subject.worker}/broken"
    copy = f"rm -rf {broken}; cp -r {IMAGES}/small {broken}; cd {broken}/blobs/sha256"
    damages = (
        "for f in *; do printf x >> $f; done",
        # The largest is the layer: another time in gzip's header, which unpacks to the same.
        "printf '\\1' | dd of=$(ls -S | head -n 1) bs=1 seek=4 conv=notrunc status=none",
    )
    # Each time by somebody who has nothing of it in his store.
    results = subject.call(
        *(
            subject.locald(
                *("run", f"oci:{broken}"),
                env={"XDG_DATA_HOME": f"{broken}-data-{number}"},
                before=f"{copy}; {damage}; chmod -R a+rX {broken}",
                after=f"rm -rf {broken}-data-{number}",
            )
            for number, damage in enumerate(damages)
        )
    )

    for result in results:
        assert result.outcome == (125, "image.digest-mismatch"), result
        assert result.stdout == ""


@pytest.mark.clause("IMG-011")
def test_a_layer_that_is_another(subject: Subject) -> None:
    """A layer whose content is not that of its diff id is refused, though its digest is right."""
    (result,) = subject.call(subject.locald("run", f"oci:{IMAGES}/lying"))

    assert result.outcome == (125, "image.digest-mismatch"), result
    assert result.stdout == ""


class Outside:
    """A directory beside the store that the caller, as whom layers are unpacked, could write to; and an image."""

    def __init__(self, subject: Subject, layer: Sequence[Entry], tmp_path: Path) -> None:
        """Put an image of one layer into the guest."""
        caller = subject.caller()
        image = f"{HOME}/images/{subject.make_token()}"
        subject.guest.push(
            inputs.write_layout(tmp_path, [inputs.make_layer(layer)], {"Entrypoint": ["/bin/observe"]}), image
        )
        place = outside_of(subject)
        self._reference = f"oci:{image}"
        make = f"rm -rf {place}; install -d -m 755 -o {caller.uid} -g {caller.gid} {place}"
        self._scripts: dict[str, Any] = {
            "before": f"chmod -R a+rX {image}; {make}",
            "after": f"ls -A {place}; rm -rf {place} {image}",
        }
        self._subject = subject

    def run(self, mode: Mode, *words: str) -> Result:
        """Run it, and look at what came into the directory."""
        job = self._subject.locald("run", "--mode", mode, self._reference, "--", *words, **self._scripts)
        return self._subject.call(job)[0]


def outside_of(subject: Subject) -> str:
    """Return where it is."""
    return f"{HOME}/homes/plain-{subject.worker}/outside"


@pytest.mark.clause("IMG-015")
def test_a_layer_that_climbs(subject: Subject, tmp_path: Path) -> None:
    """A name with `..` in it is refused, and nothing is where it leads."""
    place = outside_of(subject)
    layer = [Entry(f"srv/{'../' * 16}{place[1:]}/climbed", b"out")]
    result = Outside(subject, layer, tmp_path).run(ONCE, "stat", "/")

    assert result.outcome == (125, "image.layer-invalid"), result
    assert result.after == "", result


@pytest.mark.clause("IMG-016")
def test_a_layer_with_a_link_that_leads_outside(
    subject: Subject, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """What a layer has below a link, relative or absolute, is where the link leads within the tree, not on the host."""
    cache = Path(pytestconfig.getoption("kit_cache")).expanduser()
    place = outside_of(subject)
    layer = [
        *(Entry(name, mode=0o755, directory=True) for name in ("srv", "bin")),
        Entry("bin/observe", inputs.find_observer(cache).read_bytes(), mode=0o755),
        Entry("srv/down", target=place),
        Entry("srv/down/followed", b"in"),
        # To the top, above which is nothing, and from there.
        Entry("srv/up", target="../" * 16 + place[1:]),
        Entry("srv/up/climbed", b"in"),
    ]
    names = ("/srv/down/followed", "/srv/up/climbed", f"{place}/followed", f"{place}/climbed")
    result = Outside(subject, layer, tmp_path).run(ONCE, "stat", *names)

    assert result.exit_code == 0, result
    modes = {name: rest[-1] for name, *rest in map(str.split, result.stdout.splitlines())}
    assert modes == dict.fromkeys(names, "100644"), result
    assert result.after == "", result


@pytest.mark.clause("IMG-012")
def test_the_image_for_this_machine(subject: Subject) -> None:
    """Of an index the image for the host's architecture is run, not the one that stands first."""
    (result,) = subject.call(subject.locald("run", "--mode", ONCE, f"oci:{IMAGES}/platforms"))

    assert result.exit_code == 3, result  # 4 is the other's


@pytest.mark.clause("IMG-006")
def test_exit_codes_through_locald(subject: Subject, mode: Mode) -> None:
    """0, 7, 125, 126, 127 and 143 of a container are locald's own exit codes.

    In the mode that every host has; in the other, an exit and a signal. The shim's, in each mode: BUNDLE-002 and -003.
    """
    image = f"oci:{IMAGES}/small"
    wanted: dict[tuple[str, ...], int] = {("/bin/observe", "exit", "7"): 7}
    if mode == ONCE:
        wanted |= {("/bin/observe", "exit", str(code)): code for code in (0, 125)}
        wanted |= {("/etc/passwd",): 126, ("/absent",): 127}
    jobs: list[Job] = [subject.locald("run", "--mode", mode, image, "--", *words) for words in wanted]
    jobs.append(
        subject.locald("run", "--mode", mode, image, "--", "/bin/observe", "wait")
        | {"steps": [{"expect": "ready"}, {"signal": 15, "to": "user"}]}
    )
    results = subject.call(*jobs)

    assert [result.exit_code for result in results] == [*wanted.values(), 143], results


@pytest.mark.alone("debian")
@pytest.mark.clause("IMG-007")
def test_debian_from_a_registry(subject: Subject) -> None:
    """Debian 12 with nginx, pulled from a registry on loopback: nginx answers curl on 8080; TERM ends it cleanly.

    In the mode that locald chooses on the host, as its users have it: in each, Debian would be unpacked anew.
    """
    reference = f"127.0.0.1:{REGISTRY_PORT}/library/debian:latest"
    pull = subject.locald("pull", reference, before=REGISTRY, env=STORE, **BIG)
    listed = subject.locald("images", "--json", env=STORE)
    serve = serving(subject, "auto", reference)
    pulled, images, served = subject.call(pull, listed, serve | {"after": STOP_REGISTRY})

    assert pulled.exit_code == 0, pulled
    assert reference.removesuffix(":latest") in images.stdout, images
    assert served.problem == "", served
    assert "status 200" in served.stderr, served
    assert served.exit_code in (0, 143), served
    assert served.leftover == []


@pytest.mark.alone("debian")
@pytest.mark.clause("IMG-008")
def test_debian_from_files(subject: Subject) -> None:
    """The same image from a layout and from an archive serves as well, read-only: without a copy of its own."""
    references = (f"oci:{HOME}/debian:latest", f"oci-archive:{HOME}/debian.tar")
    for served in subject.call(*(serving(subject, "mapped", name, "--read-only") for name in references)):
        assert served.problem == "", served
        assert "status 200" in served.stderr, served


@pytest.mark.alone("debian")
@pytest.mark.clause("IMG-009")
def test_python_in_debian(subject: Subject) -> None:
    """The image's own python3 runs and sees a Debian 12, in the mode that locald chooses on the host."""
    script = (
        "import os, ssl, platform; print(open('/etc/debian_version').read().split('.')[0], os.getpid() > 0)"
    )
    (result,) = subject.call(
        subject.locald(
            *(
                "run",
                "--mode",
                "auto",
                "--read-only",
                f"oci:{HOME}/debian:latest",
                "--",
                "python3",
                "-c",
                script,
            ),
            env=STORE,
            **BIG,
        )
    )

    assert (result.exit_code, result.stdout) == (0, "12 True\n"), result


def serving(subject: Subject, mode: str, reference: str, *options: str) -> dict[str, Any]:
    """Return the job that runs nginx from `reference`, asks it as a client, and ends it by TERM."""
    return subject.locald(
        *(
            "run",
            "--mode",
            mode,
            "--network",
            "host",
            *options,
            reference,
            "--",
            "nginx",
            "-g",
            "daemon off;",
        ),
        env=STORE,
        steps=[{"script": ASK}, {"signal": 15, "to": "user"}],
        **BIG,
    )
