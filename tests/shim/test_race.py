"""The caller exchanges what the shim is about to use, by luck and often: nothing of root's appears.

renameat2(RENAME_EXCHANGE) swaps two names in one step, so a path is at every instant either the directory
that was checked or the link that should not be followed (attacks 15 and 16).
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.harness import Call, Caller, Mode, Run, Shim, Workshop, read_owners

# A round takes some milliseconds, on a busy machine some dozens.
ROUND_MS = 400


TARGETS = ("dev", "proc", "srv", "config.json", "rootfs")
# The user without subordinate ids gets another map; what he can exchange is the same.
RACES = [("locald-a", target) for target in TARGETS] + [("locald-b", "dev")]


@pytest.mark.parametrize(("user", "target"), RACES)
def test_exchanged_names_make_nothing_of_roots(
    shim: Shim,
    workshop: Workshop,
    callers: dict[str, Caller],
    mode: Mode,
    user: str,
    target: str,
    rounds: int,
) -> None:
    """With links in the place of a mount's target, of config.json or of the whole rootfs."""
    run = Run(shim, workshop, mode, callers[user])
    bundle = run.bundle("true")
    # What the links lead to, with every name that root might make something under.
    canary = run.workshop.directory(run.caller)
    for name in ("dev", "proc", "sys", "shm", "pts"):
        (canary / name).mkdir()
        os.chown(canary / name, run.caller.uid, run.caller.gid)
    place = (bundle.rootfs if target in ("dev", "proc", "srv") else bundle.path) / target
    bundle.bind(bundle.mkdir("source"), "/srv/made/here")
    bundle.write()
    other = place.with_name(f"{place.name}.other")
    guarded = make_guarded(workshop.root / place.name)
    other.symlink_to(canary if target != "config.json" else guarded / "secret")
    os.lchown(other, run.caller.uid, run.caller.gid)
    before = snapshot(guarded)
    stdin = os.open(guarded, os.O_RDONLY | os.O_DIRECTORY)
    swapping = subprocess.Popen(
        [str(bundle.rootfs / "bin" / "probe"), "exchange", str(place), str(other), str(ROUND_MS * rounds)],
        user=run.caller.uid,
        group=run.caller.gid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    statuses: dict[tuple[int, str | None], int] = {}
    try:
        for _ in range(rounds):
            result = run.shim.call(run.shim.arguments(bundle, Call()), run.caller, Call(stdin=stdin))
            statuses[result.status, result.code] = statuses.get((result.status, result.code), 0) + 1
    finally:
        swapping.kill()
        swapping.communicate()
        os.close(stdin)
    figures.COUNT["rounds of random races"] += rounds
    assert {status for status, _ in statuses} <= {0, 125, 127}, statuses
    assert statuses.get((0, None), 0) > 0, f"no round got through, so nothing was raced: {statuses}"
    for tree in (bundle.path, canary):
        assert read_owners(tree) == {}
    assert snapshot(guarded) == before


def make_guarded(path: Path) -> Path:
    """Return a directory that is root's, and whose content only root may read or change."""
    if not path.exists():
        path.mkdir()
        (path / "secret").write_text('{"not": "for callers"}')
        (path / "secret").chmod(0o600)
    return path


def snapshot(guarded: Path) -> tuple[object, ...]:
    """Return what a shim that went astray would have changed there; oracle.py looks at the rest of the host."""
    entries = [(entry.name, entry.stat().st_mtime_ns, entry.stat().st_mode) for entry in guarded.iterdir()]
    return (entries, guarded.stat().st_mtime_ns)
