"""What only an administrator may do: make the shim setuid, and let users in.

Imports shim, host, policy and below. The shim makes itself root's (its `install`: a new inode, renamed into place);
this module chooses which shim, refuses places where that cannot work, and writes /etc/locald/policy.
"""

import fcntl
import grp
import os
import pwd
import re
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from locald import policy as rules
from locald import shim
from locald.errors import ProgramFailed
from locald.errors.admin import (
    PolicyForeign,
    SetupGroupUnknown,
    SetupPlaceRefused,
    SetupShimOlder,
    SetupUserMissing,
    SetupUserUnknown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = "/etc/locald/policy"
# What stands behind the policy's name in that of a draft.
DRAFT = re.compile(r"\.[0-9a-f]{16}")
# A setuid file that another machine can write is no barrier.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "fuse", "fuseblk"})


class Wishes(NamedTuple):
    """What the policy is to hold after the set-up."""

    users: list[rules.Account]
    groups: list[rules.Account]
    min_shim: rules.MinShim = "raise"


def find_users(named: "tuple[str, ...]", sudo_uid: str | None) -> list[rules.Account]:
    """Return whom to allow: those that were named, else whoever called sudo.

    Raises:
        SetupUserMissing: Neither (`admin.no-user`).
        SetupUserUnknown: A name without an account, or root (`admin.user-unknown`).
    """
    if named:
        return [_find_user(name) for name in named]
    if sudo_uid is None or sudo_uid == "0":
        raise SetupUserMissing
    return [_find_user(sudo_uid)]


def find_groups(named: "tuple[str, ...]") -> list[rules.Account]:
    """Return the groups to allow.

    Raises:
        SetupGroupUnknown: A name without a group, or root's (`admin.group-unknown`).
    """
    return [_find_group(name) for name in named]


def set_up(installation: shim.Installation, wishes: Wishes, *, policy: str = POLICY) -> list[str]:
    """Set up the shim of this installation; return what was done, a sentence each.

    Running it again changes nothing but what has to be: an upgrade brings a new shim.

    Raises:
        SetupPlaceRefused: It lies where setuid has no effect or another machine writes; nothing was touched.
        PolicyForeign: The policy is not one that locald may add to; nothing was touched.
        SetupShimOlder: The policy asks for a newer shim than this one; nothing was touched.
        ShimMissing, ProgramFailed: The shim is not there, or refused to install itself.
    """
    check_place(installation.shim)
    with _locked(policy):
        # Read before anything is changed: a policy that nobody understands stops the whole set-up.
        before = read_policy(policy)
        version = _read_version(installation.shim)
        after = _edit(policy, before, wishes, version, installation.setup_command())
        # First the shim: with the policy first, a crash in between would leave none that the policy takes.
        done = shim.run_install(installation.shim)
        if after != before:
            write_policy(policy, after)
    said = [
        f"{done.get('installed', installation.shim)} is root's and setuid now (build {done.get('build')})."
    ]
    names = ", ".join(_say(wishes))
    said.append(f"{policy} {'already lets' if after == before else 'lets'} in {names}.")
    said += _explain_prefix(installation.shim)
    return said


def _read_version(path: str) -> str:
    version = (shim.read_version(path) or {}).get("version")
    if not isinstance(version, str) or rules.parse_version(version) is None:
        raise ProgramFailed([path, "version"], "its answer is no version", b"")
    return version


def _edit(path: str, text: str, wishes: Wishes, version: str, setup: list[str]) -> str:
    try:
        text = rules.add_accounts(text, wishes.users, wishes.groups)
        return rules.demand_shim(text, version, wishes.min_shim)
    except rules.TooNew as error:
        raise SetupShimOlder(path, version, error.wanted, setup) from error
    except rules.PolicyFault as error:
        raise PolicyForeign(path, str(error)) from error


def check_place(path: str) -> None:
    """See that the shim is a file that can become setuid where it is.

    Raises:
        ShimMissing: It is no regular file.
        SetupPlaceRefused: Its file system is mounted nosuid, or is a network's.
    """
    status = shim.read_status(path)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        raise SetupPlaceRefused(path, "its file system is mounted nosuid")
    kind = file_system_of(status.st_dev)
    if kind.partition(".")[0] in NETWORK_FILE_SYSTEMS:
        raise SetupPlaceRefused(path, f"its file system is {kind}, which others can write to")


def file_system_of(device: int, mountinfo: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system with this device number; empty if no mount shows it (btrfs)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # 36 35 98:0 /root /point options… - type source superoptions (proc_pid_mountinfo(5))
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == wanted:
                return rest.split()[0]
    return ""


def read_policy(path: str) -> str:
    """Return the policy as it is, empty where there is none.

    Raises:
        PolicyForeign: It is no regular file, writable by others, or not understood whole.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PolicyForeign(path, error.strerror or str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PolicyForeign(path, "it is no regular file")
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise PolicyForeign(path, "somebody other than root can write to it")
        content = os.read(descriptor, rules.MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    text = rules.decode(content)
    try:
        rules.parse(text)
    except rules.PolicyFault as error:
        raise PolicyForeign(path, str(error)) from error
    return text


@contextmanager
def _locked(path: str) -> "Iterator[None]":
    """Make the policy's directory and keep other set-ups out of it: what two of them add, both of it stays."""
    directory = os.path.dirname(path)
    with suppress(FileExistsError):
        os.mkdir(directory, 0o755)
        os.chmod(directory, 0o755)  # noqa: S103  # everybody may see who is allowed
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise PolicyForeign(path, f"{directory} is not a directory that only root can write to")
    # A file of its own that root alone can open: a lock on the directory, or on the policy, anybody could hold.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(f"{path}.lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_policy(path: str, text: str) -> None:
    """Replace the policy in one step; a reader sees the old one or the new one, also after a power cut.

    The caller holds the lock: whatever drafts there are, nobody works on them any more.
    """
    directory = os.path.dirname(path)
    for name in os.listdir(directory):
        if DRAFT.fullmatch(name.removeprefix(os.path.basename(path))):
            os.unlink(os.path.join(directory, name))
    draft = f"{path}.{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(rules.encode(text))
            os.fchmod(descriptor, 0o644)
            file.flush()
            os.fsync(descriptor)
        os.rename(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def writers_of(path: str) -> list[int]:
    """Return the uids other than 0 that own a directory on the way to `path`, or -1 for a group or everybody."""
    found = []
    directory = os.path.dirname(path)
    while True:
        status = os.stat(directory)
        if status.st_uid != 0:
            found.append(status.st_uid)
        elif status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            found.append(-1)
        if directory == "/":
            return sorted(set(found))
        directory = os.path.dirname(directory)


def _explain_prefix(path: str) -> list[str]:
    writers = writers_of(path)
    if not writers:
        return []
    whose = ", ".join("several users" if uid == -1 else _find_user(str(uid)).name for uid in writers)
    said = (
        f"{os.path.dirname(path)} can be changed by {whose}: who owns it can remove the shim, or keep this version "
        "of it after an upgrade, but can neither change it nor make another one setuid. `min-shim` in the policy "
        "turns kept ones off. On a shared host install into a prefix of root's, such as /opt/locald."
    )
    return [said]


def _find_user(text: str) -> rules.Account:
    try:
        by_number = text.isascii() and text.isdecimal()
        entry = pwd.getpwuid(int(text)) if by_number else pwd.getpwnam(text)
    except (KeyError, OverflowError) as error:
        if text.isascii() and text.isdecimal() and 0 < int(text) < 2**32 - 1:
            # A uid without a name, as in many containers and directory services.
            return rules.Account(int(text), text)
        raise SetupUserUnknown(text, "there is no such user") from error
    if entry.pw_uid == 0:
        raise SetupUserUnknown(text, "root needs no shim")
    name = entry.pw_name
    return rules.Account(entry.pw_uid, name if name.isascii() and name.isprintable() else str(entry.pw_uid))


def _find_group(text: str) -> rules.Account:
    try:
        by_number = text.isascii() and text.isdecimal()
        entry = grp.getgrgid(int(text)) if by_number else grp.getgrnam(text)
    except (KeyError, OverflowError) as error:
        number = rules.parse_id(text)
        if number:
            return rules.Account(number, text)
        raise SetupGroupUnknown(text, "there is no such group") from error
    if entry.gr_gid == 0:
        raise SetupGroupUnknown(text, "it is root's")
    name = entry.gr_name
    return rules.Account(entry.gr_gid, name if name.isascii() and name.isprintable() else str(entry.gr_gid))


def _say(wishes: Wishes) -> list[str]:
    users = [f"{user.name} (uid {user.id})" for user in wishes.users]
    return users + [f"group {group.name} (gid {group.id})" for group in wishes.groups]
