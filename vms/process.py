"""The only place of this package that starts a program on the controller.

Argument lists, an empty standard input unless given, and always a deadline: at its end TERM to the
whole process group, two seconds later KILL.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from vms.deadline import Deadline
from vms.errors import CommandTimedOut, VmsError

GRACE_S = 2.0
"""How long a program may take to end after TERM."""

SHOWN_BYTES = 2000
"""How much of what a program said last an error message carries."""

ROOTS_DIRECTORIES = ("/usr/sbin", "/sbin")
"""Where Debian puts mke2fs, libvirtd and useradd; the $PATH of a user, and of root after `su`, leaves them out."""

Argument = str | bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended by itself; `exit_code` is 128+N when signal N ended it."""

    command: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output, decoded, without the final newline."""
        return self.stdout.decode(errors="replace").rstrip("\n")


def search_path() -> str:
    """Return the controller's $PATH, with root's directories behind it."""
    return ":".join((os.environ.get("PATH", os.defpath), *ROOTS_DIRECTORIES))


def find_program(name: str) -> str | None:
    """Return where a program is that root can start, or None."""
    return shutil.which(name, path=search_path())


def run(
    command: Sequence[Argument],
    *,
    deadline: Deadline,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> Finished:
    """Run `command` to its end and return what it said.

    Args:
        command: The program and its arguments; no shell reads them.
        deadline: When it is killed, with everything in its process group.
        stdin: All of its standard input.
        env: Its whole environment; None passes on the controller's.
        cwd: Its working directory.
        log: Both streams are appended here instead of being returned.
    Raises:
        CommandTimedOut: It was killed at the deadline; the message ends with what it said last.
        OSError: It could not be started.
    """
    shown = tuple(os.fsdecode(part) for part in command)
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else None
        # A session of its own: a Ctrl-C at the terminal reaches the controller alone, which then
        # decides what is undone and in which order.
        child = subprocess.Popen(  # noqa: S603 -- argument list, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=sink or subprocess.PIPE,
            stderr=sink or subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            stdout, stderr = child.communicate(stdin, timeout=deadline.left_s)
        except subprocess.TimeoutExpired as error:
            tail = _shown(_end(child))
            raise CommandTimedOut(shown, time.monotonic() - start, tail) from error
        except BaseException:
            _end(child)
            raise
    status = child.returncode if child.returncode >= 0 else 128 - child.returncode
    return Finished(shown, status, stdout or b"", stderr or b"", time.monotonic() - start)


def check(
    command: Sequence[Argument],
    *,
    deadline: Deadline,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    error: type[VmsError] = VmsError,
    hint: str = "",
) -> Finished:
    """As `run`, but raise `error` with the exact command and its output if it fails."""
    done = run(command, deadline=deadline, stdin=stdin, env=env, cwd=cwd)
    if done.exit_code != 0:
        said = _shown(done.stderr or done.stdout)
        message = f"exit code {done.exit_code}: {' '.join(done.command)}\n{said}"
        raise error(message.rstrip(), hint=hint)
    return done


def _shown(said: bytes) -> str:
    return said.decode(errors="replace").strip()[-SHOWN_BYTES:]


def start_piped(
    command: Sequence[Argument], *, env: Mapping[str, str] | None, errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a program that is spoken to through pipes, and return it; `end_piped` ends it."""
    return subprocess.Popen(  # noqa: S603 -- argument list, no shell
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=env,
        start_new_session=True,
    )


def end_piped(child: subprocess.Popen[bytes]) -> None:
    """End its input; where that is not enough, TERM and KILL."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        # It is flushed by `communicate`, which this one is past.
        child.stdin = None
        _end(child)
    if child.stdout is not None:
        child.stdout.close()


def start(command: Sequence[str], *, log: Path) -> int:
    """Start a program of root's that outlives the controller and return its process id.

    What `find_program` has found is found by it and by what it starts.
    """
    # Not Popen: it complains about a child that nobody waits for, which is what is wanted here.
    return os.posix_spawnp(
        command[0],
        list(command),
        os.environ | {"PATH": search_path()},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            # It outlives whoever started the controller too, and must not hold on to his locks and pipes.
            *((os.POSIX_SPAWN_CLOSE, number) for number in _find_inherited()),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGINT],
        setsigmask=[],
    )


def _find_inherited() -> list[int]:
    """Return the descriptors above the standard ones that a new program would be given."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return [number for number in numbers if number > 2 and _is_inheritable(number)]  # noqa: PLR2004  # stderr


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        # It was the listing's own.
        return False


def has_ended(pid: int) -> bool:
    """Whether a program that this process started has ended; collects it."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True


def become(command: Sequence[str]) -> NoReturn:
    """Become another program, for a person at a terminal."""
    os.execvp(command[0], list(command))  # noqa: S606 -- argument list, no shell


def _end(child: subprocess.Popen[bytes]) -> bytes:
    """TERM, a grace, KILL, to the whole group; then collect the child and return what it said."""
    said = b""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        try:
            # communicate, not wait: a full pipe would keep the child from ending.
            stdout, stderr = child.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired as error:
            said = error.stderr or error.stdout or b""
        else:
            return stderr or stdout or b""
    return said
