"""`install` under attack: what stands in the shim's place, crashes at each step, upgrades while containers run."""

import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shim.cases.entry import policy
from tests.shim.harness import Call, Caller, Mode, Result, Run, Shim, Workshop
from tests.shim.prefix import NAME, OLD, ROOT, is_shim, put_old

_numbers = itertools.count()
# Every call after which the disk holds something else, in their order, each by its turn.
STEPS = (
    ("write", 1),
    ("fchown", 1),
    ("fsync", 1),
    ("fchmod", 1),
    ("fsync", 2),
    ("renameat2", 1),
    ("fsync", 3),
)


@pytest.fixture(params=["root", "user"])
def prefix(request: pytest.FixtureRequest, place: Path, callers: dict[str, Caller]) -> Iterator[Path]:
    """A bin directory of root's, and one that the user himself can change."""
    path = place / f"prefix-{next(_numbers)}"
    path.mkdir()
    if request.param == "user":
        os.chown(path, callers["locald-a"].uid, callers["locald-a"].gid)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def fresh(prefix: Path, release_program: Path) -> Path:
    """The new shim, as an installer puts it there under another name."""
    path = prefix / "fresh"
    shutil.copyfile(release_program, path)
    path.chmod(0o755)
    return path


@pytest.fixture
def canary(place: Path) -> Iterator[Path]:
    """A file of root's that nobody may change."""
    path = place / "canary"
    path.write_bytes(b"canary")
    path.chmod(0o600)
    yield path
    path.unlink()


def install(fresh: Path, *trace: str) -> Result:
    """Run `install` of the new shim as root, perhaps below strace."""
    wrapper = ("/usr/bin/strace", "-qq", "-o", "/dev/null", *trace) if trace else ()
    return Shim(fresh).call(["install"], ROOT, Call(as_root=True, wrapper=wrapper))


def put_obstacle(kind: str, path: Path, canary: Path) -> None:
    """Put what an attacker, or an accident, put in the shim's place."""
    if kind == "symlink":
        path.symlink_to(canary)
    elif kind == "dangling":
        path.symlink_to(canary.with_name("made-by-root"))
    elif kind == "hardlink":
        os.link(canary, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "file":
        path.write_bytes(b"#!/bin/sh\n")
        path.chmod(0o666)


@pytest.mark.parametrize("kind", ["nothing", "symlink", "dangling", "hardlink", "fifo", "file"])
def test_what_stands_in_the_place_is_replaced_and_not_followed(fresh: Path, canary: Path, kind: str) -> None:
    """The name gets a new inode; what the old one led to is as it was, and nothing waits for a FIFO."""
    target = fresh.with_name(NAME)
    put_obstacle(kind, target, canary)
    result = install(fresh)
    assert result.status == 0, result
    assert is_shim(target, fresh.read_bytes())
    status = canary.stat()
    assert (canary.read_bytes(), stat.S_IMODE(status.st_mode), status.st_nlink) == (b"canary", 0o600, 1)
    assert not canary.with_name("made-by-root").exists()
    # What was started from is no more than it was.
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o755


def test_a_directory_in_the_place_is_left(fresh: Path) -> None:
    """`install.failed`, with nothing left beside it."""
    target = fresh.with_name(NAME)
    (target / "kept").mkdir(parents=True)
    result = install(fresh)
    assert (result.status, result.code) == (125, "install.failed"), result
    assert (target / "kept").is_dir()
    assert sorted(os.listdir(fresh.parent)) == sorted(["fresh", NAME])


def test_a_draft_that_somebody_put_there_is_not_opened(fresh: Path, canary: Path) -> None:
    """A link under the name that a draft will have: refused, or removed where its process is gone."""
    target = fresh.with_name(NAME)
    dead = fresh.with_name(f".{NAME}.4194303")
    dead.symlink_to(canary)
    kept = fresh.with_name(f".{NAME}.x")
    kept.symlink_to(canary)
    assert install(fresh).status == 0
    assert is_shim(target, fresh.read_bytes())
    assert not os.path.lexists(dead)
    assert os.path.lexists(kept)
    assert canary.read_bytes() == b"canary"


@pytest.mark.parametrize(("call", "turn"), STEPS)
def test_a_crash_at_each_step_leaves_a_whole_shim(fresh: Path, call: str, turn: int) -> None:
    """The old one or the new one; a draft is setuid only when it is whole, and the next set-up removes it."""
    target = fresh.with_name(NAME)
    put_old(target)
    new = fresh.read_bytes()
    result = install(fresh, f"--inject={call}:signal=SIGKILL:when={turn}")
    assert result.status not in (0, 125), result
    done = (call, turn) == ("fsync", 3)
    assert is_shim(target, new if done else OLD)
    drafts = [path for path in fresh.parent.iterdir() if path.name.startswith(".")]
    assert len(drafts) == (0 if done else 1)
    for draft in drafts:
        setuid = draft.stat().st_mode & stat.S_ISUID
        assert not setuid or is_shim(draft, new)
        # Not before its content is on the disk.
        assert bool(setuid) == ((call, turn) in STEPS[4:])
    assert install(fresh).status == 0
    assert is_shim(target, new)
    assert sorted(os.listdir(fresh.parent)) == sorted(["fresh", NAME])


@pytest.mark.parametrize(("call", "turn"), STEPS[:-1])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_failure_at_each_step_leaves_nothing(fresh: Path, call: str, turn: int, error: str) -> None:
    """A full or broken disk: one line, the old shim, no draft."""
    target = fresh.with_name(NAME)
    put_old(target)
    result = install(fresh, f"--inject={call}:error={error}:when={turn}")
    assert (result.status, result.code) == (125, "install.failed"), result
    assert is_shim(target, OLD)
    assert sorted(os.listdir(fresh.parent)) == sorted(["fresh", NAME])


def test_an_upgrade_disturbs_no_container(
    place: Path, release_program: Path, workshop: Workshop, mode: Mode, caller: Caller
) -> None:
    """What runs keeps the old inode and ends as it would; its id stays taken; the next run has the new one."""
    prefix = place / f"prefix-{next(_numbers)}"
    prefix.mkdir()
    path = prefix / NAME
    shutil.copyfile(release_program, path)
    path.chmod(0o4755)
    run = Run(Shim(path), workshop, mode, caller)
    before = path.stat().st_ino
    same = Call(id="kept")
    script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with run.shim.running(run.bundle("sh", "-c", script), same) as running:
        assert install(path).status == 0
        assert path.stat().st_ino != before
        assert run("true").status == 0
        run.refused(run.bundle(), "id.in-use", same)
        assert running.descendants()
        os.kill(running.descendants()[0], 15)
        assert running.process.wait(timeout=10) == 7
    assert run("true", call=same).status == 0
    shutil.rmtree(prefix)


def test_what_the_owner_of_the_prefix_can_gain(
    place: Path, release_program: Path, workshop: Workshop, caller: Caller
) -> None:
    """He can keep an old shim by another name, and it is what root installed: until the policy asks for a newer."""
    prefix = place / f"prefix-{next(_numbers)}"
    prefix.mkdir()
    os.chown(prefix, caller.uid, caller.gid)
    path, kept, copy = prefix / NAME, prefix / "kept", prefix / "copy"
    shutil.copyfile(release_program, path)
    path.chmod(0o4755)

    def as_owner() -> str:
        os.rename(path, kept)
        shutil.copyfile(kept, copy)
        copy.chmod(0o4755)
        faults = []
        for attempt in (
            lambda: kept.write_bytes(b"x"),
            lambda: os.chown(copy, 0, 0),
            lambda: kept.chmod(0o4777),
        ):
            try:
                attempt()
            except PermissionError:
                faults.append("denied")
        return " ".join(faults)

    pid = os.fork()
    if pid == 0:
        caller.become()
        os._exit(0 if as_owner() == "denied denied denied" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    run = Run(Shim(kept), workshop, "direct", caller)
    assert run("true").status == 0
    newer = policy(run, f"version = 1\nallow-user = {caller.uid}\nmin-shim = 99.0.0\n")
    run.refused(run.bundle(), "shim.outdated", newer)
    # The copy is setuid to himself, so it has no privilege at all.
    result = Shim(copy).call(["check"], caller)
    assert b'"setuid":false' in result.stdout, result
    Run(Shim(copy), workshop, "direct", caller).refused(run.bundle(), "shim.not-setuid")
    shutil.rmtree(prefix)


def test_install_is_roots(shim: Shim, callers: dict[str, Caller]) -> None:
    """An ordinary user installs nothing, not even by the installed program."""
    for caller in callers.values():
        result = shim.call(["install"], caller)
        assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "install.not-root", 1), (
            result
        )
