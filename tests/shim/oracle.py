"""What no call of the shim may change on the host, in one place for all cases.

A canary is a file of root's own in a directory that a shim gone astray would write to. A snapshot holds the
canaries and what else a container must leave as it was. `differences` says in words what is new, changed or gone.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.shim.harness import Caller

CANARY = ".locald-canary"
SYSCTLS = tuple(
    """
    fs/suid_dumpable fs/protected_symlinks fs/protected_hardlinks kernel/core_pattern kernel/domainname
    kernel/hostname kernel/kptr_restrict kernel/modprobe kernel/randomize_va_space kernel/shmmax
    kernel/unprivileged_userns_clone kernel/yama/ptrace_scope net/ipv4/ip_forward
    net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range user/max_user_namespaces vm/overcommit_memory
    """.split()  # noqa: SIM905  # a list of words is read as words
)
CGROUPS = Path("/sys/fs/cgroup")
KITS = "kit-"
# Their names, owners and modes: what else lies there is the machine's own.
LISTED = ("/", "/dev", "/dev/mqueue", "/home", "/root", "/run")
# Nodes whose owner or mode other programs change while a test runs.
RESTLESS = ("/dev/tty", "/dev/ptmx", "/dev/console")

Snapshot = dict[str, object]


@dataclass
class Count:
    """What the closing summary says of all snapshots of this run."""

    compared: int = 0
    touched: int = 0


COUNT = Count()


class Host:
    """The host as the tests see it, with canaries in it."""

    def __init__(self, homes: Sequence[Path], callers: Sequence[Caller]) -> None:
        self._uids = frozenset(caller.uid for caller in callers)
        token = secrets.token_hex(4)
        places = [Path(name) for name in ("/", "/etc", "/root", "/dev", "/run")] + list(homes)
        self.canaries = [directory / f"{CANARY}.{token}" for directory in places if directory.is_dir()]

    @contextlib.contextmanager
    def canaries_planted(self) -> Iterator["Host"]:
        """Put the canaries out, and take them in again."""
        for path in self.canaries:
            path.unlink(missing_ok=True)
            path.write_text(secrets.token_hex())
            path.chmod(0o600)
        try:
            yield self
        finally:
            for path in self.canaries:
                path.unlink(missing_ok=True)

    def snapshot(self, *, processes: bool = True) -> Snapshot:
        """Return all of it; without the processes, which a tracer knows better, in about two milliseconds."""
        found: Snapshot = {}
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            found[f"mount {line.split()[0]}"] = line
        for name in SYSCTLS:
            with contextlib.suppress(OSError):
                found[f"sysctl {name}"] = Path("/proc/sys", name).read_text()
        found |= {f"cgroup {group}": "" for group in cgroups()}
        for directory in LISTED:
            found |= read_directory(directory)
        for pid in processes_of(self._uids) if processes else ():
            found[f"process {pid}"] = ""
        for path in self.canaries:
            found[f"canary {path}"] = read_canary(path)
        return found

    def differences(self, before: Snapshot, after: Snapshot) -> list[str]:
        """Return each difference in words, and count it."""
        COUNT.compared += 1
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name, None) != after.get(name, None)
        )
        COUNT.touched += any(name.startswith("canary ") for name in changed)
        return [
            f"{name}: {before.get(name, 'absent')!r} -> {after.get(name, 'absent')!r}" for name in changed
        ]


def read_canary(path: Path) -> tuple[object, ...]:
    """Return everything about a canary but when it was read."""
    status = path.lstat()
    fields = (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_ino,
        status.st_ctime_ns,
    )
    return (*fields, path.read_text())


def read_directory(directory: str) -> Snapshot:
    """Return owner, mode and device number of what lies in `directory`."""
    found: Snapshot = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                # Another run of these tests may have canaries of its own.
                if entry.path not in RESTLESS and not entry.name.startswith(CANARY):
                    found[f"file {entry.path}"] = (
                        status.st_mode,
                        status.st_uid,
                        status.st_gid,
                        status.st_rdev,
                    )
    return found


def cgroups() -> Iterator[str]:
    """Find the groups (of version 2) below that of this process: where a leaf would be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            unified = CGROUPS / "unified" if (CGROUPS / "unified").is_dir() else CGROUPS
            for directory, names, _ in os.walk(unified / line[3:].lstrip("/")):
                # The kit may judge this machine meanwhile, which needs no lock: what it delegates is its own.
                names[:] = [name for name in names if not name.startswith(KITS)]
                yield from (os.path.join(directory, name) for name in names)


def processes_of(uids: Iterable[int]) -> Iterator[int]:
    """Find the processes that an ordinary user of these tests started, or runs as; the shim keeps his real id."""
    wanted = frozenset(uids)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The owner of /proc/PID is root for what cannot be dumped: the shim.
            if wanted & {int(word) for word in read_uids(name)}:
                yield int(name)


def read_uids(pid: str) -> list[str]:
    """Return the real, effective, saved and file system uid of a process that is no zombie."""
    status = Path("/proc", pid, "status").read_text()
    if "\nState:\tZ" in status:
        return []
    return status.split("\nUid:\t", 1)[1].split("\n", 1)[0].split()


def find_foreign(trees: Iterable[Path], owner: int) -> list[str]:
    """Return what lies below `trees` and is not `owner`'s: what a race or a fault must never make."""
    found = []
    for tree in trees:
        for directory, names, files in os.walk(tree):
            for name in (*names, *files):
                path = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    if status.st_uid != owner:
                        found.append(f"{path}: uid {status.st_uid}, {stat.filemode(status.st_mode)}")
    return found
