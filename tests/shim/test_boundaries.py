"""The caller exchanges a name just before each system call of the shim in turn: by plan, not by luck.

The shim is stopped at a boundary; a process that is wholly the caller swaps one name for something hostile; the
shim goes on. What comes of it is refused, or a container whose mounts are those that it has without the exchange.
Between two calls that look up no name an exchange is the same as just before the next one that does; `hostile` tries
every boundary nevertheless.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.harness import Bundle, Caller, Mode, Shim, Workshop
from tests.shim.kernel import exchange
from tests.shim.oracle import Host, Snapshot, find_foreign
from tests.shim.settings import Setting, report_lines
from tests.shim.test_faults import processes_in
from tests.shim.tracer import Boundary, Outcome, Surroundings, Swap, Tracer

# Where a name, or what a descriptor was found by, is looked at.
LOOKING = frozenset(
    """
    openat2 openat open_tree move_mount mkdirat mount pivot_root chdir fchdir mount_setattr newfstatat fstatfs execve
    """.split()  # noqa: SIM905  # a list of words is read as words
)
TARGETS = (
    "bundle",
    "bundle/config.json",
    "bundle/rootfs",
    "bundle/source",
    "bundle/rootfs/dev",
    "bundle/rootfs/proc",
    "bundle/rootfs/sys",
    "bundle/rootfs/srv",
    "bundle/rootfs/srv/made",
    "bundle/rootfs/run",
)
# The user without subordinate ids gets another map; what he can exchange is the same.
EXCHANGES = [("locald-a", target) for target in TARGETS] + [
    ("locald-b", target) for target in ("bundle/rootfs/dev", "bundle/source")
]
KINDS = ("root-public", "root-private", "theirs", "fifo", "inside")
PRIVATE = ("root-private", "theirs")
# What a careless look-up would find below a link, so that it does not end there.
NAMES = ("dev", "proc", "sys", "srv", "made", "run", "rootfs", "source", "pts", "shm", "mqueue")
LIMIT_MS = 5_000
ANYWHERE = Surroundings()
SHOWN = 25


@dataclass(frozen=True)
class Scene:
    """A bundle whose every name the caller may exchange, and what he exchanges them for."""

    nest: Path
    bundle: Bundle
    traps: dict[str, Path]
    around: Surroundings = ANYWHERE

    @property
    def arguments(self) -> list[str]:
        """The command line, the same each time: nothing of a run is left for the next one."""
        return ["bundle", "run", "--bundle", str(self.bundle.path), "--id", "exchanged"]

    def record(self, tracer: Tracer) -> Outcome:
        """Run it as it is, and once before: the first run of a caller makes his state directory."""
        tracer.run(self.bundle.caller, self.arguments, around=self.around)
        clean = tracer.run(self.bundle.caller, self.arguments, record=True, around=self.around)
        assert (clean.status, clean.stderr) == (0, ""), clean
        return clean

    def lay(self, target: str, kind: str) -> tuple[Path, Path]:
        """Put the hostile twin of `target` beside it; both paths."""
        place = self.nest / target
        twin = place.with_name(f"{place.name}.twin")
        twin.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(twin)
        elif kind == "inside":
            twin.symlink_to("home")
        else:
            # In a directory that the caller may not pass, what he must not get at either.
            trap = self.traps[kind]
            twin.symlink_to(trap / place.name if kind in PRIVATE and (trap / place.name).exists() else trap)
        os.lchown(twin, self.bundle.caller.uid, self.bundle.caller.gid)
        return place, twin


def make_scene(
    setting: Setting,
    workshop: Workshop,
    callers: dict[str, Caller],
    around: Surroundings = ANYWHERE,
) -> Scene:
    """Make the bundle in a directory of the caller's, and the traps outside."""
    caller = callers[setting.user]
    (other,) = (each for each in callers.values() if each != caller)
    nest = workshop.directory(caller)
    made = setting.bundle(workshop, caller, "probe", "report", "/srv/made/mark")
    bundle = Bundle(nest / "bundle", caller, made.config)
    os.rename(made.path, bundle.path)
    for mount in bundle.config["mounts"]:
        if mount["destination"] == "/srv/made":
            mount["source"] = str(bundle.path / "source")
    bundle.mkdir("rootfs/srv/made")
    bundle.write()
    traps = {
        "root-public": make_trap(workshop.directory(caller), 0, 0o755),
        "root-private": make_trap(workshop.directory(caller), 0, 0o700),
        "theirs": make_trap(workshop.directory(caller), other.uid, 0o700),
    }
    return Scene(nest, bundle, traps, around)


def make_trap(path: Path, uid: int, mode: int) -> Path:
    """Make a directory that is not the caller's, with names in it."""
    for name in NAMES:
        (path / name).mkdir()
        os.chown(path / name, uid, uid)
    for name in ("config.json", "mark"):
        (path / name).write_text('{"of": "somebody else"}')
        os.chown(path / name, uid, uid)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def read_traps(scene: Scene) -> Snapshot:
    """Return what lies in the traps, with what tells whether it was changed."""
    found: Snapshot = {}
    for trap in scene.traps.values():
        for directory, names, files in os.walk(trap):
            for name in (".", *names, *files):
                status = os.lstat(os.path.join(directory, name))
                times = (status.st_mtime_ns, status.st_ctime_ns)
                found[os.path.join(directory, name)] = (status.st_mode, status.st_uid, *times)
    return found


def mounts(text: str, target: str) -> list[str]:
    """Return the mounts that a payload reported, by the names they had before the exchange.

    The name of a directory that something is mounted on may be exchanged from another mount namespace: the
    mount then goes with it, which harms nobody but its maker.
    """
    name = target.removeprefix("bundle/rootfs")
    lines = (line for line in report_lines(text) if "/mountinfo: " in line and "errno" not in line)
    # The exchange of a whole bundle or rootfs shows in where its mounts come from, too.
    return sorted(line.replace(f"{name}.twin", name).replace(f"{target}.twin", target) for line in lines)


def judge(scene: Scene, target: str, kind: str, outcome: Outcome, expected: list[str]) -> str:
    """Return what is wrong with how a run with an exchange ended; nothing if nothing is."""
    if outcome.hangs or outcome.left:
        return f"hangs: {outcome.hangs}, processes left: {outcome.left}"
    refused = outcome.status in (125, 126, 127) and outcome.code is not None
    if not outcome.stdout:
        return "" if refused else f"status {outcome.status}, {outcome.stderr!r}"
    found = mounts(outcome.stdout, target)
    if kind == "root-public":
        # Everybody may read it, so he may bind it, or what is in it.
        trap, source = scene.traps[kind], f"{scene.bundle.path}/source /srv/made "
        found = [line.replace(f"{trap} /srv/made ", source) for line in found]
        found = sorted(line.replace(f"{trap}/source /srv/made ", source) for line in found)
    if target == "bundle/rootfs/proc" and not found:
        # His mount of it went away with the name: he made himself a container that cannot tell.
        return ""
    new = [line for line in found if line not in expected]
    gone = [line for line in expected if line not in found]
    return f"mounts: new {new[:3]}, gone {gone[:3]}" if new or gone else ""


def swaps(boundaries: Sequence[Boundary], *, every: bool) -> Iterator[tuple[Boundary, str]]:
    """Give the boundaries to stop at and what to put there: in turn, and everything where names are looked up."""
    number = 0
    for boundary in boundaries:
        looks = boundary.call in LOOKING
        if every or looks:
            number += 1
            for kind in KINDS if every and looks else (KINDS[number % len(KINDS)],):
                yield boundary, kind


def every_boundary(boundaries: tuple[Boundary, ...]) -> Sequence[Boundary]:
    """Leave none out."""
    return boundaries


def try_exchanges(
    scene: Scene,
    target: str,
    tracer: Tracer,
    host: Host,
    *,
    every: bool,
    choose: Callable[[tuple[Boundary, ...]], Sequence[Boundary]] = every_boundary,
) -> list[str]:
    """Exchange `target` at every boundary that is chosen; return the findings."""
    caller = scene.bundle.caller
    clean = scene.record(tracer)
    expected = mounts(clean.stdout, target)
    before, traps = host.snapshot(), read_traps(scene)
    found = []
    for boundary, kind in swaps(choose(clean.boundaries), every=every):
        place, twin = scene.lay(target, kind)
        swap = Swap(boundary, place, twin)
        outcome = tracer.run(caller, scene.arguments, swap, limit_ms=LIMIT_MS, around=scene.around)
        if place.is_symlink() or place.is_fifo():
            exchange(place, twin)
        figures.COUNT["exchanges at a boundary"] += outcome.hit
        changed = host.differences(before, host.snapshot(processes=False) | processes_in(before))
        if read_traps(scene) != traps:
            changed.append("a trap was changed")
        wrong = "; ".join([*changed, *find_foreign([scene.nest], caller.uid)])
        wrong = wrong or judge(scene, target, kind, outcome, expected)
        twin.unlink()
        if wrong:
            found.append(f"{kind}: {swap.describe()}: {wrong}")
    return found


@pytest.mark.parametrize(("user", "target"), EXCHANGES)
def test_an_exchange_at_any_boundary_gains_nothing(
    user: str,
    target: str,
    mode: Mode,
    tracer: Tracer,
    workshop: Workshop,
    callers: dict[str, Caller],
    host: Host,
    *,
    hostile: bool,
) -> None:
    """Bundle, config.json, rootfs, bind source and every mount target, for links of five kinds and a FIFO."""
    scene = make_scene(Setting(mode, user), workshop, callers)
    found = try_exchanges(scene, target, tracer, host, every=hostile)
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ("16", "bundle/rootfs/dev"),
        ("16", "bundle/rootfs/srv"),
        ("23-resolve", "bundle/rootfs/run"),
        ("21", "bundle/source"),
    ],
)
def test_the_exchange_notices_a_mutant(
    rule: str,
    target: str,
    mode: Mode,
    mutant: Shim,
    start_tracer: Callable[[Shim], Tracer],
    workshop: Workshop,
    callers: dict[str, Caller],
    host: Host,
) -> None:
    """With a rule on descriptors switched off, some boundary is one where the exchange gains something."""
    scene = make_scene(Setting(mode, "locald-a"), workshop, callers)
    for disabled, red in ((mutant, False), (mutant.without(rule), True)):
        found = try_exchanges(scene, target, start_tracer(disabled), host, every=False)
        assert bool(found) == red, found[:SHOWN]
