"""Pure: the one line of shell that carries a command into a guest, and how its answer is read.

Both kinds of guest run this line with the user's login shell or /bin/sh, so a command behaves the
same on either. Imports `errors` only.

Why a line of shell at all: ssh joins its arguments with blanks and hands them to a shell. Why a mark
at the end: ssh says 255 both for a command that ended with 255 and for a connection that broke; the
mark is there only if the command ended, and carries its exit code.
"""

import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vms.errors import GuestLost

KILL_AFTER_S = 2
"""In the guest too: TERM at the limit, KILL this much later."""

ENDED_BY_LIMIT = (124, 137)
"""What timeout(1) says after TERM, and after KILL."""

Word = str | bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the command's own streams and exit code, 128+N if signal N ended it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def make_mark() -> str:
    """Return a word that no command prints by chance."""
    return f"vms-{secrets.token_hex(8)}"


def quote(word: Word) -> str:
    """Quote one argument for a POSIX shell; bytes that are not UTF-8 survive as surrogates."""
    text = os.fsdecode(word)
    if "\0" in text:
        raise ValueError("a NUL byte cannot be part of an argument")
    return shlex.quote(text)


def make_line(
    command: Sequence[Word],
    *,
    mark: str,
    limit_s: float,
    env: Mapping[str, Word] | None = None,
    cwd: Word | None = None,
    terminal: bool = False,
) -> bytes:
    """Return the shell line that runs `command` for at most `limit_s` seconds and marks its end.

    With `terminal` the command gets a pseudo-terminal from script(1) as its controlling terminal,
    and everything it writes comes back on standard output.
    """
    if not command:
        raise ValueError("an empty command")
    words = " ".join(quote(word) for word in command)
    if env:
        settings = " ".join(quote(f"{name}={os.fsdecode(value)}") for name, value in env.items())
        words = f"env {settings} {words}"
    if terminal:
        words = f"script --quiet --return --command {shlex.quote(f'exec {words}')} /dev/null"
    bounded = f"timeout -k {KILL_AFTER_S} {limit_s:.3f} {words}"
    where = quote(cwd) if cwd is not None else '"$HOME"'
    # The shell reports a command that died of a signal on its own stderr: so the command keeps the
    # real one, and the shell's goes nowhere from then on. (In a subshell, since dash makes a simple
    # command's redirections its own for as long as it waits.)
    line = (
        f"exec 3>&2; cd -- {where} && {{ exec 2>/dev/null; (exec {bounded} 2>&3 3>&-); }}; "
        f"printf '\\n{mark} %d\\n' $? >&3"
    )
    return os.fsencode(line)


def read_answer(mark: str, stdout: bytes, stderr: bytes) -> Answer:
    """Take the mark off `stderr` and return what the command itself said.

    Raises:
        GuestLost: The mark is not there, so the command is not known to have ended.
    """
    before, found, after = stderr.rpartition(f"\n{mark} ".encode())
    code, newline, late = after.partition(b"\n")
    if not found or not newline or not code.isdigit():
        tail = stderr[-500:].decode(errors="replace").strip()
        raise GuestLost(f"the command's end was not seen; last words on stderr: {tail or 'none'}")
    # What follows the mark was written by a process the command left behind.
    return Answer(int(code), stdout, before + late)
