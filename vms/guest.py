"""What a test can do with a machine, whichever machine it is.

`Guest` is the whole interface, and all of it that does not depend on the kind of machine. `connect` (in
`vms`) returns one for a profile that is up; it is a thin handle, so every xdist worker makes its own.

    guest.run(["id", "-u"])                       # Output, whatever the exit code
    guest.succeed(["locald", "pull", reference])  # CommandFailed unless 0
    guest.fail(["cat", "/etc/shadow"])            # CommandSucceeded if 0
    guest.wait_until(["curl", "-fs", url], deadline=Deadline.after(30))

A failed command is an answer; a guest that does not answer is `GuestLost`, another type, so that it
is never taken for a verdict.
"""

import io
import os
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict, Unpack, runtime_checkable

from vms.conversation import Conversation
from vms.deadline import Deadline
from vms.errors import CommandFailed, CommandSucceeded, GuestLost, NoSuchUser, NotInTime
from vms.process import Argument, Finished
from vms.profile import Profile
from vms.shell import ENDED_BY_LIMIT, Word, make_line, make_mark, quote, read_answer

DEFAULT_LIMIT_S = 60.0
"""How long a command may take if nobody says; a guest process costs 20 to 35 times the host's."""

NOT_FOUND = 2
"""What getent(1) says of a key that its database lacks."""

SHOWN_BYTES = 4000
"""How much of each stream an error message carries."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one command did. `exit_code` is 128+N if signal N ended it, as a shell says it."""

    command: tuple[str, ...]
    user: str
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False

    @property
    def text(self) -> str:
        """Standard output, decoded, without the final newlines."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def error_text(self) -> str:
        """Standard error, decoded, without the final newlines."""
        return self.stderr.decode(errors="replace").rstrip("\n")

    def describe(self) -> str:
        """Return the command and what it said, for a person."""
        late = ", killed at its deadline" if self.timed_out else ""
        lines = [
            f"$ {' '.join(quote(word) for word in self.command)}",
            f"  as {self.user}: exit code {self.exit_code} after {self.seconds:.1f} s{late}",
        ]
        for name, data in (("stdout", self.stdout), ("stderr", self.stderr)):
            if data:
                shown = data[-SHOWN_BYTES:].decode(errors="replace").rstrip("\n")
                lines.append(f"  {name}: " + shown.replace("\n", "\n    "))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class User:
    """An account of the guest."""

    name: str
    uid: int
    gid: int
    home: str


class RunOptions(TypedDict, total=False):
    """What `Guest.run` takes besides the command."""

    user: str
    stdin: bytes
    env: Mapping[str, Word] | None
    cwd: Word | None
    deadline: Deadline | None
    terminal: bool


@runtime_checkable
class Revertible(Protocol):
    """What can go back to an earlier state: a virtual machine can, the `local` kind cannot; ask by isinstance."""

    def save(self) -> None:
        """Remember memory and disk as they are now."""

    def revert(self) -> None:
        """Go back to what was saved."""


class Guest(ABC):
    """A machine under test."""

    environment: Mapping[str, str] | None = None
    """Of the controller's programs that carry commands into it; None passes on the controller's own."""

    def __init__(self, profile: Profile, identity: Mapping[str, str]) -> None:
        """Make a handle.

        Args:
            profile: The profile that the machine was made from.
            identity: What a report should say it ran on: the box and its sha256, the accelerator and so on.
        """
        self.profile = profile
        self.identity = identity
        self._users: dict[str, User] = {}

    @abstractmethod
    def carry(self, line: bytes, *, user: str, stdin: bytes, limit_s: float) -> Finished:
        """Run a line of shell as `user`, who is known; it ends itself after `limit_s`.

        Raises:
            GuestLost: No answer some seconds after that.
        """

    @abstractmethod
    def enter(self, line: bytes, user: str) -> Sequence[Argument]:
        """Return the command of this controller that runs a line of shell as `user`, with its streams."""

    @abstractmethod
    def shell(self, user: str = "root") -> Sequence[str]:
        """Return the command of this controller that gives a person a shell on the guest."""

    def converse(self, command: Sequence[Word], *, user: str = "plain") -> Conversation:
        """Start a program that answers a line with a line, in a login of `user`; whoever asks for it closes it."""
        self.check_user(user)
        words = " ".join(quote(word) for word in command)
        line = os.fsencode(f'cd -- "$HOME" && exec {words}')
        return Conversation(self.enter(line, user), env=self.environment, where=self.profile.name)

    def check_user(self, name: str) -> None:
        """Raise NoSuchUser unless the profile promises `name`."""
        if name != "root" and name not in self.profile.users:
            known = ", ".join(("root", *self.profile.users))
            raise NoSuchUser(f"{self.profile.name} has no user {name!r}; it has {known}")

    def user(self, name: str) -> User:
        """Return the account; NoSuchUser unless it is root or the profile names it, and it is there."""
        self.check_user(name)
        if name not in self._users:
            # Not `succeed`: whoever asks for an account has said nothing about what is under test.
            found = self.run(["getent", "passwd", name], user="root")
            if found.exit_code == NOT_FOUND:
                raise NoSuchUser(f"the user {name!r} of {self.profile.name} is not there")
            if found.exit_code != 0:
                raise GuestLost(f"{self.profile.name} does not say who {name!r} is\n{found.describe()}")
            _, _, uid, gid, _, home, _ = found.text.split(":")
            self._users[name] = User(name, int(uid), int(gid), home)
        return self._users[name]

    def run(
        self,
        command: Sequence[Word],
        *,
        user: str = "plain",
        stdin: bytes = b"",
        env: Mapping[str, Word] | None = None,
        cwd: Word | None = None,
        deadline: Deadline | None = None,
        terminal: bool = False,
    ) -> Output:
        """Run a command to its end and return what it did.

        Args:
            command: Program and arguments; str, bytes (any but NUL) or paths. No shell reads them.
            user: Who runs it, in a login of his own: root, or a name of `profile.users`.
            stdin: All of its standard input.
            env: Added to what the login gives.
            cwd: Where; his home directory by default.
            deadline: When it is ended (TERM, 2 s, KILL; `timed_out`); default 60 s from now.
            terminal: Give it a controlling terminal; both streams then come back as stdout.
        Raises:
            GuestLost: No answer some seconds after the deadline, or the connection broke.
        """
        self.check_user(user)
        limit_s = max(0.01, (deadline or Deadline.after(DEFAULT_LIMIT_S)).left_s)
        mark = make_mark()
        line = make_line(command, mark=mark, limit_s=limit_s, env=env, cwd=cwd, terminal=terminal)
        done = self.carry(line, user=user, stdin=stdin, limit_s=limit_s)
        answer = read_answer(mark, done.stdout, done.stderr)
        late = answer.exit_code in ENDED_BY_LIMIT and done.seconds >= limit_s
        words = tuple(os.fsdecode(word) for word in command)
        return Output(words, user, answer.exit_code, answer.stdout, answer.stderr, done.seconds, late)

    def succeed(self, command: Sequence[Word], **options: Unpack[RunOptions]) -> Output:
        """As `run`; CommandFailed unless the exit code is 0."""
        output = self.run(command, **options)
        if output.exit_code != 0:
            raise CommandFailed("this was to succeed and failed", output)
        return output

    def fail(self, command: Sequence[Word], **options: Unpack[RunOptions]) -> Output:
        """As `run`; CommandSucceeded if the exit code is 0, CommandFailed if it timed out."""
        output = self.run(command, **options)
        if output.exit_code == 0:
            raise CommandSucceeded("this was to fail and succeeded", output)
        if output.timed_out:
            # Being killed is not the failure that was asked for.
            raise CommandFailed("this was to fail by itself and had to be killed", output)
        return output

    def wait_until(
        self,
        command: Sequence[Word],
        *,
        deadline: Deadline,
        user: str = "plain",
        every_s: float = 0.5,
        env: Mapping[str, Word] | None = None,
        cwd: Word | None = None,
    ) -> Output:
        """Run it again and again until it succeeds; NotInTime with the last answer if never."""
        while True:
            output = self.run(command, user=user, env=env, cwd=cwd, deadline=deadline)
            # A success after the deadline is still late.
            if deadline.passed:
                raise NotInTime("this did not succeed in time; the last answer was", output)
            if output.exit_code == 0:
                return output
            time.sleep(min(every_s, deadline.left_s))

    def push(self, source: Path | bytes, target: str, *, user: str = "root", mode: int = 0o644) -> None:
        """Put a file (replaced by rename), bytes, or a directory's content at `target`.

        `user` owns it. `mode` is for a file; a directory's entries keep theirs.
        """
        if isinstance(source, Path) and source.is_dir():
            script = 'mkdir -p -- "$1" && exec tar -x -o -f - -C "$1"'
            self.succeed(["sh", "-c", script, "push", target], user=user, stdin=pack(source))
            return
        content = source if isinstance(source, bytes) else source.read_bytes()
        script = 'cat > "$1.part" && chmod "$2" "$1.part" && exec mv -fT -- "$1.part" "$1"'
        command = ["sh", "-c", script, "push", target, f"{mode:o}"]
        self.succeed(command, user=user, stdin=content)

    def pull(self, source: str, *, user: str = "root") -> bytes:
        """Return a file's content, read as `user`; CommandFailed if that cannot be done."""
        return self.succeed(["cat", "--", source], user=user).stdout

    def close(self) -> None:  # noqa: B027 -- most guests hold nothing
        """Let go of what this handle holds; the machine stays up."""


def pack(directory: Path) -> bytes:
    """Return what is in `directory` as a tar archive, owners left out."""

    def nobody_in_particular(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in sorted(os.listdir(directory)):
            archive.add(directory / entry, arcname=entry, filter=nobody_in_particular)
    return buffer.getvalue()
