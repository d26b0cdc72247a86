"""What the hostile tests compare of the host: the groups of every hierarchy, and every id that a container can have."""

from pathlib import Path

from tests.shim.harness import Caller
from tests.shim.oracle import KEEPER, find_cgroups, ids_of

OWN = "5:name=systemd:/\n4:cpu,cpuacct:/own\n3:cpuset:/elsewhere\n2:memory:/own\n0::/own\n"


def mountinfo(*mounts: tuple[str, Path, str, str]) -> str:
    """Return the lines of mounts, each a root, a place, a kind and options."""
    return "".join(
        f"{number} 23 0:{number} {root} {point} rw,relatime - {kind} {kind} {options}\n"
        for number, (root, point, kind, options) in enumerate(mounts)
    )


def test_a_group_of_any_hierarchy_is_seen(tmp_path: Path) -> None:
    """Below this process's own group of it, and wherever it is mounted; what the kit delegates is the kit's own."""
    places = {name: tmp_path / name for name in ("unified", "cpu,cpuacct", "cpuset", "memory", "systemd")}
    for place in places.values():
        (place / "own" / "left").mkdir(parents=True)
        (place / "own" / "kit-1" / "left").mkdir(parents=True)
    mounts = mountinfo(
        ("/", places["unified"], "cgroup2", "rw"),
        ("/", places["cpu,cpuacct"], "cgroup", "rw,cpu,cpuacct"),
        ("/", places["cpuset"], "cgroup", "rw,cpuset"),
        ("/", places["memory"], "cgroup", "rw,memory"),
        ("/", places["systemd"], "cgroup", "rw,xattr,name=systemd"),
        ("/own", tmp_path, "cgroup2", "rw"),
        ("/", tmp_path, "tmpfs", "rw"),
    )

    found = set(find_cgroups(OWN, mounts))

    assert found == {
        str(places["unified"] / "own/left"),
        str(places["cpu,cpuacct"] / "own/left"),
        str(places["memory"] / "own/left"),
        # Of this one the process is at the top.
        str(places["systemd"] / "own"),
        str(places["systemd"] / "own/left"),
    }


def test_a_hierarchy_is_known_by_all_its_controllers(tmp_path: Path) -> None:
    """`cpu` is not `cpuset`, nor a hierarchy that holds it among others."""
    (tmp_path / "own" / "left").mkdir(parents=True)
    mounts = mountinfo(("/", tmp_path, "cgroup", "rw,cpuset"))

    assert list(find_cgroups("2:cpu:/own\n", mounts)) == []
    assert list(find_cgroups("2:cpuset:/own\n", mounts)) == [str(tmp_path / "own/left")]


def test_the_ids_of_a_caller_are_all_his_containers_can_have(tmp_path: Path) -> None:
    """His own, who pays for his namespaces, and the ranges that name him, by name or number; nobody else's."""
    table = tmp_path / "subuid"
    table.write_text("a:100000:10\n1001:300000:1\nb:200000:10\nbroken\n")

    ids = ids_of([Caller("a", 1001, 1001)], table)

    assert {each for span in ids for each in span} == {1001, 1001 | KEEPER, *range(100_000, 100_010), 300_000}
