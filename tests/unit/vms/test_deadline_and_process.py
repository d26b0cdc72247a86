"""Limits on the controller: a deadline is one point in time, and a program never outlives it."""

import os
import time
from pathlib import Path

import pytest

from vms import process
from vms.deadline import Deadline
from vms.errors import CommandTimedOut, VmsError

pytestmark = pytest.mark.spawns


def test_a_passed_deadline_has_nothing_left() -> None:
    """`left_s` is never negative, so it can be handed to any wait."""
    deadline = Deadline.after(-5)

    assert deadline.passed
    assert deadline.left_s == 0.0


def test_at_most_keeps_the_earlier_of_two() -> None:
    """A step's own limit never lengthens the whole."""
    whole = Deadline.after(1)

    assert whole.at_most(100) == whole
    assert whole.at_most(0.1).end_s < whole.end_s


def test_streams_and_exit_code_come_back() -> None:
    """Bytes in, bytes out."""
    done = process.run(["sh", "-c", "cat; echo no >&2; exit 7"], stdin=b"\xff\n", deadline=Deadline.after(10))

    assert (done.exit_code, done.stdout, done.stderr) == (7, b"\xff\n", b"no\n")


def test_death_by_signal_is_128_and_the_signal() -> None:
    """As a shell says it."""
    done = process.run(["sh", "-c", "kill -9 $$"], deadline=Deadline.after(10))

    assert done.exit_code == 137


def test_the_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    """A child of the child that ignores TERM is ended too."""
    script = f"(trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60; sleep 60) & wait"
    start = time.monotonic()

    with pytest.raises(CommandTimedOut, match="sh -c"):
        process.run(["sh", "-c", script], deadline=Deadline.after(0.3))

    assert time.monotonic() - start < 10
    group = int((tmp_path / "pid").read_text())
    assert not _any_alive(group)


@pytest.mark.parametrize(
    "speaks", ["echo working", "echo stuck >&2; echo working", "echo stuck; trap '' TERM"]
)
def test_what_a_program_said_before_its_deadline_is_shown(
    speaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors if there are any; also where TERM does not end it."""
    monkeypatch.setattr(process, "GRACE_S", 0.3)
    last = "stuck" if "stuck" in speaks else "working"

    with pytest.raises(CommandTimedOut, match=f"sleep 60; :\n{last}$"):
        process.run(["sh", "-c", f"{speaks}; sleep 60; sleep 60; :"], deadline=Deadline.after(0.3))


def _any_alive(group: int) -> bool:
    """Whether a process of the group still runs after some seconds; one that waits to be collected does not."""
    deadline = Deadline.after(5)
    while any(_group_of_running(entry.name) == group for entry in Path("/proc").glob("[0-9]*")):
        if deadline.passed:
            return True
        time.sleep(0.02)
    return False


def _group_of_running(pid: str) -> int | None:
    try:
        state, _, group = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(group)


def test_a_failed_check_shows_the_exact_command() -> None:
    """The message can be copied and run again."""
    with pytest.raises(VmsError, match=r"(?s)exit code 3: sh -c .*oops") as caught:
        process.check(["sh", "-c", "echo oops >&2; exit 3"], deadline=Deadline.after(10), hint="mend it")

    assert caught.value.hint == "mend it"


def test_what_outlives_the_controller_finds_roots_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were found to be there, though the $PATH of whoever came by `su` leaves them out."""
    program = tmp_path / "only-roots"
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    monkeypatch.setattr(process, "ROOTS_DIRECTORIES", (str(tmp_path),))
    log = tmp_path / "log"

    assert process.find_program("only-roots") == str(program)
    os.waitpid(process.start(["/bin/sh", "-c", "only-roots"], log=log), 0)

    assert log.read_text() == "started\n"


def test_what_outlives_the_controller_holds_nothing_of_others(tmp_path: Path) -> None:
    """A lock that the controller's caller left open would be held for as long as the daemon lives."""
    log = tmp_path / "log"
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # noqa: FBT003  # it takes no keyword
        pid = process.start(["/bin/sh", "-c", "ls -l /proc/$$/fd"], log=log)
        os.waitpid(pid, 0)

    assert str(log) in log.read_text()
    assert "lock" not in log.read_text().replace(str(log), "")
