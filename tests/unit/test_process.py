"""Starting programs: answers, deadlines, signals. The programs are /bin/sh and sleep."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locald.deadline import Deadline
from locald.errors import ProgramFailed
from locald.process import capture

pytestmark = pytest.mark.spawns


def sh(script: str) -> list[str]:
    """Return a command that runs a script."""
    return ["/bin/sh", "-c", script]


def test_an_answer_is_kept_with_its_status() -> None:
    """Both streams; stdin is empty, and the environment is what was given."""
    output = capture(
        sh("cat; echo out; echo $A; echo err >&2; exit 3"),
        deadline=Deadline.after(seconds=10),
        env={"A": "b"},
    )
    assert (output.status, output.stdout, output.stderr) == (3, b"out\nb\n", b"err\n")
    with pytest.raises(ProgramFailed, match="status 3: err") as caught:
        output.checked()
    assert "/bin/sh -c 'cat;" in caught.value.hint


def test_a_signal_is_128_and_its_number() -> None:
    """As a shell says it."""
    assert capture(sh("kill -KILL $$"), deadline=Deadline.after(seconds=10)).status == 137


def test_a_child_has_no_descriptor_of_ours() -> None:
    """Whoever started pytest may have left it others."""
    reader, writer = (os.dup(fd) for fd in os.pipe())
    try:
        output = capture(sh("ls /proc/self/fd"), deadline=Deadline.after(seconds=10))
    finally:
        os.close(reader)
        os.close(writer)
    assert not {str(reader).encode(), str(writer).encode()} & set(output.stdout.split()) - {b"3"}


def find_children() -> set[str]:
    """Return the ids of this process's children, those included that have ended and were not waited for."""
    return set(Path("/proc/thread-self/children").read_text().split())


def test_a_late_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM at the deadline, KILL after the grace; the child is gone afterwards."""
    monkeypatch.setattr("locald.process.GRACE_S", 0.1)
    start, before = time.monotonic(), find_children()
    with pytest.raises(ProgramFailed, match="too long"):
        capture(
            sh("trap '' TERM; echo $$; while :; do sleep 0.05; done"), deadline=Deadline.after(seconds=0.2)
        )
    assert time.monotonic() - start < 5
    assert find_children() <= before


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is filled."""
    monkeypatch.setattr("locald.process.MAX_OUTPUT_BYTES", 100_000)
    with pytest.raises(ProgramFailed, match="more than it should"):
        capture(["/bin/cat", "/dev/zero"], deadline=Deadline.after(seconds=10))


def test_a_program_that_is_not_there_is_an_error() -> None:
    """With the command in it."""
    with pytest.raises(ProgramFailed, match="could not be started"):
        capture(["/no/such/program"], deadline=Deadline.after(seconds=10))


ATTEND = """
import os, sys
from locald.process import attend
reader, writer = os.pipe()
status = attend(["/bin/sh", "-c", sys.argv[1]], env={}, empty_stdin=True, kept_fd=writer,
                started=lambda pid: None, stop_signal=int(sys.argv[2]))
os._exit(status)
"""


def run_attended(script: str, *, stop_signal: int = signal.SIGTERM) -> int:
    """Attend to a script in a Python of its own: signals go to a process, and pytest has other threads."""
    argv = [sys.executable, "-c", ATTEND, script, str(int(stop_signal))]
    return subprocess.run(argv, timeout=20, check=False).returncode


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
def test_the_status_is_the_childs(script: str, status: int) -> None:
    """0 to 255, or 128 and the signal."""
    assert run_attended(script) == status


def test_descriptor_3_is_the_one_that_was_given() -> None:
    """Open for writing, and a pipe."""
    assert run_attended("[ -p /proc/$$/fd/3 ] || exit 9; echo x >&3") == 0


@pytest.mark.parametrize(
    ("sent", "stop_signal", "arrives"),
    [
        (signal.SIGTERM, signal.SIGTERM, "TERM"),
        (signal.SIGTERM, signal.SIGQUIT, "QUIT"),
        (signal.SIGHUP, signal.SIGTERM, "HUP"),
        (signal.SIGUSR1, signal.SIGTERM, "USR1"),
        (signal.SIGINT, signal.SIGTERM, "INT"),
    ],
)
def test_what_is_sent_to_locald_reaches_the_child(sent: int, stop_signal: int, arrives: str) -> None:
    """TERM as the image's stop signal, the others as they are; locald itself waits for the end."""
    script = f"trap 'exit 42' {arrives}; kill -{int(sent)} $PPID; sleep 10 & wait"
    assert run_attended(script, stop_signal=stop_signal) == 42


def test_signal_mask_and_dispositions_of_the_child_are_the_defaults() -> None:
    """SIGPIPE among them, which Python ignores for itself."""
    output = capture(sh("grep -E '^Sig(Blk|Ign)' /proc/self/status"), deadline=Deadline.after(seconds=10))
    blocked, ignored = (int(word, 16) for word in output.stdout.split()[1::2])
    assert blocked == 0
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
