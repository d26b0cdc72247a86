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

from vms import process
from vms.deadline import Deadline
from vms.errors import CommandTimedOut, GuestLost
from vms.guest import DEFAULT_LIMIT_S, Guest, Revertible
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
        # First: the default is against computers that an emulated processor has no need to fear, and takes it a second.
        "KexAlgorithms": "^curve25519-sha256",
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


class SshGuest(Guest):
    """A guest that is reached by ssh; `testinfra(user)` offers testinfra's modules on it."""

    def __init__(
        self,
        profile: Profile,
        identity: Mapping[str, str],
        *,
        config: Path,
        sockets: Path,
        snapshots: Revertible,
    ) -> None:
        super().__init__(profile, identity)
        self._config = config
        self._sockets = sockets
        self._snapshots = snapshots
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

    def carry(self, line: bytes, *, user: str, stdin: bytes, limit_s: float) -> process.Finished:
        """See `Guest.carry`."""
        end = Deadline.after(limit_s + SLACK_S)
        return self.backend(user).run_bounded(line, stdin=stdin, deadline=end)

    def enter(self, line: bytes, user: str) -> Sequence[process.Argument]:
        """See `Guest.enter`."""
        return self.backend(user).make_command(line)

    def shell(self, user: str = "root") -> Sequence[str]:
        """See `Guest.shell`."""
        self.check_user(user)
        return ["ssh", "-F", str(self._config), "-t", f"{user}@{self.profile.name}"]

    def save(self) -> None:
        """Remember memory and disk as they are now."""
        self._snapshots.save()

    def revert(self) -> None:
        """Go back to what was saved; the clock is set again and old connections are replaced."""
        disconnect(self.profile.name, config=self._config, sockets=self._sockets)
        self._snapshots.revert()
        self.set_clock()

    def set_clock(self) -> None:
        """Give a guest that was restored the time: its clock stands where it stood when it was saved."""
        now = f"@{time.time():.3f}"
        self.succeed(["date", "--utc", f"--set={now}"], user="root", deadline=Deadline.after(60))


def disconnect(name: str, *, config: Path, sockets: Path) -> None:
    """End the shared connections of all users to a machine, also those that other processes opened."""
    for socket in sockets.glob(f"{name}-*"):
        user = socket.name.removeprefix(f"{name}-")
        command = ["ssh", "-F", str(config), "-O", "exit", f"{user}@{name}"]
        with contextlib.suppress(CommandTimedOut):
            process.run(command, deadline=Deadline.after(5))
        socket.unlink(missing_ok=True)
