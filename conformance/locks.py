"""Wait for a lock between processes, until a deadline, and say who has it.

Each wait is for a file that another run, or another worker of the same run, holds with flock(2).
"""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import vms

LIMIT_S: Final = 3600.0
"""Of what is waited for, a build of the Debian image and its registry takes longest: some minutes on a slow machine."""

TOLD_AFTER_S: Final = 5.0
POLL_S: Final = 0.05
LOCKS: Final = Path("/proc/locks")


class Locked(Exception):
    """Somebody else has the lock and did not let go; the message says who, and what to do."""


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, limit_s: float | None = None) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made if need be.

    Args:
        path: Its content is left alone.
        shared: Beside others that share it.
        limit_s: How long to wait; LIMIT_S by default.

    Raises:
        Locked: It could not be had in that time.
    """
    deadline = vms.Deadline.after(LIMIT_S if limit_s is None else limit_s)
    with path.open("ab") as lock:
        _take(lock, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, deadline)
        yield


@contextlib.contextmanager
def in_turn(path: Path, *, shared: bool) -> Iterator[None]:
    """As `locked`, for a lock that is mostly shared: who waits for it alone gets it before those who come later.

    Without that, some who share it would pass it on among them for as long as they have work.
    """
    with contextlib.ExitStack() as held:
        with locked(path.with_suffix(".gate")):
            held.enter_context(locked(path, shared=shared))
        yield


def _take(lock: IO[bytes], path: Path, how: int, deadline: vms.Deadline) -> None:
    begun, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            waited_s = time.monotonic() - begun
            if deadline.passed:
                holder = describe_holders(lock)
                raise Locked(
                    f"{path}: {holder} has it for more than {waited_s:.0f} s; end that or let it end, then run again"
                ) from None
            if not told and waited_s >= TOLD_AFTER_S:
                told = True
                sys.stderr.write(f"conformance: waiting for {path}, which {describe_holders(lock)} has\n")
                sys.stderr.flush()
            time.sleep(POLL_S)
        else:
            return


def describe_holders(lock: IO[bytes]) -> str:
    """Return who has the lock of an open file, by process id; proc_locks(5).

    The kernel's word, and not one that holders would leave in the file: several may share it. Where a file system has
    other numbers for the kernel than for stat(2), nobody is named.
    """
    status = os.fstat(lock.fileno())
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = [line.split() for line in LOCKS.read_text("ascii").splitlines()]
    except OSError:
        lines = []
    # The line of who waits has an arrow before its kind; a process of another pid namespace is called 0.
    pids = {words[4] for words in lines if words[1] == "FLOCK" and words[5] == name} - {"0"}
    return f"process {' and '.join(sorted(pids, key=int))}" if pids else "another process"
