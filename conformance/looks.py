"""Runs in the guest as root: look at files, mounts, processes and the kernel's log. Changes nothing.

The standard library of Python 3.9 and nothing else.
"""

# Python 3.9 would evaluate the annotations.
from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# As `Subject.make_token` makes it.
TOKEN = re.compile(r"kit-[a-z0-9]+-[0-9a-f]+-[0-9]+")


def list_tree(path: str) -> Iterator[str]:
    """Name every entry below `path` with its owner and kind, without crossing into other file systems."""
    try:
        device = os.lstat(path).st_dev
    except FileNotFoundError:
        return
    stack = [""]
    while stack:
        inside = stack.pop()
        try:
            entries = list(os.scandir(f"{path}/{inside}"))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield f"{inside}{entry.name} {status.st_uid}:{status.st_gid} {stat.filemode(status.st_mode)}"
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                stack.append(f"{inside}{entry.name}/")


def read_mountinfo() -> str:
    """Return this mount namespace's mounts as the kernel tells of them: proc(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        return stream.read()


def list_mounts(mountinfo: str) -> list[str]:
    """Return the mounts without their numbers and without those of login sessions."""
    mounts = [" ".join(line.split()[3:]) for line in mountinfo.splitlines()]
    return [mount for mount in mounts if not is_of_session(mount)]


def is_of_session(mount: str) -> bool:
    """Say whether it is a user's runtime directory: logind's, from his first login to the end of his last."""
    parent, _, uid = mount.split()[1].rpartition("/")
    return parent == "/run/user" and uid.isdigit()


def is_of_neighbour(mount: str, tokens: Collection[str]) -> bool:
    """Say whether it lies in a place that another worker's jobs named: one worker's run one after the other."""
    own = {worker_of(token) for token in tokens}
    return any(worker_of(token) not in own for token in TOKEN.findall(mount.split()[1]))


def worker_of(token: str) -> str:
    """Return what the tokens of one worker begin with."""
    return token.rpartition("-")[0]


def read_state(pid: int) -> str:
    """Return the state of a process, as a letter of proc(5)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        return stream.read().rpartition(")")[2].split()[0]


def list_processes() -> set[str]:
    """Return the numbers of all processes, as names below /proc."""
    return {name for name in os.listdir("/proc") if name.isdigit()}


def find_processes(token: str, older: Collection[str] = ()) -> dict[int, str]:
    """Return the living processes that carry `token` in their arguments or environment.

    Args:
        token: The name of a job.
        older: Processes from before that job: they cannot know it, and to read all of them takes longer than most jobs.
    """
    needle, found = token.encode(), {}
    for name in list_processes().difference(older):
        if int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as stream:
                words = stream.read()
            with open(f"/proc/{name}/environ", "rb") as stream:
                environ = stream.read()
            with open(f"/proc/{name}/stat", "rb") as stream:
                state = stream.read().rpartition(b")")[2].split()[0]
            if (needle in words or needle in environ) and state not in b"ZX":
                found[int(name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


@contextlib.contextmanager
def kernel_log() -> Iterator[list[str]]:
    """Collect the kernel's log lines of the time between, audit lines included."""
    lines: list[str] = []
    try:
        number = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        yield lines
        return
    try:
        os.lseek(number, 0, os.SEEK_END)
        yield lines
        while len(lines) < 200:
            try:
                record = os.read(number, 8192)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten before it was read
                    continue
                break
            lines.append(record.decode(errors="replace").partition(";")[2].partition("\n")[0])
    finally:
        os.close(number)
