"""The caller exchanges what the shim is about to use, by luck and often: nothing of root's appears.

renameat2(RENAME_EXCHANGE) swaps two names in one step, so a path is at every instant either the directory
that was checked or the link that should not be followed (attacks 15 and 16).
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.shim import figures
from tests.shim.harness import Bundle, Call, Caller, Mode, Run, Shim, Workshop, read_owners

# A round takes some milliseconds, on a busy machine some dozens.
ROUND_MS = 400
# What the shim finds by name: the bundle and what it opens in it, then each place in the root that it mounts on.
FOUND = ("bundle", "bundle/config.json", "bundle/rootfs", "bundle/source")
MOUNTED_ON = ("dev", "proc", "sys", "run", "srv", "srv/made")
TARGETS = (*FOUND, *(f"bundle/rootfs/{name}" for name in MOUNTED_ON))
# The user without subordinate ids gets another map; what he can exchange is the same.
RACES = [("locald-a", target) for target in TARGETS] + [("locald-b", "bundle/rootfs/dev")]
OTHER = ".other"
# In each line of mountinfo, and in nothing else that is read.
SEPARATOR = " - "
MARK = "of the source"


def make_bundle(run: Run, nest: Path) -> Bundle:
    """Return a bundle whose own name is the caller's to move too; its payload tells what is bound, and all mounts."""
    made = run.bundle("cat", "/srv/made/here/mark", "/proc/self/mountinfo")
    bundle = Bundle(nest / "bundle", run.caller, made.config)
    os.rename(made.path, bundle.path)
    mark = bundle.mkdir("source") / "mark"
    mark.write_text(f"{MARK}\n")
    os.chown(mark, run.caller.uid, run.caller.gid)
    bundle.mkdir("rootfs/srv/made")
    bundle.bind(bundle.path / "source", "/srv/made/here")
    bundle.config["mounts"].append({"destination": "/run", "type": "tmpfs", "source": "tmpfs"})
    bundle.write()
    return bundle


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
    """With links in the place of a mount's target, of what is bound, of config.json, of the rootfs or the bundle."""
    run = Run(shim, workshop, mode, callers[user])
    nest = workshop.directory(run.caller)
    bundle = make_bundle(run, nest)
    # What the links lead to, with every name that root might make something under.
    canary = run.workshop.directory(run.caller)
    for name in ("dev", "proc", "sys", "shm", "pts", "made", "here"):
        (canary / name).mkdir()
        os.chown(canary / name, run.caller.uid, run.caller.gid)
    place = nest / target
    other = place.with_name(f"{place.name}{OTHER}")
    guarded = make_guarded(workshop.root / place.name)
    # What is read or bound leads to what the caller may not even find.
    hidden = {"bundle/config.json": guarded / "secret", "bundle/source": guarded / "hidden" / "below"}
    other.symlink_to(hidden.get(target, canary))
    os.lchown(other, run.caller.uid, run.caller.gid)
    expected = read_points(run.shim.call(run.shim.arguments(bundle, Call()), run.caller).lines())
    assert expected >= {"/", "/dev", "/proc", "/sys", "/run", "/srv/made/here"}
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
    told: set[str] = set()
    points: set[frozenset[str]] = set()
    try:
        for _ in range(rounds):
            result = run.shim.call(run.shim.arguments(bundle, Call()), run.caller, Call(stdin=stdin))
            statuses[result.status, result.code] = statuses.get((result.status, result.code), 0) + 1
            lines = result.text.splitlines()
            told.update(line for line in lines if SEPARATOR not in line)
            points.add(read_points(lines))
    finally:
        swapping.kill()
        swapping.communicate()
        os.close(stdin)
    figures.COUNT["rounds of random races"] += rounds
    # 1: an exchange of /srv or /proc that comes after the mounts takes them out of the payload's sight.
    assert {status for status, _ in statuses} <= {0, 1, 125, 127}, statuses
    assert statuses.get((0, None), 0) > 0, f"no round got through, so nothing was raced: {statuses}"
    assert told <= {MARK}
    # Each mount is where it was meant to be, or there is no telling.
    assert points <= {expected, frozenset()}, points
    for tree in (nest, canary):
        assert read_owners(tree) == {}
    assert snapshot(guarded) == before


def read_points(lines: list[str]) -> frozenset[str]:
    """Return where the mounts are that /proc/self/mountinfo tells of, by the names from before an exchange."""
    return frozenset(line.split()[4].replace(OTHER, "") for line in lines if SEPARATOR in line)


def make_guarded(path: Path) -> Path:
    """Return a directory that is root's, and whose content only root may read or change."""
    if not path.exists():
        (path / "hidden" / "below").mkdir(parents=True)
        (path / "hidden" / "below" / "mark").write_text("not for callers\n")
        (path / "hidden").chmod(0o700)
        (path / "secret").write_text('{"not": "for callers"}')
        (path / "secret").chmod(0o600)
    return path


def snapshot(guarded: Path) -> tuple[object, ...]:
    """Return what a shim that went astray would have changed there; oracle.py looks at the rest of the host."""
    entries = [(entry.name, entry.stat().st_mtime_ns, entry.stat().st_mode) for entry in guarded.iterdir()]
    return (entries, guarded.stat().st_mtime_ns)
