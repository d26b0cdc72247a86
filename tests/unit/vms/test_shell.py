"""The line of shell that carries a command into a guest, run here by the real /bin/sh."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from vms import shell
from vms.errors import GuestLost

pytestmark = pytest.mark.spawns

HERE = {"PATH": os.environ["PATH"], "HOME": "/"}


def carry(
    command: Sequence[shell.Word],
    *,
    limit_s: float = 20.0,
    env: dict[str, shell.Word] | None = None,
    cwd: shell.Word | None = None,
    stdin: bytes = b"",
) -> shell.Answer:
    """Run a command the way a guest does."""
    mark = shell.make_mark()
    line = shell.make_line(command, mark=mark, limit_s=limit_s, env=env, cwd=cwd)
    done = subprocess.run([b"/bin/sh", b"-c", line], check=False, capture_output=True, input=stdin, env=HERE)
    assert done.returncode == 0
    return shell.read_answer(mark, done.stdout, done.stderr)


@pytest.mark.parametrize("code", [0, 1, 7, 124, 125, 126, 127, 137, 255])
def test_every_exit_code_comes_back(code: int) -> None:
    """255 too, which ssh would use for itself."""
    assert carry(["sh", "-c", f"exit {code}"]).exit_code == code


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("INT", 130)])
def test_a_signal_is_told_by_the_code_alone(name: str, code: int) -> None:
    """The shell's own `Killed` does not get into the command's stderr."""
    answer = carry(["sh", "-c", f"echo mine >&2; kill -{name} $$"])

    assert (answer.exit_code, answer.stderr) == (code, b"mine\n")


def test_arguments_arrive_byte_for_byte() -> None:
    """Quotes, newlines, dollars, and bytes that are no UTF-8."""
    words: list[shell.Word] = [b"\xff\xfe", "a'b\"c", "$HOME `id` \\", "two\nlines", "", " "]

    format_words: list[shell.Word] = ["printf", "%s|"]

    answer = carry([*format_words, *words])

    assert answer.stdout == b"\xff\xfe|a'b\"c|$HOME `id` \\|two\nlines|| |"


def test_a_nul_byte_is_refused() -> None:
    """No program can be given one."""
    with pytest.raises(ValueError, match="NUL"):
        shell.quote("a\0b")


def test_environment_and_directory(tmp_path: Path) -> None:
    """Both take bytes and blanks."""
    place = tmp_path / "a place"
    place.mkdir()

    answer = carry(["sh", "-c", 'pwd; printf %s "$V"'], env={"V": b"x \xff"}, cwd=place)

    assert answer.stdout == os.fsencode(place) + b"\nx \xff"


def test_stdin_reaches_the_command_only() -> None:
    """The shell in between reads none of it."""
    assert carry(["cat"], stdin=b"line\n\0\xff").stdout == b"line\n\0\xff"


def test_the_command_inherits_no_descriptor_of_the_line() -> None:
    """What the line needs for itself is closed in the command: a test may count them."""
    answer = carry(["sh", "-c", "ls /proc/$$/fd"])

    assert answer.stdout.split()[:3] == [b"0", b"1", b"2"]
    assert b"3" not in answer.stdout.split()


def test_a_command_that_does_not_end_is_ended_in_the_guest() -> None:
    """By TERM, and its code says so."""
    assert carry(["sleep", "60"], limit_s=0.2).exit_code in shell.ENDED_BY_LIMIT


def test_a_missing_directory_is_an_answer() -> None:
    """It is the command's failure, not a lost guest."""
    answer = carry(["true"], cwd="/nonexistent")

    assert answer.exit_code != 0
    assert b"nonexistent" in answer.stderr


def test_an_answer_without_a_mark_is_a_lost_guest() -> None:
    """With ssh's last words, which are the only cause there is."""
    with pytest.raises(GuestLost, match="Connection reset"):
        shell.read_answer("vms-0", b"", b"ssh: Connection reset by peer\n")


def test_a_cut_mark_is_a_lost_guest() -> None:
    """The connection may break in the middle of it."""
    with pytest.raises(GuestLost):
        shell.read_answer("vms-0", b"", b"out\nvms-0 1")


def test_what_was_written_after_the_end_is_kept() -> None:
    """A process that the command left behind may still write."""
    answer = shell.read_answer("vms-0", b"", b"before\nvms-0 4\nlate\n")

    assert (answer.exit_code, answer.stderr) == (4, b"beforelate\n")
