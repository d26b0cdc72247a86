"""Whose ids a container has, whose its files are, and what `cleanup` may remove of what it left."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.faults import NEVER_RETURNS
from tests.shim.harness import Bundle, Call, Caller, Run, Workshop
from tests.shim.kernel import bind_over, exchange
from tests.shim.oracle import Host
from tests.shim.test_boundaries import make_trap
from tests.shim.test_faults import ERRORS, judge_host
from tests.shim.tracer import SHIM, Fail, Kill, Swap, Tracer

FIRST = 800_000
MAKE_LEFT = "mkdir /left /left/in && touch /left/in/f && chown -R 5:6 /left && chmod 0 /left/in"
CHOWN = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]


def granted(run: Run, uids: str, gids: str | None = None) -> Call:
    """Return a call that sees these tables in the place of /etc/subuid and /etc/subgid."""
    holder = run.workshop.directory(run.caller)
    steps = [
        bind_over(uids, "/etc/subuid", holder / "subuid"),
        bind_over(uids if gids is None else gids, "/etc/subgid", holder / "subgid"),
    ]

    def prepare() -> None:
        for step in steps:
            step()

    return Call(prepare=prepare)


def id_map(run: Run, call: Call, name: str = "uid_map") -> list[list[int]]:
    """Return the map that a container has."""
    return [
        [int(word) for word in line.split()] for line in run("cat", f"/proc/self/{name}", call=call).lines()
    ]


@pytest.mark.parametrize("mode", ["mapped"])
class TestRanges:
    """What /etc/subuid and /etc/subgid grant, and nothing else."""

    def test_several_follow_each_other(self, run: Run) -> None:
        """Granted by name and by number, in the order of the lines; somebody else's lie between."""
        uid, name = run.caller.uid, run.caller.name
        table = f"{name}:{FIRST}:10\nsomebody:{FIRST + 10}:5\n{uid}:{FIRST + 20}:3\n{name}:{FIRST + 40}:1\n"
        expected = [[0, uid, 1], [1, FIRST, 10], [11, FIRST + 20, 3], [14, FIRST + 40, 1]]
        assert id_map(run, granted(run, table)) == expected

    def test_uids_and_gids_are_independent(self, run: Run) -> None:
        """A range of one kind grants nothing of the other."""
        table = f"{run.caller.name}:{FIRST}:10\n"
        call = granted(run, table, "")
        assert id_map(run, call) == [[0, run.caller.uid, 1], [1, FIRST, 10]]
        assert id_map(run, call, "gid_map") == [[0, run.caller.gid, 1]]

    def test_a_short_one_is_all_there_is(self, run: Run) -> None:
        """Ids beyond it are nobody's: a process cannot have them."""
        call = granted(run, f"{run.caller.name}:{FIRST}:1\n")
        assert id_map(run, call) == [[0, run.caller.uid, 1], [1, FIRST, 1]]
        bundle = run.bundle("true")
        bundle.process["user"] = {"uid": 2, "gid": 0}
        run.refused(bundle, "user.unmapped", call)

    def test_one_that_overlaps_another_users(self, run: Run) -> None:
        """Root grants, so root may grant twice; what is mapped is the caller's line, no id more."""
        table = f"other:{FIRST - 5}:100\n{run.caller.name}:{FIRST}:10\n"
        assert id_map(run, granted(run, table)) == [[0, run.caller.uid, 1], [1, FIRST, 10]]

    def test_of_another_user_alone(self, run: Run) -> None:
        """Nothing but the caller is mapped."""
        other = run.caller.uid + 1
        table = f"root:{FIRST}:10\n{other}:{FIRST + 10}:10\n{run.caller.name}x:{FIRST + 20}:10\n"
        assert id_map(run, granted(run, table)) == [[0, run.caller.uid, 1]]


FOREIGN_GROUP = 4242
UNMAPPED = "65534"


def groups_inside(run: Run, *more: int) -> list[str]:
    """Return the supplementary groups of a payload whose caller is in FOREIGN_GROUP; `more` are asked for."""
    member = Run(run.shim, run.workshop, run.mode, replace(run.caller, groups=(FOREIGN_GROUP,)))
    bundle = member.bundle("grep", "^Groups:", "/proc/self/status")
    if more:
        bundle.process["user"]["additionalGids"] = list(more)
    (line,) = member.shim.run(bundle).lines()
    return line.removeprefix("Groups:").split()


class TestGroups:
    """Supplementary groups: who may change them, and what becomes of the caller's."""

    @pytest.mark.parametrize("mode", ["direct"])
    def test_direct_keeps_the_callers(self, run: Run) -> None:
        """A group that is kept from a file by a negative access list cannot be dropped (CVE-2014-8989)."""
        assert groups_inside(run) == [str(FOREIGN_GROUP)]

    @pytest.mark.parametrize("mode", ["mapped"])
    @pytest.mark.parametrize("caller", ["locald-b"], indirect=True)
    def test_mapped_without_a_grant_keeps_them(self, run: Run) -> None:
        """Inside it is nobody's id, and setgroups(2) is denied for good."""
        assert groups_inside(run) == [UNMAPPED]
        assert run("cat", "/proc/self/setgroups").lines() == ["deny"]

    @pytest.mark.parametrize("mode", ["mapped"])
    @pytest.mark.parametrize("caller", ["locald-a"], indirect=True)
    def test_mapped_with_a_grant_sets_the_specs(self, run: Run) -> None:
        """As newgidmap allows it: exactly those that were asked for, none of the caller's."""
        assert groups_inside(run) == []
        assert groups_inside(run, 5, 7) == ["5", "7"]


def test_files_in_a_volume_are_the_callers(run: Run) -> None:
    """Whatever process.user is in the container, what it writes into a bind is his who called."""
    bundle = run.bundle("sh", "-c", "touch /srv/file && mkdir /srv/inner && touch /srv/inner/file")
    volume = bundle.mkdir("volume")
    bundle.bind(volume, "/srv")
    if run.mode == "mapped":
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        bundle.linux["uidMappings"] = [{"containerID": 1000, "hostID": run.caller.uid, "size": 1}]
        bundle.linux["gidMappings"] = [{"containerID": 1000, "hostID": run.caller.gid, "size": 1}]
    result = run.shim.run(bundle)
    assert (result.status, result.stderr) == (0, b"")
    made = [volume / name for name in ("file", "inner", "inner/file")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(run.caller.uid, run.caller.gid)}


@pytest.mark.parametrize("mode", ["mapped"])
@pytest.mark.parametrize("caller", ["locald-a"], indirect=True)
def test_cleanup_removes_what_containers_left(run: Run) -> None:
    """Files and closed directories of subordinate ids, which their caller alone cannot remove."""
    bundle = run.bundle("sh", "-c", MAKE_LEFT)
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CHOWN)
    (bundle.rootfs / "bin" / "chown").symlink_to("busybox")
    result = run.shim.run(bundle)
    assert (result.status, result.stderr) == (0, b"")
    assert (bundle.rootfs / "left").stat().st_uid not in (0, run.caller.uid)
    result = run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller)
    assert (result.status, result.stderr, os.listdir(bundle.rootfs)) == (0, b"", [])


def test_cleanup_removes_nothing_of_others(run: Run, callers: dict[str, Caller]) -> None:
    """Root's and another user's files in the caller's rootfs stay, and that is said; his own go."""
    bundle = run.bundle("true")
    kept = {}
    for uid in (0, next(each.uid for each in callers.values() if each != run.caller)):
        directory = bundle.rootfs / f"of-{uid}"
        directory.mkdir()
        (directory / "file").write_text(str(uid))
        os.chown(directory, uid, uid)
        kept[directory / "file"] = str(uid)
    result = run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller)
    assert (result.status, result.code) == (125, "cleanup.failed"), result
    assert {path: path.read_text() for path in kept} == kept
    assert sorted(os.listdir(bundle.rootfs)) == sorted({path.parent.name for path in kept})


class Tree:
    """A small rootfs to be removed, made anew for every call, and a directory that must stay."""

    def __init__(self, workshop: Workshop, caller: Caller) -> None:
        self.caller = caller
        self.bundle = Bundle(workshop.directory(caller), caller, {})
        # The caller's own, but not in the bundle: whoever follows a link there can remove it.
        self.trap = make_trap(workshop.directory(caller), caller.uid, 0o755)
        self.roots = make_trap(workshop.directory(caller), 0, 0o755)
        self.arguments = ["cleanup", "--bundle", str(self.bundle.path)]

    def make(self) -> None:
        """Make what is missing of it."""
        for name in ("rootfs/one/two", "rootfs/three"):
            self.bundle.mkdir(name)
        os.chown(self.bundle.rootfs, self.caller.uid, self.caller.gid)
        os.chown(self.bundle.rootfs / "one", self.caller.uid, self.caller.gid)
        for name in ("one/two/file", "three/file"):
            (self.bundle.rootfs / name).touch()
            os.chown(self.bundle.rootfs / name, self.caller.uid, self.caller.gid)

    def kept(self) -> list[list[str]]:
        """Return what lies in the directories that must stay."""
        return [sorted(os.listdir(directory)) for directory in (self.trap, self.roots)]


@pytest.mark.parametrize("target", ["rootfs", "rootfs/one", "rootfs/one/two", "rootfs/three"])
def test_an_exchange_during_cleanup_removes_nothing_else(
    tracer: Tracer, workshop: Workshop, caller: Caller, host: Host, target: str
) -> None:
    """At each boundary of `cleanup`, a name is exchanged for a link out of the bundle."""
    tree = Tree(workshop, caller)
    tree.make()
    boundaries = tracer.run(caller, tree.arguments, record=True).boundaries
    before, kept = host.snapshot(), tree.kept()
    found = []
    for number, boundary in enumerate(boundaries):
        tree.make()
        place = tree.bundle.path / target
        twin = tree.bundle.path / "twin"
        twin.symlink_to((tree.trap, tree.roots)[number % 2])
        os.lchown(twin, caller.uid, caller.gid)
        swap = Swap(boundary, place, twin)
        outcome = tracer.run(caller, tree.arguments, swap)
        figures.COUNT["exchanges at a boundary"] += outcome.hit
        wrong = judge_host(host, before, tree.bundle)
        if outcome.hangs or outcome.left or outcome.status not in (0, 125) or wrong or tree.kept() != kept:
            found.append(f"{swap.describe()}: {outcome.status} {outcome.stderr!r} {wrong} {tree.kept()}")
        if place.is_symlink():
            exchange(place, twin)
        for link in (place, twin):
            if link.is_symlink():
                link.unlink()
        if twin.is_dir():
            remove_tree(twin)
    assert not found, "\n".join(found)


def remove_tree(directory: Path) -> None:
    """Remove a tree of this test's own."""
    for inner, names, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(os.path.join(inner, name))
        for name in names:
            os.rmdir(os.path.join(inner, name))
    directory.rmdir()


def test_a_fault_during_cleanup_removes_nothing_else(
    tracer: Tracer, workshop: Workshop, caller: Caller, host: Host, *, hostile: bool
) -> None:
    """Each call of `cleanup` fails, and it is killed before each: what is not in the rootfs stays."""
    tree = Tree(workshop, caller)
    tree.make()
    boundaries = tracer.run(caller, tree.arguments, record=True).boundaries
    before, kept = host.snapshot(), tree.kept()
    found = []
    for number, boundary in enumerate(boundaries):
        if boundary.call in NEVER_RETURNS:
            continue
        errors = ERRORS if hostile else (ERRORS[number % len(ERRORS)],)
        actions: list[Fail | Kill] = [Fail(boundary, error) for error in errors]
        actions += [Kill(boundary, SHIM), Kill(boundary, boundary.where)]
        for action in actions:
            tree.make()
            outcome = tracer.run(caller, tree.arguments, action)
            fails = isinstance(action, Fail)
            figures.COUNT["faults injected" if fails else "processes killed"] += outcome.hit
            ended = not fails or outcome.status == 0 or outcome.code is not None
            wrong = judge_host(host, before, tree.bundle)
            if outcome.hangs or outcome.left or not ended or wrong or tree.kept() != kept:
                found.append(
                    f"{action.describe()}: {outcome.status} {outcome.stderr!r} {wrong} {tree.kept()}"
                )
    assert not found, "\n".join(found)
