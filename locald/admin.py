"""What only an administrator may do: make the shim setuid, and let users in.

Imports shim, host and below. The shim makes itself root's (its `install`: a new inode, renamed into place);
this module chooses which shim, refuses places where that cannot work, and writes /etc/locald/policy.
"""

import os
import pwd
import stat
from contextlib import suppress
from typing import NamedTuple

from locald import shim
from locald.errors.admin import PolicyForeign, SetupPlaceRefused, SetupUserMissing, SetupUserUnknown

POLICY = "/etc/locald/policy"
MAX_POLICY_BYTES = 64 * 1024
KEYS = frozenset({"version", "allow-user", "allow-group", "min-shim", "max-containers"})
HEADER = (
    "# Who may run containers through locald-shim. `locald admin setup` adds to this file and changes nothing\n"
    "# else in it. Keys: version, allow-user, allow-group, min-shim, max-containers (docs/manual).\n"
    "version = 1\n"
)
# A setuid file that another machine can write is no barrier.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "fuse", "fuseblk"})


class Account(NamedTuple):
    """A user of this host."""

    uid: int
    name: str


def find_users(named: "tuple[str, ...]", sudo_uid: str | None) -> list[Account]:
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


def set_up(installation: shim.Installation, users: list[Account], *, policy: str = POLICY) -> list[str]:
    """Set up the shim of this installation for `users`; return what was done, a sentence each.

    Running it again changes nothing but what has to be: an upgrade brings a new shim.

    Raises:
        SetupPlaceRefused: It lies where setuid has no effect or another machine writes; nothing was touched.
        PolicyForeign: The policy is not one that locald may add to; nothing was touched.
        ShimMissing, ProgramFailed: The shim is not there, or refused to install itself.
    """
    check_place(installation.shim)
    # Read before anything is changed: a policy that nobody understands stops the whole set-up.
    before = read_policy(policy)
    after = add_users(before, users)
    done = shim.run_install(installation.shim)
    said = [
        f"{done.get('installed', installation.shim)} is root's and setuid now (build {done.get('build')})."
    ]
    if after == before:
        said.append(f"{policy} already lets in {_names(users)}.")
    else:
        write_policy(policy, after)
        said.append(f"{policy} lets in {_names(users)}.")
    said += _explain_prefix(installation.shim)
    return said


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
        PolicyForeign: It is no regular file, too long, writable by others, or holds what locald does not know.
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
        content = os.read(descriptor, MAX_POLICY_BYTES + 1)
    finally:
        os.close(descriptor)
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise PolicyForeign(path, "it holds other than ASCII") from error
    if len(content) > MAX_POLICY_BYTES:
        raise PolicyForeign(path, f"it is longer than {MAX_POLICY_BYTES} bytes")
    versions = [value for key, value in _entries(path, text) if key == "version"]
    if versions not in (["1"], []) or (text and not versions):
        raise PolicyForeign(path, "it does not say `version = 1`, once")
    return text


def add_users(text: str, users: list[Account]) -> str:
    """Return the policy with a line for each user that it does not name yet, by number or by name."""
    known = {value for key, value in _entries(POLICY, text) if key == "allow-user"}
    lines = [
        f"allow-user = {user.uid}  # {user.name}\n"
        for user in users
        if not known & {str(user.uid), user.name}
    ]
    if not lines and text:
        return text
    text = text or HEADER
    return text + ("" if text.endswith("\n") else "\n") + "".join(lines)


def write_policy(path: str, text: str) -> None:
    """Replace the policy in one step; a reader sees the old one or the new one, also after a power cut."""
    directory = os.path.dirname(path)
    with suppress(FileExistsError):
        os.mkdir(directory, 0o755)
        os.chmod(directory, 0o755)  # noqa: S103  # everybody may see who is allowed
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise PolicyForeign(path, f"{directory} is not a directory that only root can write to")
    temporary = f"{path}.{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode("ascii"))
            os.fchmod(descriptor, 0o644)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
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
        "of it after an upgrade, but can neither change it nor make another one setuid. `min-shim = VERSION` in "
        "the policy turns old ones off. On a shared host install into a prefix of root's, such as /opt/locald."
    )
    return [said]


def _entries(path: str, text: str) -> "list[tuple[str, str]]":
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        key, equals, value = (part.strip() for part in content.partition("="))
        if not equals or key not in KEYS:
            raise PolicyForeign(path, f"line {number} is nothing that locald knows")
        found.append((key, value))
    return found


def _find_user(text: str) -> Account:
    try:
        by_number = text.isascii() and text.isdecimal()
        entry = pwd.getpwuid(int(text)) if by_number else pwd.getpwnam(text)
    except (KeyError, OverflowError) as error:
        if text.isascii() and text.isdecimal() and 0 < int(text) < 2**32 - 1:
            # A uid without a name, as in many containers and directory services.
            return Account(int(text), text)
        raise SetupUserUnknown(text, "there is no such user") from error
    if entry.pw_uid == 0:
        raise SetupUserUnknown(text, "root needs no shim")
    name = entry.pw_name
    return Account(entry.pw_uid, name if name.isascii() and name.isprintable() else str(entry.pw_uid))


def _names(users: list[Account]) -> str:
    return ", ".join(f"{user.name} (uid {user.uid})" for user in users)
