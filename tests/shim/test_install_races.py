"""The owner of the prefix exchanges a name just before each system call of `install`, which root runs there.

He owns the directory, so any name in it is his to move; what root wrote must stay what root wrote. After each run every
set-user-id file anywhere below is a whole shim of root's with one name, and what lies outside is as it was.
"""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.faults import NEVER_RETURNS
from tests.shim.harness import Caller, Shim
from tests.shim.oracle import Host
from tests.shim.prefix import FRESH, NAME, ROOT, find_bad, make_prefix
from tests.shim.test_faults import processes_in
from tests.shim.tracer import SHIM, Outcome, Swap, Tracer

# The directory itself; the shim in its place; the draft, whose name ends with the pid of the shim that writes it.
TARGETS = ("prefix", f"prefix/{NAME}", f"prefix/.{NAME}.@")
KINDS = ("link", "file", "hardlink")
SHOWN = 25


class Scene:
    """A prefix of the user's with an old shim and a new one, made anew for each run, and a canary of root's outside."""

    def __init__(self, place: Path, program: Path, owner: Caller) -> None:
        self.top = place / "contested"
        self.canary = place / "contested-canary"
        self._new = program.read_bytes()
        self._owner = owner
        self.canary.write_bytes(b"canary")
        self.canary.chmod(0o600)

    @property
    def fresh(self) -> Path:
        """The new shim, as an installer puts it there under another name."""
        return self.top / "prefix" / FRESH

    def make(self, target: str, kind: str) -> tuple[Path, Path]:
        """Make all of it; return what is exchanged for what."""
        shutil.rmtree(self.top, ignore_errors=True)
        make_prefix(self.fresh.parent, self._new, self._owner)
        twin = self.top / "twin"
        if kind == "hardlink":
            # Of his own file: fs.protected_hardlinks keeps him from linking to root's.
            (self.top / "his").write_bytes(b"his")
            os.chown(self.top / "his", self._owner.uid, self._owner.gid)
            os.link(self.top / "his", twin)
        elif kind == "file":
            twin.write_bytes(b"#!/bin/sh\n")
        else:
            twin.symlink_to(self.canary.parent if target == "prefix" else self.canary)
        for path in (self.top, twin):
            os.lchown(path, self._owner.uid, self._owner.gid)
        return self.top / target, twin

    def find_wrong(self, outcome: Outcome) -> str:
        """Return what an exchange has gained; nothing if nothing."""
        if outcome.hangs or outcome.left or not (outcome.status == 0 or outcome.code is not None):
            return f"hangs: {outcome.hangs}, left: {outcome.left}, {outcome.status} {outcome.stderr!r}"
        status = self.canary.stat()
        if (self.canary.read_bytes(), stat.S_IMODE(status.st_mode), status.st_nlink) != (b"canary", 0o600, 1):
            return "the canary was changed"
        return "; ".join(find_bad(self.top, self._new))


@pytest.mark.parametrize("target", TARGETS)
def test_an_exchange_during_install_gains_nothing(
    target: str,
    place: Path,
    release_program: Path,
    start_tracer: Callable[[Shim], Tracer],
    callers: dict[str, Caller],
    host: Host,
) -> None:
    """Links to root's file, a file and a hard link of his own, for the prefix, the shim and its draft."""
    scene = Scene(place, release_program, callers["locald-a"])
    tracer = start_tracer(Shim(scene.fresh))
    scene.make(target, KINDS[0])
    clean = tracer.run(ROOT, ["install"], record=True)
    assert (clean.status, clean.stderr) == (0, ""), clean
    before = host.snapshot()
    found, hits = [], 0
    for boundary in clean.boundaries:
        if boundary.where != SHIM or boundary.call in NEVER_RETURNS:
            continue
        for kind in KINDS:
            swap = Swap(boundary, *scene.make(target, kind))
            outcome = tracer.run(ROOT, ["install"], swap)
            hits += outcome.hit
            changed = host.differences(before, host.snapshot(processes=False) | processes_in(before))
            wrong = scene.find_wrong(outcome) or "; ".join(changed)
            if wrong:
                found.append(f"{kind}: {swap.describe()}: {wrong}")
    figures.COUNT["exchanges at a boundary"] += hits
    shutil.rmtree(scene.top)
    scene.canary.unlink()
    assert hits > 0, "nothing was exchanged"
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])
