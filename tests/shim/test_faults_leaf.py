"""The same faults with a leaf: each call fails, each process is killed, and no cgroup of the container's is left.

While its caller's shim lives the leaf goes with the container; after a kill, or a fault of the removal itself, it goes
at his next call. Where this machine has no controller for cgroup v2, the mutant build makes leaves all the same
(delegation.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.delegation import LIMITS, Place, able, delegated, has_controller
from tests.shim.harness import Bundle, Caller, Run, Shim, Workshop
from tests.shim.oracle import Host
from tests.shim.settings import Setting, report_lines
from tests.shim.test_faults import (
    FAULT_LIMIT_MS,
    REPORT,
    SHOWN,
    SLEEP,
    SLEEPING_MS,
    faults,
    judge,
    judge_host,
    judge_kill,
    kills,
)
from tests.shim.tracer import Action, Fail, Kill, Outcome, Surroundings, Tracer

LIMIT_FILE = "pids.max"
FEW = tuple(Setting(mode) for mode in ("mapped", "direct"))
ALL = tuple(
    Setting(setting.mode, user, **flags)
    for setting in FEW
    for user in ("locald-a", "locald-b")
    for flags in ({}, {"init": True}, {"terminal": True})
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A few settings in `tests`, every one in `hostile`."""
    settings = ALL if metafunc.config.getoption("--hostile", default=False) else FEW
    metafunc.parametrize("setting", settings, ids=str)


@dataclass(frozen=True)
class Scene:
    """A container with limits, started from a delegated cgroup below a tracer."""

    setting: Setting
    bundle: Bundle
    place: Place
    tracer: Tracer

    def run(self, action: Action | None = None, *, record: bool = False, limit_ms: int) -> Outcome:
        """Run it, perhaps with a fault."""
        around = Surroundings(cgroup=self.place.own)
        arguments = self.setting.arguments(self.bundle)
        caller = self.bundle.caller
        return self.tracer.run(caller, arguments, action, record=record, limit_ms=limit_ms, around=around)

    def tidy(self) -> str:
        """Make the caller's next call; return what is left all the same."""
        outcome = self.tracer.run(self.bundle.caller, ["cleanup"])
        if (outcome.status, outcome.stderr) != (0, ""):
            return f"cleanup: {outcome.status} {outcome.stderr!r}"
        left = self.place.leaves()
        for name in left:  # not held against the next one
            (self.place.top / name).rmdir()
        return f"cgroups left: {left}" if left else ""


@pytest.fixture
def scene(
    setting: Setting,
    request: pytest.FixtureRequest,
    mutant: Shim,
    start_tracer: Callable[[Shim], Tracer],
    workshop: Workshop,
    callers: dict[str, Caller],
) -> Iterator[Scene]:
    """A place that is the caller's, and a bundle that limits its tasks."""
    run = able(Run(mutant, workshop, setting.mode, callers[setting.user]))
    assert run is not None
    args = REPORT if "failed" in request.node.name else SLEEP
    bundle = setting.bundle(workshop, run.caller, *args)
    bundle.linux["resources"] = LIMITS
    bundle.write()
    with delegated(run) as place:
        yield Scene(setting, bundle, place, start_tracer(run.shim))


def try_all(
    scene: Scene,
    actions: Iterator[Fail] | Iterator[Kill],
    judged: Callable[[Fail | Kill, Outcome], str],
    host: Host,
    *,
    limit_ms: int,
) -> None:
    """Try each fault; assert that none has left anything, or made more of the container."""
    before = host.snapshot()
    found, kept = [], 0
    for action in actions:
        outcome = scene.run(action, limit_ms=limit_ms)
        figures.COUNT["faults injected" if isinstance(action, Fail) else "processes killed"] += outcome.hit
        kept += bool(scene.place.leaves())
        wrong = judged(action, outcome) or scene.tidy() or judge_host(host, before, scene.bundle)
        if wrong:
            found.append(f"{action.describe()}: {wrong}")
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])
    assert kept > 0, "no fault has left a leaf, so nothing shows that the next call removes it"
    assert host.differences(before, host.snapshot()) == []


def test_a_failed_call_leaves_no_leaf(scene: Scene, host: Host, *, hostile: bool) -> None:
    """No call can fail so that a limit is lost unsaid, or a cgroup stays."""
    scene.run(limit_ms=FAULT_LIMIT_MS)
    clean = scene.run(record=True, limit_ms=FAULT_LIMIT_MS)
    assert (clean.status, clean.stderr, clean.left, scene.place.leaves()) == (0, "", 0, []), clean
    expected = list(report_lines(clean.stdout))
    assert any("/proc/self/cgroup" in line and line.endswith("0::/") for line in expected), expected[:SHOWN]

    def judged(action: Fail | Kill, outcome: Outcome) -> str:
        assert isinstance(action, Fail)
        # Without a controller there is no such file, and the mutant build goes on without it.
        if action.at.text == LIMIT_FILE and not has_controller():
            return ""
        return judge(action, outcome, expected)

    try_all(scene, faults(clean.boundaries, every=hostile), judged, host, limit_ms=FAULT_LIMIT_MS)


def test_a_killed_process_leaves_no_leaf(scene: Scene, host: Host, *, hostile: bool) -> None:
    """SIGKILL of the supervisor, or of the child, before each call of either, the making of the leaf included."""
    scene.run(limit_ms=SLEEPING_MS)
    scene.tidy()
    boundaries = scene.run(record=True, limit_ms=SLEEPING_MS).boundaries
    scene.tidy()
    leaf = [boundary for boundary in boundaries if Path(boundary.text).name.endswith(".leaf")]
    assert {boundary.call for boundary in leaf} >= {"mkdirat", "openat2"}, leaf

    def judged(action: Fail | Kill, outcome: Outcome) -> str:
        assert isinstance(action, Kill)
        return judge_kill(action, outcome)

    try_all(scene, kills(boundaries, every=hostile), judged, host, limit_ms=SLEEPING_MS)
