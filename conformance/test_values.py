"""VALUE: what stands in a member of config.json that is known; what a tmpfs gets; whose ranges make a map."""

from typing import Any, Final

import pytest

from conformance.runtimes import Config, Mode
from conformance.subject import SHIM, Job, Subject
from conformance.test_bundle import assert_refused, written

MIB: Final = 1 << 20
# As many ranges as a map has extents, of which the caller himself needs one: user_namespaces(7).
EXTENTS: Final = 340
TABLES: Final = ("subuid", "subgid")


def limits(*kinds: tuple[str, int, int]) -> Any:
    """Return a change that asks for resource limits."""
    return written(
        process__rlimits=[{"type": name, "soft": soft, "hard": hard} for name, soft, hard in kinds]
    )


def namespace(kind: str) -> Any:
    """Return a change that adds a namespace."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": kind})

    return change


def bind(source: str) -> Any:
    """Return a change that adds a bind."""
    return written(mounts=[{"destination": "/srv", "type": "bind", "source": source, "options": ["rbind"]}])


def resources(**members: dict[str, int]) -> Any:
    """Return a change that asks for limits of a cgroup."""
    return written(linux__resources=members)


# A code, and a value of a known member that is no value of it.
VALUES: Final[tuple[tuple[str, Any], ...]] = (
    ("namespace.type", namespace("hyper")),
    ("namespace.duplicate", namespace("pid")),
    ("config.hostname", written(hostname="two words")),
    ("config.hostname", written(hostname="h" * 65)),
    ("config.propagation", written(linux__rootfsPropagation="rpublic")),
    ("config.path", written(root__path="")),
    ("config.path", written(root__path="r/" * 2048)),
    ("process.args", written(process__args=[])),
    ("process.args", written(process__args=["", "facts"])),
    ("process.env", written(process__env=["NOVALUE"])),
    ("process.env", written(process__env=["=nameless"])),
    ("user.umask", written(process__user__umask=0o1000)),
    ("process.capability", written(process__capabilities={"bounding": ["CAP_EVERYTHING"]})),
    ("process.capability", written(process__capabilities={"ambient": ["KILL"]})),
    ("process.rlimit", limits(("RLIMIT_EVERYTHING", 1, 1))),
    ("process.rlimit", limits(("RLIMIT_NOFILE", 32, 32), ("RLIMIT_NOFILE", 64, 64))),
    ("process.rlimit", limits(("RLIMIT_NOFILE", 64, 32))),
    ("mount.source", bind("srv")),
)
# What no controller of a cgroup takes, nor can mean.
LIMITS: Final = (
    resources(memory={"limit": 0}),
    resources(memory={"limit": -2}),
    resources(memory={"swap": MIB}),
    resources(memory={"limit": 2 * MIB, "swap": MIB}),
    resources(pids={"limit": 1 << 40}),
    resources(cpu={"shares": 1}),
    resources(cpu={"shares": 262_145}),
    resources(cpu={"period": 999, "quota": 1000}),
    resources(cpu={"period": 1_000_001, "quota": 1000}),
    resources(cpu={"quota": 999}),
)


@pytest.mark.clause("VALUE-001")
def test_a_value_that_is_none_is_refused(subject: Subject, mode: Mode) -> None:
    """Each by the code of its member, before anything is made."""
    results = subject.call(
        *(subject.container(mode=mode, status=True, change=change) for _, change in VALUES)
    )

    for (code, _), result in zip(VALUES, results, strict=True):
        assert_refused(result, code)


@pytest.mark.clause("VALUE-002")
def test_a_limit_out_of_range_is_refused(subject: Subject, mode: Mode) -> None:
    """As such, whether this host has a cgroup for it or not."""
    results = subject.call(*(subject.container(mode=mode, status=True, change=change) for change in LIMITS))

    for result in results:
        assert_refused(result, "resources.range")


@pytest.mark.clause("VALUE-003")
def test_the_options_of_a_mount_are_in_force(subject: Subject, mode: Mode) -> None:
    """Size, inodes, mode and owner of a tmpfs; noexec of a bind; and an option twice, or half of one, is refused."""
    good, *bad = subject.call(
        *(
            subject.container(
                *("/observe", "facts"),
                mode=mode,
                change=written(
                    hostname="",
                    mounts=[
                        {
                            "destination": "/srv",
                            "type": "tmpfs",
                            "source": "tmpfs",
                            "options": options,
                        },
                        {
                            "destination": "/mnt",
                            "type": "tmpfs",
                            "source": "tmpfs",
                            "options": ["ro", "noexec"],
                        },
                        {
                            "destination": "/tmp",  # noqa: S108  # in the container
                            "type": "bind",
                            "source": "{bundle}/shared",
                            "options": ["rbind", "noexec"],
                        },
                    ],
                ),
                files={"shared/mark": {"content": "here"}},
            )
            for options in (
                ["size=64k", "nr_inodes=100", "mode=0711"],
                ["mode=4755"],
                ["mode=rwx"],
                ["mode="],
                ["size=50%"],
                ["size=1m", "size=2m"],
                ["nr_inodes=0"],
                ["ro", "rw"],
            )
        )
    )

    assert good.exit_code == 0, good
    tmpfs = good.facts.mount_at("/srv")
    assert tmpfs.super_options >= {"size=64k", "nr_inodes=100", "mode=711"}, tmpfs
    owners = {line.split()[0]: line.split()[2] for line in good.facts.lines("root")}
    assert owners["srv"] == ("0" if mode == "mapped" else str(subject.caller().uid)), owners
    assert good.facts.mount_at("/mnt").options >= {"ro", "noexec"}, good
    assert "noexec" in good.facts.mount_at("/tmp").options, good  # noqa: S108
    codes = [result.outcome for result in bad]
    assert codes == [(125, "mount.size" if number == 5 else "mount.option") for number in range(len(bad))]


@pytest.mark.alone
@pytest.mark.clause("VALUE-004")
def test_ranges_that_make_no_map_are_refused(subject: Subject) -> None:
    """Two that overlap, one that holds the caller, more than a map holds; ranges that follow each other are one.

    Of uids and of gids, each in a table of its own.
    """
    bare = subject.caller("bare")
    lines = [f"bare:{3_000_000 + 2 * number}:1\\n" for number in range(EXTENTS + 1)]

    def granted(lines: str, *tables: str) -> Job:
        back = "cat /etc/{0}.kit > /etc/{0}; rm /etc/{0}.kit\n"
        keep = "cp -p /etc/{0} /etc/{0}.kit; printf '{1}' >> /etc/{0}\n"
        before = "".join(keep.format(table, lines) for table in tables)
        after = "".join(back.format(table) for table in tables)
        return subject.container(mode="mapped", user="bare", status=True, before=before, after=after)

    cases = [
        (code, granted(text, table))
        for table, own in zip(TABLES, (bare.uid, bare.gid), strict=True)
        for code, text in (
            ("subids.overlap", "bare:3000000:100\\nbare:3000050:100\\n"),
            ("subids.range", f"bare:{own - 1}:10\\n"),
            ("map.extents", "".join(lines[:EXTENTS])),
            ("subids.too-many", "".join(lines)),
        )
    ]
    together = granted("bare:3000000:100\\nbare:3000100:100\\n", *TABLES)
    *refused, joined = subject.call(*(job for _, job in cases), together)

    for (code, _), result in zip(cases, refused, strict=True):
        assert_refused(result, code)
    assert joined.exit_code == 0, joined
    assert joined.facts.id_map("uid_map") == [(0, bare.uid, 1), (1, 3_000_000, 200)]
    assert joined.facts.id_map("gid_map") == [(0, bare.gid, 1), (1, 3_000_000, 200)]


@pytest.mark.clause("VALUE-005")
def test_a_caller_of_roots_group_has_no_map(subject: Subject) -> None:
    """Whose primary group is 0 is refused in mapped mode: no container maps root's group."""
    job = subject.container(mode="mapped", status=True)
    user = subject.caller()
    become = ["/usr/bin/setpriv", f"--reuid={user.uid}", "--regid=0", "--clear-groups", "--"]
    (result,) = subject.call({**job, "argv": [*become, *job["argv"]], "user": "root"})

    assert job["argv"][0] == SHIM
    assert result.outcome == (125, "map.host-zero"), result
