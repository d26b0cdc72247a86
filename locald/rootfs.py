"""Look things up in an unpacked image: paths and accounts. Follows no link out of it, loads nothing from it.

Imports spec and errors. The tree belongs to the caller and no process of the image runs while it is read, so
a component that was seen to be no link stays one: paths are walked by hand instead of by openat2, which
Python does not offer.
"""

import os
import stat
from typing import NamedTuple

from locald.errors.run import AccountUnusable, UserUnknown, VolumeUnusable
from locald.spec import Account, clean_path

MAX_LINKS = 40  # as the kernel (path_resolution(7))
MAX_TABLE_BYTES = 4 * 1024 * 1024
MAX_ID = 2**32 - 2
MAX_PATH_BYTES = 4095  # PATH_MAX, less its NUL


class Found(NamedTuple):
    """Where a path of the image really is: absolute inside the tree, free of links; missing parts included."""

    path: str
    mode: int | None  # st_mode, or None where there is nothing

    @property
    def is_directory(self) -> bool:
        """Tell whether a directory is there."""
        return self.mode is not None and stat.S_ISDIR(self.mode)


def find_path(root: str, path: str) -> Found:
    """Resolve `path` as a process whose root is `root` would.

    Raises:
        VolumeUnusable: A loop of links, or a component that is no directory (`run.volume`).
    """
    waiting = _components(path)
    done: list[str] = []
    turns = 0
    mode: int | None = stat.S_IFDIR
    while waiting:
        name = waiting.pop()
        if name == "..":
            del done[-1:]
            mode = stat.S_IFDIR
            continue
        mode = _look(path, "/".join([root, *done, name]))
        if mode is None and ".." not in waiting:
            return Found("/" + "/".join([*done, name, *reversed(waiting)]), None)
        if mode is not None and not stat.S_ISLNK(mode):
            done.append(name)
            continue
        turns += 1
        if turns > MAX_LINKS:
            raise VolumeUnusable(path, "the image has a loop of symbolic links there")
        if mode is None:
            # `..` after what is missing can only be taken literally; what it leads to may be there.
            waiting = _components(clean_path("/" + "/".join([*done, name, *reversed(waiting)])))
            done = []
        else:
            target = os.readlink("/".join([root, *done, name]))
            done = [] if target.startswith("/") else done
            waiting += _components(target)
        mode = stat.S_IFDIR
    return Found("/" + "/".join(done), mode)


def _look(path: str, here: str) -> int | None:
    """Return the mode of what is `here`, not following a link; None where there is nothing."""
    try:
        return os.lstat(here).st_mode
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise VolumeUnusable(path, "it leads through something that is no directory") from error
    except OSError as error:
        raise VolumeUnusable(path, error.strerror or str(error)) from error


def read_file(root: str, path: str) -> bytes:
    """Return the content of a small file of the image; nothing where there is no regular file."""
    try:
        found = find_path(root, path)
    except VolumeUnusable:
        return b""
    if found.mode is None or not stat.S_ISREG(found.mode):
        return b""
    try:
        descriptor = os.open(root + found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        return file.read(MAX_TABLE_BYTES)


def read_table(root: str, path: str) -> list[list[str]]:
    """Return the lines of a table such as /etc/passwd, split at colons."""
    lines = (os.fsdecode(line.strip()) for line in read_file(root, path).split(b"\n"))
    return [line.split(":") for line in lines if line and not line.startswith("#")]


def find_account(root: str, user: str) -> Account:
    """Return who `user` is in the image: "", NAME, UID, or either with `:GROUP` or `:GID`.

    Raises:
        UserUnknown: A name that the image's own files do not have, or a number above 2³² - 2 (`user.unknown`).
        AccountUnusable: The home in its entry is nothing that $HOME can be (`user.entry`).
    """
    name, colon, group = user.partition(":")
    number = _number(name or "0", "passwd")
    entries = [entry for entry in read_table(root, "/etc/passwd") if _is_passwd(entry)]
    entry = next(
        (entry for entry in entries if (entry[0] == name if number is None else int(entry[2]) == number)),
        None,
    )
    if entry is None and number is None:
        raise UserUnknown(name, "/etc/passwd")
    uid = int(entry[2]) if entry is not None else number or 0
    home = _find_home(entry) if entry is not None else "/"
    if colon and group:
        return Account(uid=uid, gid=_find_gid(root, group), home=home)
    if entry is None:
        return Account(uid=uid, gid=0, home=home)
    gid = int(entry[3])
    members = (
        int(line[2])
        for line in read_table(root, "/etc/group")
        if _is_group(line) and entry[0] in line[3].split(",")
    )
    groups = tuple(sorted({number for number in members if number != gid}))
    return Account(uid=uid, gid=gid, groups=groups, home=home)


def _find_home(entry: list[str]) -> str:
    """Return the home of a passwd entry, / where it is not absolute. Nothing else of the entry's text is passed on."""
    name, home = entry[0], entry[5]
    if not home.startswith("/"):
        return "/"
    if "\0" in home:
        raise AccountUnusable("/etc/passwd", name, "its home directory holds a NUL")
    if len(os.fsencode(home)) > MAX_PATH_BYTES:
        reason = f"its home directory has more than the {MAX_PATH_BYTES} bytes of a path"
        raise AccountUnusable("/etc/passwd", name, reason)
    return home


def _find_gid(root: str, group: str) -> int:
    number = _number(group, "group")
    if number is not None:
        return number
    for line in read_table(root, "/etc/group"):
        if _is_group(line) and line[0] == group:
            return int(line[2])
    raise UserUnknown(group, "/etc/group")


def _number(text: str, table: str) -> int | None:
    # isdecimal alone would let other scripts' digits through.
    if not (text.isascii() and text.isdecimal()):
        return None
    if len(text) > len(str(MAX_ID)) or int(text) > MAX_ID:
        raise UserUnknown(text, f"/etc/{table}")
    return int(text)


def _is_passwd(entry: list[str]) -> bool:
    return len(entry) == 7 and _is_id(entry[2]) and _is_id(entry[3])  # noqa: PLR2004  # passwd(5)


def _is_group(entry: list[str]) -> bool:
    return len(entry) == 4 and _is_id(entry[2])  # noqa: PLR2004  # group(5)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_ID)) and int(text) <= MAX_ID


def _components(path: str) -> list[str]:
    """Return the components of a path, last one first."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]
