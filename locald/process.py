"""The only place that starts another program.

Imports errors and deadline. `posix_spawn` rather than the subprocess module: every `locald run` starts two
programs, and importing subprocess alone takes longer than both.

Three ways, for three kinds of children:

- `capture`: a question. Empty stdin, output kept, a deadline.
- `attend`: the container. It shares the terminal and the process group; signals and stops are passed on.
- `converse`: a program that talks to the person at the terminal itself, such as sudo.
"""

import errno
import os
import select
import signal
from typing import TYPE_CHECKING

from locald.deadline import Deadline
from locald.errors import ProgramFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# How long a child may take to react to TERM before it gets KILL.
GRACE_S = 2.0
# What one answer may hold: the shim's and our own helpers' are a few hundred bytes.
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
# Python ignores these two for itself; a child starts with the default.
DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ)
# What reaches the container through `attend`; the shim takes the same list.
FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
# siginfo's si_code of a signal that the kernel itself sent, such as the terminal's Ctrl-C (siginfo.h).
SI_KERNEL = 0x80


class Output:
    """What a child left: its exit status (128+N after signal N) and all that it wrote."""

    def __init__(self, argv: "Sequence[str]", status: int, stdout: bytes, stderr: bytes) -> None:
        self.argv = argv
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    def checked(self) -> bytes:
        """Return stdout.

        Raises:
            ProgramFailed: The status is not 0 (`program.failed`).
        """
        if self.status != 0:
            raise ProgramFailed(self.argv, f"it ended with status {self.status}", self.stderr)
        return self.stdout


def capture(
    argv: "Sequence[str]",
    *,
    deadline: Deadline,
    env: "Mapping[str, str] | None" = None,
    stdin: int | None = None,
) -> Output:
    """Run `argv` with an empty stdin and return what it wrote.

    Args:
        argv: The program by its absolute path, then its arguments.
        deadline: When it is over the child gets TERM, and KILL 2 s later.
        env: The child's whole environment; empty unless given.
        stdin: A descriptor that it gets as its stdin instead.

    Raises:
        ProgramFailed: It could not be started, took too long or wrote more than 16 MiB (`program.failed`).
    """
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _spawn(
            argv,
            env=env or {},
            actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
                if stdin is None
                else (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, out_write, 1),
                (os.POSIX_SPAWN_DUP2, err_write, 2),
            ],
        )
    except BaseException:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)
    kept: dict[int, list[bytes]] = {out_read: [], err_read: []}
    trouble: str | None = "it was interrupted"
    try:
        trouble = _read_all(kept, deadline)
    finally:
        os.close(out_read)
        os.close(err_read)
        status = _end(pid, deadline if trouble is None else Deadline.after(seconds=0))
    stdout, stderr = (b"".join(chunks) for chunks in kept.values())
    if trouble is None and status is None:
        trouble = "it took too long"
    if trouble is not None or status is None:
        raise ProgramFailed(argv, trouble or "it was ended", stderr)
    return Output(argv, status, stdout, stderr)


def attend(
    argv: "Sequence[str]",
    *,
    env: "Mapping[str, str]",
    empty_stdin: bool,
    kept_fd: int,
    started: "Callable[[int], None]",
    stop_signal: int = signal.SIGTERM,
) -> int:
    """Run `argv` as a part of this job and return its exit status, 128+N if signal N ended it.

    The child stays in our process group, so the terminal's own signals reach it without us; what somebody
    sends to this process alone is passed on. When the child stops, this process stops, and both go on
    together: to a shell the two are one job.

    Args:
        argv: The program by its absolute path, then its arguments.
        env: The child's whole environment.
        empty_stdin: Give it /dev/null instead of our stdin.
        kept_fd: A descriptor that it finds as number 3. Any other than 0 to 3 is closed.
        started: Called with the child's pid, once.
        stop_signal: What the child gets when this process gets TERM.
    """
    # What the caller had ignored, as nohup does for HUP, stays ignored, here and in the child.
    watched = {number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
    watched.add(signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        actions: list[tuple[int | str, ...]] = [(os.POSIX_SPAWN_DUP2, kept_fd, 3)]
        if empty_stdin:
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
        pid = _spawn(argv, env=env, actions=actions, mask=before)
        started(pid)
        os.close(kept_fd)
        while True:
            info = signal.sigwaitinfo(watched)
            if info.si_signo == signal.SIGCHLD:
                status = _follow(pid)
                if status is not None:
                    return status
            elif info.si_code != SI_KERNEL:
                _send(pid, stop_signal if info.si_signo == signal.SIGTERM else info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def converse(argv: "Sequence[str]", *, env: "Mapping[str, str]") -> int:
    """Run `argv` on our own stdin, stdout and stderr and return its exit status."""
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pid = _spawn(argv, env=env, actions=[], defaulted=(*DEFAULTED, signal.SIGINT))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        signal.signal(signal.SIGINT, kept)


def _spawn(
    argv: "Sequence[str]",
    *,
    env: "Mapping[str, str]",
    actions: "list[tuple[int | str, ...]]",
    mask: "set[signal.Signals] | set[int] | None" = None,
    defaulted: "tuple[int, ...]" = DEFAULTED,
) -> int:
    try:
        # All our descriptors close on exec; the child has what `actions` names.
        return os.posix_spawn(
            argv[0], list(argv), env, file_actions=actions, setsigmask=mask or (), setsigdef=defaulted
        )
    except OSError as error:
        raise ProgramFailed(argv, f"it could not be started ({error.strerror})", b"") from error


def _read_all(kept: "dict[int, list[bytes]]", deadline: Deadline) -> str | None:
    """Read until every descriptor ends; return what went wrong, if anything."""
    poll = select.poll()
    for descriptor in kept:
        poll.register(descriptor, select.POLLIN)
    unfinished, size = len(kept), 0
    while unfinished:
        ready = poll.poll(deadline.left_s() * 1000)
        if not ready:
            return "it took too long"
        for descriptor, _ in ready:
            chunk = os.read(descriptor, 65536)
            size += len(chunk)
            if size > MAX_OUTPUT_BYTES:
                return "it wrote more than it should"
            if chunk:
                kept[descriptor].append(chunk)
            else:
                poll.unregister(descriptor)
                unfinished -= 1
    return None


def _end(pid: int, deadline: Deadline) -> int | None:
    """Wait for `pid` until the deadline, then end it; None means that it had to be ended."""
    status = _wait(pid, deadline)
    if status is not None:
        return status
    _send(pid, signal.SIGTERM)
    if _wait(pid, Deadline.after(seconds=GRACE_S)) is None:
        _send(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def _wait(pid: int, deadline: Deadline) -> int | None:
    # The usual child has ended already: its pipes are closed. The descriptor is for the unusual one.
    found, raw = os.waitpid(pid, os.WNOHANG)
    if found == 0:
        descriptor = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(deadline.left_s() * 1000)
        finally:
            os.close(descriptor)
        found, raw = os.waitpid(pid, os.WNOHANG)
    return None if found == 0 else _status(raw)


def _follow(pid: int) -> int | None:
    """Take in what happened to the child; return its status if it has ended."""
    found, raw = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if found == 0:
        return None
    if os.WIFSTOPPED(raw):
        # A CONT that is here already would be taken away by our own stop.
        if signal.SIGCONT not in signal.sigpending():
            os.kill(os.getpid(), signal.SIGSTOP)
        # Here somebody let this process go on, perhaps it alone.
        _send(pid, signal.SIGCONT)
        return None
    return _status(raw)


def _status(raw: int) -> int:
    code = os.waitstatus_to_exitcode(raw)
    return code if code >= 0 else 128 - code


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError as error:
        # It is ours and not yet waited for; a program that is no longer ours to signal ends by itself.
        if error.errno not in {errno.EPERM, errno.ESRCH}:
            raise
