"""Each system call of `install` fails in turn, and it is killed before each: there is a whole shim, the old or the new.

A fault ends in a refusal with one line, or the new shim is in its place as without it. Never is there a set-user-id
file that is not whole, that another can write, or that has a second name; a draft is left by a kill alone.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.faults import NEVER_RETURNS, is_harmless_to_install
from tests.shim.harness import Caller, Shim
from tests.shim.oracle import Host
from tests.shim.prefix import FRESH, NAME, OLD, ROOT, find_bad, is_shim, make_prefix, put_old
from tests.shim.test_faults import FAULT_LIMIT_MS, SHOWN, faults, processes_in
from tests.shim.tracer import SHIM, Action, Fail, Kill, Outcome, Tracer

# Of a process that cannot be: above the highest pid.
DRAFT_OF_THE_DEAD = f".{NAME}.4194304"


class Scene:
    """A prefix that is made anew for each run."""

    def __init__(self, path: Path, program: Path, owner: Caller, *, draft: bool) -> None:
        self.path = path
        self.new = program.read_bytes()
        self._owner = owner
        self._draft = draft

    def make(self) -> None:
        """Put an old shim, a new one, and perhaps a draft that an installation left when it was killed."""
        make_prefix(self.path, self.new, self._owner)
        if self._draft:
            put_old(self.path / DRAFT_OF_THE_DEAD)

    def find_wrong(self, *, killed: bool) -> str:
        """Return what is wrong with the prefix; nothing if nothing is."""
        wrong = find_bad(self.path, self.new)
        if not is_shim(self.path / NAME, OLD) and not self.is_installed:
            wrong.append("there is no shim")
        left = sorted(set(os.listdir(self.path)) - {FRESH, NAME, DRAFT_OF_THE_DEAD})
        if left and not killed:
            wrong.append(f"left behind: {left}")
        return "; ".join(wrong)

    @property
    def is_installed(self) -> bool:
        """Whether the new shim is in its place."""
        return is_shim(self.path / NAME, self.new)


def judge(action: Action, outcome: Outcome, *, installed: bool) -> str:
    """Return what is wrong with how a run ended; nothing if nothing is."""
    if outcome.hangs or outcome.left:
        return f"hangs: {outcome.hangs}, processes left: {outcome.left}"
    told = f"status {outcome.status}, {outcome.stdout!r}, {outcome.stderr!r}, installed: {installed}"
    if isinstance(action, Kill):
        return "" if outcome.status == 128 + 9 else told
    if outcome.status == 125 and outcome.code is not None and not outcome.stdout:
        return ""
    (at,) = outcome.boundaries
    if (outcome.status, outcome.stderr, installed) == (0, "", True):
        return "" if is_harmless_to_install(at) else f"at {at}: not on the reviewed list, {told}"
    return f"at {at}: {told}"


@pytest.fixture(params=["root", "user"])
def scene(
    request: pytest.FixtureRequest, place: Path, release_program: Path, callers: dict[str, Caller]
) -> Iterator[Scene]:
    """A prefix of root's with such a draft in it, and one that a user himself can change."""
    mine = request.param == "root"
    owner = ROOT if mine else callers["locald-a"]
    made = Scene(place / "faulty", release_program, owner, draft=mine)
    yield made
    shutil.rmtree(made.path)


def test_a_fault_during_install_leaves_a_whole_shim(
    scene: Scene, start_tracer: Callable[[Shim], Tracer], host: Host
) -> None:
    """Every error for every call, in `tests` too: there are few of them."""
    tracer = start_tracer(Shim(scene.path / FRESH))
    scene.make()
    clean = tracer.run(ROOT, ["install"], record=True)
    assert (clean.status, clean.stderr, clean.left) == (0, "", 0), clean
    assert is_shim(scene.path / NAME, scene.new)
    assert sorted(os.listdir(scene.path)) == sorted([FRESH, NAME])
    boundaries = [boundary for boundary in clean.boundaries if boundary.call not in NEVER_RETURNS]
    assert {boundary.where for boundary in boundaries} == {SHIM}
    before = host.snapshot()
    actions: list[Action] = [*faults(tuple(boundaries), every=True)]
    actions += [Kill(boundary, SHIM) for boundary in boundaries]
    found = []
    for action in actions:
        scene.make()
        outcome = tracer.run(ROOT, ["install"], action, limit_ms=FAULT_LIMIT_MS)
        assert outcome.hit, action
        figures.COUNT["faults injected" if isinstance(action, Fail) else "processes killed"] += 1
        changed = host.differences(before, host.snapshot(processes=False) | processes_in(before))
        wrong = judge(action, outcome, installed=scene.is_installed)
        wrong = wrong or scene.find_wrong(killed=isinstance(action, Kill)) or "; ".join(changed)
        if wrong:
            found.append(f"{action}: {wrong}")
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])
    assert host.differences(before, host.snapshot()) == []
