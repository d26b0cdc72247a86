"""The `local` kind of machine: this one, seen from private namespaces that vanish without a trace.

A holder process keeps the namespaces; commands enter them and become their user by setpriv(1). All
that runs in there is in the holder's pid namespace, so ending the holder ends all of it.
"""

import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vms import engines, home, process
from vms.deadline import Deadline
from vms.errors import BootError, CommandTimedOut, GuestLost, HostNotReady, NotRunning
from vms.guest import Guest
from vms.profile import Profile

FILES = Path(__file__).parent / "box_files"
SLACK_S = 5.0
"""How long after its deadline a command may still take to be ended and to answer."""

PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "script": "bsdutils",
    "find": "findutils",
    "ip": "iproute2",
    "useradd": "passwd",
    "sudo": "sudo",
    "timeout": "coreutils",
}
"""Programs that have to be there, and Debian's package of each."""


def missing_packages() -> tuple[str, ...]:
    """Return those that are not there, told by their programs."""
    return tuple(sorted({package for name, package in PROGRAMS.items() if not process.find_program(name)}))


def require() -> None:
    """Raise HostNotReady, with the line that mends it, unless this machine can be used so."""
    if os.geteuid() != 0:
        raise HostNotReady("the profile `local` makes namespaces as root", hint="run it by sudo")
    if missing := missing_packages():
        line = f"apt-get install --no-install-recommends {' '.join(missing)}"
        raise HostNotReady(f"packages are missing: {', '.join(missing)}", hint=line)
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        raise HostNotReady("the kernel knows no overlay file system", hint="modprobe overlay")


def up(profile: Profile, *, report: Callable[[str], None], limit_s: float, cold: bool = False) -> None:
    """Start the holder and wait until commands may enter.

    Raises:
        HostNotReady: See `require`.
        BootError: The namespaces could not be made; the message has what was said.
    """
    del cold  # its namespaces are always new
    require()
    start, deadline = time.monotonic(), Deadline.after(limit_s)
    directory = home.machine(profile.name)
    log = directory / "holder.log"
    log.write_bytes(b"")
    plan = {
        "overlays": profile.sandbox.overlays,
        "fresh": profile.sandbox.fresh,
        "users": profile.users,
        # Its text, not its path: this tree may lie below what the sandbox covers, such as /home.
        "make_users": (FILES / "make-users.sh").read_text(),
        "search": engines.make_search(profile.allowed_engines),
    }
    namespaces = ("--mount", "--propagation=private", "--pid", "--ipc", "--uts", "--net")
    command = ["unshare", *namespaces, "--fork", "--kill-child", "--mount-proc", "--"]
    command += [sys.executable, "-I", str(FILES / "local_init.py"), json.dumps(plan)]
    outer = process.start(command, log=log)
    try:
        _wait_until_ready(outer, log, deadline)
        inner = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())
        # Made aside: half of it would tell of no holder, and this one would stay for good.
        part = directory / "holder.json.part"
        part.write_text(json.dumps({"pid": inner, "started": _start_time(inner)}))
        part.rename(directory / "holder.json")
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(outer, signal.SIGKILL)
        raise
    report(f"{profile.name} was ready in {time.monotonic() - start:.1f} s")


def _wait_until_ready(outer: int, log: Path, deadline: Deadline) -> None:
    while "ready\n" not in log.read_text():
        if process.has_ended(outer) or deadline.passed:
            why = "not in time" if deadline.passed else "it failed"
            raise BootError(f"the namespaces could not be made, {why}: {log.read_text().strip()}")
        time.sleep(0.05)


def is_up(profile: Profile) -> bool:
    """Whether the holder is there."""
    return find_holder(profile) is not None


def find_holder(profile: Profile) -> int | None:
    """Return the holder's process id, or None if it is not there (any more), or if its note is not one."""
    try:
        state = json.loads((home.machine(profile.name) / "holder.json").read_text())
        pid, started = int(state["pid"]), str(state["started"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    # The id alone could by now be somebody else's.
    return pid if _start_time(pid) == started else None


def destroy(profile: Profile) -> None:
    """End the holder, and by that everything in its namespaces. Harmless if there is none."""
    pid = find_holder(profile)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        deadline = Deadline.after(10)
        while find_holder(profile) is not None:
            if deadline.passed:
                raise GuestLost(f"process {pid} does not end")
            time.sleep(0.02)
    (home.machine(profile.name) / "holder.json").unlink(missing_ok=True)


def connect(profile: Profile) -> "LocalGuest":
    """Return a handle; NotRunning unless `up` was called."""
    pid = find_holder(profile)
    if pid is None:
        raise NotRunning(f"{profile.name} is not up", hint=f"ci/nox -s vms -- up {profile.name}")
    identity = {
        "profile": profile.name,
        "kernel": platform.release(),
        "accelerator": "none",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
    }
    return LocalGuest(profile, identity, pid)


class LocalGuest(Guest):
    """Commands enter the holder's namespaces, as the user they are for."""

    # setpriv keeps TERM and nothing else of this.
    environment: Mapping[str, str] | None = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"}

    def __init__(self, profile: Profile, identity: Mapping[str, str], holder: int) -> None:
        super().__init__(profile, identity)
        self._holder = holder

    def carry(self, line: bytes, *, user: str, stdin: bytes, limit_s: float) -> process.Finished:
        """See `Guest.carry`."""
        end = Deadline.after(limit_s + SLACK_S)
        try:
            return process.run(self.enter(line, user), stdin=stdin, env=self.environment, deadline=end)
        except CommandTimedOut as error:
            raise GuestLost(str(error)) from error

    def enter(self, line: bytes, user: str) -> Sequence[process.Argument]:
        """See `Guest.enter`."""
        return [*self._enter(user), "/bin/sh", "-c", line]

    def shell(self, user: str = "root") -> Sequence[str]:
        """See `Guest.shell`."""
        self.check_user(user)
        return [*self._enter(user), "/bin/sh", "-c", 'cd && exec "$SHELL" -l']

    def _enter(self, user: str) -> list[str]:
        namespaces = ("--mount", "--pid", "--ipc", "--uts", "--net")
        ids = (f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env")
        return ["nsenter", f"--target={self._holder}", *namespaces, "setpriv", *ids, "--"]


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if there is none or it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, field 2, is in parentheses and may contain anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
