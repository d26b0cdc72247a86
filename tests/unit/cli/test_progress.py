"""The line of a pull stands on the terminal of whoever waits for it, and takes nobody else's line away."""

import os
import signal
import sys
from collections.abc import Callable

import pytest

from locald.cli import progress
from locald.cli.progress import make_progress
from locald.oci import Digest

DIGEST = Digest.parse("sha256:" + "0" * 64)
SIZE_BYTES = 5_000_000
DRAWN, CLEARED = "\r\x1b[K5.0 of 5.0 MB", "\r\x1b[K"


def pull() -> None:
    """Tell of one blob, as `pull` does."""
    with make_progress(quiet=False) as line:
        assert line is not None
        line.begin(DIGEST, SIZE_BYTES)
        line.end(DIGEST, cached=False)


def in_background(step: Callable[[], None]) -> Callable[[], None]:
    """Have `step` run in a process group that does not have the terminal."""

    def run() -> None:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            finish(step)
        os.waitpid(pid, 0)

    return run


def finish(step: Callable[[], None]) -> None:
    """Run `step` and end the process, whatever becomes of it."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001  # a forked child must not come back into pytest
        os.write(2, repr(error).encode())
    os._exit(0)


def shown(step: Callable[[], None]) -> str:
    """Return what `step` writes as a job of a terminal of its own."""
    pid, terminal = os.forkpty()
    if pid == 0:
        # pytest's own streams are files.
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        finish(step)
    text = b""
    try:
        while part := os.read(terminal, 4096):
            text += part
    except OSError:
        # Linux says that the other side is closed by EIO.
        pass
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return text.decode()


def test_it_is_drawn_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the foreground."""
    monkeypatch.setattr(progress, "REDRAW_S", 0)
    assert shown(pull) == f"\r\x1b[K0.0 of 5.0 MB{DRAWN}{CLEARED}"


def test_a_short_pull_has_none() -> None:
    """Of an image that is all here, or nearly: a line that flickers tells nothing."""
    assert shown(pull) == ""


def test_the_background_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`locald run … &`: the line is the prompt that the user types at."""
    monkeypatch.setattr(progress, "REDRAW_S", 0)
    assert shown(in_background(pull)) == ""


def test_a_terminal_without_jobs_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not the controlling terminal of the process: no shell shares it."""
    monkeypatch.setattr(progress, "REDRAW_S", 0)

    def pull_without_one() -> None:
        if os.fork() == 0:
            os.setsid()
            finish(pull)
        os.wait()

    assert shown(pull_without_one).endswith(f"{DRAWN}{CLEARED}")


def test_quiet_has_none() -> None:
    """Nothing is told at all."""
    with make_progress(quiet=True) as line:
        assert line is None
