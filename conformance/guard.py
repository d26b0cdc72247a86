"""Runs in the guest as root: canaries of root's, and what of the machine a call may not change, before and after it.

A canary is a file that only root may touch, in a directory that a shim gone astray would write to. The standard
library of Python 3.9, `look` for the names of settings, and nothing else. It judges nothing: it says what differs.
"""

# Python 3.9 would evaluate the annotations.
from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

from conformance.look import SYSCTLS, read
from conformance.looks import is_of_neighbour, list_mounts, read_mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = ("/", "/etc", "/root", "/dev", "/run")
CANARY = ".locald-canary"
# Names with owner, mode and device number; what lies deeper is the machine's own business.
LISTED = ("/", "/dev", "/dev/mqueue", "/etc", "/home", "/root", "/run")
# Whoever uses a terminal changes these; the others are made by a first call of the shim.
RESTLESS = ("/dev/tty", "/dev/ptmx", "/dev/console", "/run/locald-shim", "/etc/mtab")
AF_VSOCK = 40
CGROUPS = "/sys/fs/cgroup"
STATE = "/run/locald-shim"
ENDING_LIMIT_S = 3.0
PR_SET_CHILD_SUBREAPER = 36
FIRST_UID = 1000

State = dict[str, str]


class Guard:
    """The machine before a call, with canaries in it."""

    def __init__(self, tokens: list[str]) -> None:
        """Plant the canaries and look.

        Args:
            tokens: The names of the call's jobs: what carries another worker's is a neighbour's.
        """
        self._tokens = tokens
        adopt_orphans()
        # The first socket of this family, which cases outside of containers ask for, brings a module and its nodes in
        # /dev. Here, so that they are there before anybody compares.
        with contextlib.suppress(OSError):
            socket.socket(AF_VSOCK, socket.SOCK_STREAM).close()
        self._canaries = plant_canaries()
        self._before = self._look()

    def end(self) -> dict[str, Any]:
        """Take the canaries in again and return what differs, in words, with how much was compared."""
        end = time.monotonic() + ENDING_LIMIT_S
        # What was just killed may take a moment.
        while find_children() and time.monotonic() < end:
            time.sleep(0.02)
        after = self._look() | {f"process {pid}": words for pid, words in find_children().items()}
        # Not looked for before: the tokens are new.
        for path in find_traces():
            if any(token in path for token in self._tokens):
                after[f"trace {path}"] = "there"
        for path in self._canaries:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        changes = [
            f"{name}: {self._before.get(name, 'absent')} -> {after.get(name, 'absent')}"
            for name in sorted(self._before.keys() | after.keys())
            if self._before.get(name) != after.get(name)
        ]
        return {"canaries": self._canaries, "compared": len(self._before), "changes": changes}

    def _look(self) -> State:
        found = {f"sysctl {name}": read(f"/proc/sys/{name}") for name in SYSCTLS}
        for line in list_mounts(read_mountinfo()):
            if is_of_neighbour(line, self._tokens):
                continue
            found[f"mount {line}"] = f"{int(found.get(f'mount {line}', '0')) + 1}"
        for directory in LISTED:
            found |= read_directory(directory)
        for path in self._canaries:
            found[f"canary {path}"] = read_canary(path)
        return found


def adopt_orphans() -> None:
    """Let whatever a job leaves become a child of this process, whichever name or environment it gave itself."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def plant_canaries() -> list[str]:
    """Put a file of root's into each place and into the home of each ordinary user; return their paths."""
    homes = {user.pw_dir for user in pwd.getpwall() if user.pw_uid >= FIRST_UID}
    name = f"{CANARY}.{secrets.token_hex(4)}"
    planted = []
    for directory in (*PLACES, *sorted(homes)):
        with contextlib.suppress(OSError):
            number = os.open(
                f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600
            )
            with open(number, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex())
            planted.append(f"{directory}/{name}")
    return planted


def read_canary(path: str) -> str:
    """Return everything about a canary but when it was read."""
    try:
        status = os.lstat(path)
        content = read(path)
    except OSError as error:
        return f"({error.strerror})"
    fields = (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_ino,
        status.st_ctime_ns,
    )
    return f"{fields} {content}"


def read_directory(directory: str) -> State:
    """Return owner, mode and device number of what lies in `directory`."""
    found: State = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            # A neighbour's guard has canaries of its own.
            if entry.path in RESTLESS or entry.name.startswith(CANARY):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found[f"file {entry.path}"] = (
                    f"{status.st_uid}:{status.st_gid} {status.st_mode:o} {status.st_rdev}"
                )
    return found


def find_traces() -> Iterator[str]:
    """Return cgroups and entries of the shim's state directory: a container's own must be gone with it."""
    yield from list_directories(CGROUPS)
    for directory, names, files in os.walk(STATE):
        yield from (f"{directory}/{name}" for name in (*names, *files))


def list_directories(top: str) -> Iterator[str]:
    """Return the directories below `top`; a cgroup has dozens of files, and most have no cgroup in them."""
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        with contextlib.suppress(OSError):
            # Two names, its own and `.`: as in every file system of the kernel's own, nothing is in it to go to.
            if os.stat(directory).st_nlink == 2:
                continue
            with os.scandir(directory) as entries:
                inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            yield from inner
            waiting += inner


def find_children() -> dict[int, str]:
    """Collect what has ended of this process's children; return the others with their names."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return {}
    own, found = os.getpid(), {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream,
            ):
                words = stream.read()
                if int(words.rpartition(")")[2].split()[1]) == own:
                    found[int(name)] = words.partition("(")[2].rpartition(")")[0]
    return found
