"""Whoever waits for a lock is told who has it, and does not wait for ever."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import inputs, locks, report_files
from conformance.inputs import InputError
from conformance.report import ReportError

HOLDER = (
    "import fcntl, sys; lock = open(sys.argv[1], 'ab'); fcntl.flock(lock, int(sys.argv[2])); "
    "print('has', flush=True); sys.stdin.read()"
)
EXCLUSIVE, SHARED = 2, 1
pytestmark = pytest.mark.spawns


@contextlib.contextmanager
def held(path: Path, how: int = EXCLUSIVE) -> Iterator[int]:
    """Let another process have a lock; its process id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(how)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"has\n"
        yield holder.pid
        holder.kill()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits end soon, and are told at once."""
    monkeypatch.setattr(locks, "LIMIT_S", 0.3)
    monkeypatch.setattr(report_files, "LOCK_LIMIT_S", 0.3)
    monkeypatch.setattr(locks, "TOLD_AFTER_S", 0.1)


def test_the_holder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once while it is waited for, and at the end, with what mends it."""
    path = tmp_path / "lock"
    with held(path) as pid:
        message = f"lock: process {pid} has it for more than 0 s; end that or let it end, then run again$"
        with pytest.raises(locks.Locked, match=message), locks.locked(path):
            pass
        assert capsys.readouterr().err == f"conformance: waiting for {path}, which process {pid} has\n"


def test_all_that_share_it_are_named(tmp_path: Path) -> None:
    """Each of them stands in the way of one who wants it alone, and none in that of one who shares it too."""
    path = tmp_path / "lock"
    with held(path, SHARED) as one, held(path, SHARED) as other:
        with locks.locked(path, shared=True):
            pass
        names = " and ".join(map(str, sorted((one, other))))
        with pytest.raises(locks.Locked, match=f"process {names} has it"), locks.locked(path):
            pass


def test_it_is_had_as_soon_as_it_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is waited for."""
    monkeypatch.setattr(locks, "LIMIT_S", 60.0)
    path = tmp_path / "lock"
    with held(path) as pid:
        monkeypatch.setattr("time.sleep", lambda _: os.kill(pid, 9))
        with locks.locked(path):
            pass


def test_who_wants_it_alone_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that share it by turns never let go at the same moment."""
    monkeypatch.setattr(locks, "LIMIT_S", 10.0)
    path, done = tmp_path / "alone", threading.Event()

    def share() -> None:
        while not done.is_set():
            with locks.in_turn(path, shared=True):
                done.wait(0.03)

    sharers = [threading.Thread(target=share) for _ in range(3)]
    for sharer in sharers:
        sharer.start()
    try:
        with locks.in_turn(path, shared=False):
            pass
    finally:
        done.set()
        for sharer in sharers:
            sharer.join()


def test_a_holder_that_nobody_can_name_is_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not tell, or calls the file otherwise."""
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "absent")
    path, says = tmp_path / "lock", "another process has it"
    with held(path), pytest.raises(locks.Locked, match=says), locks.locked(path):
        pass


def test_made_inputs_that_somebody_keeps_are_an_error(tmp_path: Path) -> None:
    """Of the kit's, in a line."""
    with (
        held(tmp_path / ".lock") as pid,
        pytest.raises(InputError, match=f"{tmp_path}/.lock: process {pid} has it"),
        inputs.locked(tmp_path),
    ):
        pass


def test_a_report_that_somebody_keeps_is_an_error(tmp_path: Path) -> None:
    """By which the run keeps what it judged beside it."""
    with (
        held(tmp_path / ".lock") as pid,
        pytest.raises(ReportError, match=f"{tmp_path}/.lock: process {pid} has it"),
    ):
        report_files.write_profile(tmp_path, {})
