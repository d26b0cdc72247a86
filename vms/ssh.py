"""The `vm` kind of guest: pytest-testinfra's ssh backend, with limits, over shared connections.

testinfra joins the command, starts ssh through a shell and waits for ever. Here the same ssh command
line is started without a shell and with a deadline, on the controller and again in the guest, and
stdin is passed on. One connection a user (ControlMaster) serves every command and every process.
"""

import contextlib
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testinfra.backend import base  # type: ignore[import-untyped]
from testinfra.backend.ssh import SshBackend  # type: ignore[import-untyped]
from testinfra.host import Host  # type: ignore[import-untyped]

from vms import process, shell
from vms.deadline import Deadline
from vms.errors import CommandTimedOut, GuestLost
from vms.guest import DEFAULT_LIMIT_S, BaseGuest, Output
from vms.profile import Profile

CONNECT_LIMIT_S = 60
"""How long a new connection may take; a loaded emulated CPU needs several seconds."""

SLACK_S = 20.0
"""How long after its deadline a command may still take to be ended and to answer."""

PERSIST_S = 1800
SSH_FAILED = 255


def make_config(name: str, *, port: int, key: Path, sockets: Path, limit_s: int = CONNECT_LIMIT_S) -> str:
    """Return the ssh configuration of a machine; `%r` in a socket's name is the user."""
    options = {
        "HostName": "127.0.0.1",
        "Port": str(port),
        "IdentityFile": f'"{key}"',
        "IdentitiesOnly": "yes",
        # The host key is in the box for everyone to read: there is nothing to compare it with.
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "PasswordAuthentication": "no",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
        "ConnectTimeout": str(limit_s),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "ControlMaster": "auto",
        "ControlPersist": f"{PERSIST_S}s",
        "ControlPath": f'"{sockets}/{name}-%r"',
    }
    return f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in options.items())


class BoundedSshBackend(SshBackend):  # type: ignore[misc]
    """testinfra's ssh backend, every command of which has a deadline and may have a stdin."""

    limit_s = DEFAULT_LIMIT_S

    def make_command(self, line: str | bytes) -> list[bytes]:
        """Return the argument list that runs a line of shell in the guest."""
        template, arguments = self._build_ssh_command(os.fsdecode(line))
        joined = self.quote(" ".join(template), *arguments)
        return [os.fsencode(word) for word in shlex.split(joined)]

    def run_bounded(self, line: str | bytes, *, stdin: bytes, deadline: Deadline) -> process.Finished:
        """Run a line of shell in the guest; GuestLost if ssh does not answer by the deadline."""
        try:
            return process.run(self.make_command(line), stdin=stdin, deadline=deadline)
        except CommandTimedOut as error:
            raise GuestLost(str(error)) from error

    def run_ssh(self, command: str) -> base.CommandResult:
        """See SshBackend; this is what testinfra's own modules (`host.file` …) come through."""
        deadline = Deadline.after(self.limit_s)
        done = self.run_bounded(command, stdin=b"", deadline=deadline)
        if done.exit_code == SSH_FAILED:
            raise GuestLost(f"ssh failed: {done.stderr.decode(errors='replace').strip()}")
        return self.result(done.exit_code, self.encode(command), done.stdout, done.stderr)


class SshGuest(BaseGuest):
    """A guest that is reached by ssh; `testinfra(user)` offers testinfra's modules on it."""

    def __init__(
        self,
        profile: Profile,
        identity: Mapping[str, str],
        *,
        config: Path,
        sockets: Path,
        keeper: "Keeper | None" = None,
    ) -> None:
        super().__init__(profile, identity)
        self._config = config
        self._sockets = sockets
        self._keeper = keeper
        self._backends: dict[str, BoundedSshBackend] = {}

    def backend(self, user: str) -> BoundedSshBackend:
        """Return the backend that logs in as `user`."""
        self.check_user(user)
        if user not in self._backends:
            options: dict[str, Any] = {
                "ssh_config": str(self._config),
                "timeout": CONNECT_LIMIT_S,
                # The sharing of connections is in the configuration file, with a path.
                "controlpersist": 0,
            }
            target = f"{user}@{self.profile.name}"
            self._backends[user] = BoundedSshBackend(target, **options)
        return self._backends[user]

    def testinfra(self, user: str = "root") -> Host:
        """Return testinfra's view of the guest: `guest.testinfra().file("/etc/passwd").mode`."""
        return Host(self.backend(user))

    def run(
        self,
        command: Sequence[shell.Word],
        *,
        user: str = "plain",
        stdin: bytes = b"",
        env: Mapping[str, shell.Word] | None = None,
        cwd: shell.Word | None = None,
        deadline: Deadline | None = None,
        terminal: bool = False,
    ) -> Output:
        """See `Guest.run`."""
        backend = self.backend(user)
        limit_s = max(0.01, (deadline or Deadline.after(DEFAULT_LIMIT_S)).left_s)
        mark = shell.make_mark()
        line = shell.make_line(command, mark=mark, limit_s=limit_s, env=env, cwd=cwd, terminal=terminal)
        done = backend.run_bounded(line, stdin=stdin, deadline=Deadline.after(limit_s + SLACK_S))
        answer = shell.read_answer(mark, done.stdout, done.stderr)
        late = answer.exit_code in shell.ENDED_BY_LIMIT and done.seconds >= limit_s
        words = tuple(os.fsdecode(word) for word in command)
        return Output(words, user, answer.exit_code, answer.stdout, answer.stderr, done.seconds, late)

    def shell(self, user: str = "root") -> Sequence[str]:
        """See `Guest.shell`."""
        self.check_user(user)
        return ["ssh", "-F", str(self._config), "-t", f"{user}@{self.profile.name}"]

    def save(self) -> None:
        """See `Guest.save`."""
        if self._keeper is None:
            super().save()
        else:
            self._keeper.save()

    def revert(self) -> None:
        """See `Guest.revert`."""
        if self._keeper is None:
            super().revert()
            return
        self.disconnect()
        self._keeper.revert()
        # Its clock stands where it stood when it was saved.
        now = f"@{time.time():.3f}"
        self.succeed(["date", "--utc", f"--set={now}"], user="root", deadline=Deadline.after(60))

    def disconnect(self) -> None:
        """End the shared connections of all users, also those that other processes opened."""
        for socket in self._sockets.glob(f"{self.profile.name}-*"):
            user = socket.name.removeprefix(f"{self.profile.name}-")
            command = ["ssh", "-F", str(self._config), "-O", "exit", f"{user}@{self.profile.name}"]
            with contextlib.suppress(CommandTimedOut):
                process.run(command, deadline=Deadline.after(5))
            socket.unlink(missing_ok=True)


class Keeper:
    """What can save a machine and bring it back; `vms.vagrant` has the one there is."""

    def save(self) -> None:
        """Remember memory and disk."""
        raise NotImplementedError

    def revert(self) -> None:
        """Go back to them."""
        raise NotImplementedError
