"""What no call of the shim may change on the host, in one place for all cases.

A canary is a file of root's own in a directory that a shim gone astray would write to. A snapshot holds the
canaries and what else a container must leave as it was. `differences` says in words what is new, changed or gone;
a process that ended is none of it, since only the callers' own are looked for, and each may end when it likes.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance.guard import list_directories
from tests.fixtures.users import read_ranges
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
MOUNTS = Path("/proc/self/mountinfo")
OWN_GROUPS = Path("/proc/self/cgroup")
SUBORDINATE = Path("/etc/subuid")
# Who pays for a caller's namespaces (docs/decisions/0004).
KEEPER = 1 << 31
KITS = "/kit-"
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


@dataclass(frozen=True)
class Process:
    """A process in a snapshot: that it is there is compared, what it is called says whose it may be."""

    words: str = field(compare=False)


class Host:
    """The host as the tests see it, with canaries in it."""

    def __init__(self, homes: Sequence[Path], callers: Sequence[Caller]) -> None:
        self._ids = ids_of(callers, SUBORDINATE)
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
        for line in MOUNTS.read_text().splitlines():
            found[f"mount {line.split()[0]}"] = line
        for name in SYSCTLS:
            with contextlib.suppress(OSError):
                found[f"sysctl {name}"] = Path("/proc/sys", name).read_text()
        found |= {f"cgroup {group}": "" for group in find_cgroups(OWN_GROUPS.read_text(), MOUNTS.read_text())}
        for directory in LISTED:
            found |= read_directory(directory)
        for pid, words in processes_of(self._ids).items() if processes else ():
            found[f"process {pid}"] = Process(words)
        for path in self.canaries:
            found[f"canary {path}"] = read_canary(path)
        return found

    def differences(self, before: Snapshot, after: Snapshot) -> list[str]:
        """Return each difference in words, and count it."""
        COUNT.compared += 1
        changed = changes(before, after)
        COUNT.touched += any(name.startswith("canary ") for name in changed)
        return [
            f"{name}: {before.get(name, 'absent')!r} -> {after.get(name, 'absent')!r}" for name in changed
        ]


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the names of what is new, changed or gone, in order."""
    return sorted(
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name) and not (name.startswith("process ") and name not in after)
    )


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


def find_cgroups(own: str, mounts: str) -> Iterator[str]:
    """Find the groups below that of this process, in every hierarchy: where a leaf would be made.

    Args:
        own: /proc/self/cgroup.
        mounts: /proc/self/mountinfo.
    """
    groups = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        groups[frozenset(controllers.split(","))] = path
    for line in mounts.splitlines():
        fields, _, more = line.partition(" - ")
        root, point = fields.split()[3:5]
        kind, _, options = more.split()
        # A bind of a part of a hierarchy says nothing of where this process is.
        if root != "/" or kind not in ("cgroup", "cgroup2"):
            continue
        # A hierarchy of version 1 has its controllers, or its name, among its options; version 2 has none.
        words = {""} if kind == "cgroup2" else set(options.split(","))
        for names, path in groups.items():
            if names <= words:
                # The kit may judge this machine meanwhile, which needs no lock: what it delegates is its own.
                yield from (each for each in list_directories(point + path) if KITS not in each)


def ids_of(callers: Iterable[Caller], table: Path) -> list[range]:
    """Return the ids that a container of these callers can run under: their own, the keeper's, the subordinate ones."""
    ids = []
    for caller in callers:
        ids += [range(caller.uid, caller.uid + 1), range(caller.uid | KEEPER, (caller.uid | KEEPER) + 1)]
        ids += [
            range(first, first + count)
            for name, first, count in read_ranges(table)
            if name in (caller.name, str(caller.uid))
        ]
    return ids


def processes_of(ids: Sequence[range]) -> dict[int, str]:
    """Find the processes that have one of `ids` among theirs, with what they are called.

    The shim keeps its caller's id as the real one, and the owner of its /proc/PID is root: it cannot be dumped.
    """
    ended: set[str] = set()
    while True:
        found, missed = {}, set()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            # Once for both: it may have ended before it is looked at again.
            status = read_status(name)
            if any(int(word) in span for word in uids_in(status) for span in ids):
                found[int(name)] = describe(status)
            if not status:
                missed.add(name)
        # What ended since it was listed may have left a child that was not listed yet.
        if missed <= ended:
            return found
        ended |= missed


def read_status(pid: str) -> str:
    """Return the status of a process (proc_pid_status(5)); nothing of one that has ended."""
    try:
        status = Path("/proc", pid, "status").read_text()
    except OSError:
        return ""
    return "" if "\nState:\tZ" in status else status


def uids_in(status: str) -> list[str]:
    """Return the real, effective, saved and file system uid."""
    return status.split("\nUid:\t", 1)[1].split("\n", 1)[0].split() if status else []


def describe(status: str) -> str:
    """Return the name of a process and those of its ancestors, the nearest first."""
    names = []
    while status:
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        names.append(f"{fields['Name']} {fields['Pid']}")
        if fields["PPid"] == "0":
            return " < ".join(names)
        status = read_status(fields["PPid"])
    return " < ".join([*names, "(ended)"])


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
