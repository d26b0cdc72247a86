"""`process.terminal`: a terminal of the container's own, carried to and from the caller's."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator

import pytest

from tests.shim.harness import Call, Run, wait_until

LIMIT_S = 10.0
# 10 bytes each, more than the caller's terminal, the relay and the container's keep together for a slow reader.
SLOW_LINES = 8_000
ROWS, COLUMNS = 33, 101


class Terminal:
    """A terminal of the caller's, with the shim as its session leader."""

    def __init__(self, run: Run, *args: str) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(ROWS, COLUMNS)
        self.before = termios.tcgetattr(self.follower)
        bundle = run.bundle(*args)
        bundle.process["terminal"] = True
        bundle.config["annotations"] = {"dev.locald.init": "true"}
        bundle.write()

        def finish() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        call = Call(stdin=self.follower, stdout=self.follower, stderr=self.follower, finish=finish)
        self.process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)

    def resize(self, rows: int, columns: int) -> None:
        """Give the caller's terminal another size, as a window manager does."""
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        """Type on the caller's keyboard."""
        os.write(self.leader, text)

    def read_until(self, wanted: bytes) -> bytes:
        """Return what appears on the screen, up to and with `wanted`."""
        seen = b""
        deadline = time.monotonic() + LIMIT_S
        while wanted not in seen:
            ready, _, _ = select.select([self.leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} did not appear: {seen!r}"
            seen += os.read(self.leader, 4096)
        return seen

    def close(self) -> None:
        """End the shim and give the terminal back."""
        self.process.kill()
        self.process.wait(timeout=LIMIT_S)
        os.close(self.leader)
        os.close(self.follower)


@pytest.fixture
def open_terminal() -> Iterator[list[Terminal]]:
    """Keep the terminals of a test, and close them at its end."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def start(run: Run, opened: list[Terminal], *args: str) -> Terminal:
    """Run `args` on a new terminal."""
    terminal = Terminal(run, *args)
    opened.append(terminal)
    return terminal


def test_payload_has_a_terminal_of_its_own(run: Run, open_terminal: list[Terminal]) -> None:
    """It is the container's first, has the caller's size, is /dev/console too, and the exit code passes."""
    script = "tty; stty size; readlink /proc/self/fd/0; test -c /dev/console && echo console; exit 7"
    terminal = start(run, open_terminal, "sh", "-c", script)
    seen = terminal.read_until(b"console\r\n")
    assert seen == b"/dev/pts/0\r\n%d %d\r\n/dev/pts/0\r\nconsole\r\n" % (ROWS, COLUMNS)
    assert terminal.process.wait(timeout=LIMIT_S) == 7


def test_keys_and_resize_reach_the_payload(run: Run, open_terminal: list[Terminal]) -> None:
    """A line that is typed is echoed once and read; a new size arrives with SIGWINCH."""
    script = "trap 'stty size' WINCH; echo ready; read line; echo \"<$line>\"; while :; do sleep 0.05; done"
    terminal = start(run, open_terminal, "sh", "-c", script)
    terminal.read_until(b"ready\r\n")
    terminal.type(b"word\r")
    assert terminal.read_until(b"<word>\r\n").count(b"word") == 2
    terminal.resize(11, 44)
    terminal.read_until(b"11 44\r\n")


def test_interrupt_key_ends_the_payload(run: Run, open_terminal: list[Terminal]) -> None:
    """Ctrl-C is a key for the container's terminal, which makes the signal: 130."""
    terminal = start(run, open_terminal, "sh", "-c", "echo ready; exec sleep 60")
    terminal.read_until(b"ready\r\n")
    terminal.type(b"\x03")
    assert terminal.process.wait(timeout=LIMIT_S) == 128 + signal.SIGINT


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_the_callers_terminal_is_as_before(run: Run, open_terminal: list[Terminal], how: str) -> None:
    """Whether the container ends or its shim is killed, the modes come back."""
    terminal = start(run, open_terminal, "sh", "-c", "echo ready; read line")
    terminal.read_until(b"ready\r\n")
    wait_until(lambda: termios.tcgetattr(terminal.follower) != terminal.before, "the terminal is raw")
    if how == "exit":
        terminal.type(b"\r")
    else:
        terminal.process.kill()
    terminal.process.wait(timeout=LIMIT_S)
    wait_until(lambda: termios.tcgetattr(terminal.follower) == terminal.before, "the modes are back")


def test_the_last_output_is_written_as_it_is(run: Run, open_terminal: list[Terminal]) -> None:
    """What arrives after the payload's end is not made into lines twice: the container's terminal has done it."""
    script = f"i=0; while [ $i -lt {SLOW_LINES} ]; do echo 12345678; i=$((i+1)); done; echo end"
    terminal = start(run, open_terminal, "sh", "-c", script)

    def is_raw() -> bool:
        return not termios.tcgetattr(terminal.follower)[3] & termios.ECHO

    wait_until(is_raw, "the terminal is raw")
    seen, deadline = b"", time.monotonic() + LIMIT_S
    # The keys are the caller's again at the payload's end; what it wrote last still waits for its reader.
    while is_raw():
        assert time.monotonic() < deadline
        time.sleep(0.02)
        seen += os.read(terminal.leader, 1024)
    seen += terminal.read_until(b"end\r\n")
    assert seen == b"12345678\r\n" * SLOW_LINES + b"end\r\n"
    assert terminal.process.wait(timeout=LIMIT_S) == 0
    assert termios.tcgetattr(terminal.follower) == terminal.before
