"""Make the directories and files in a root filesystem that a container's mounts and working directory need.

Imports the standard library only: where the tree's directories belong to subordinate ids, it runs by itself
as root of a user namespace (runtime.py). Every path is absolute below the root and free of links.
"""

import os
import sys
from typing import NamedTuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Below these the shim makes mounts of its own, so they have to exist.
FIXED = ("/proc", "/sys", "/dev")
# As Docker and podman make them, whatever the umask.
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


class Owner(NamedTuple):
    """Numbers on disk of the owner of what is made; without one it is the process's own."""

    uid: int
    gid: int


def make_mountpoints(root: str, directories: "list[str]", files: "list[str]", owner: Owner | None) -> None:
    """Make what is missing below `root`; a file is empty.

    Raises:
        OSError: Among them NotADirectoryError where something else is in the way.
    """
    root_fd = os.open(root, _DIRECTORY)
    try:
        for path in directories:
            os.close(_open_made(root_fd, path, owner))
        for path in files:
            _make_file(root_fd, path, owner)
    finally:
        os.close(root_fd)


def _make_file(root: int, path: str, owner: Owner | None) -> None:
    directory, _, name = path.rpartition("/")
    parent = _open_made(root, directory, owner)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
    except FileExistsError:
        return
    finally:
        os.close(parent)
    _finish(descriptor, FILE_MODE, owner)
    os.close(descriptor)


def _open_made(root: int, path: str, owner: Owner | None) -> int:
    """Open the directory `path`, after making what is missing of it."""
    current = os.dup(root)
    for name in filter(None, path.split("/")):
        try:
            made = _make_directory(current, name)
            child = os.open(name, _DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = child
        if made:
            _finish(current, DIRECTORY_MODE, owner)
    return current


def _make_directory(parent: int, name: str) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _finish(descriptor: int, mode: int, owner: Owner | None) -> None:
    if owner is not None:
        os.fchown(descriptor, owner.uid, owner.gid)
    os.fchmod(descriptor, mode)


def argv(root: str, directories: "list[str]", files: "list[str]", owner: Owner) -> list[str]:
    """Return the command that makes them in another process."""
    words = [*(f"d{path}" for path in directories), *(f"f{path}" for path in files)]
    numbers = [str(owner.uid), str(owner.gid)]
    return [sys.executable, "-P", "-m", "locald.mountpoints", root, *numbers, *words]


def main(words: "list[str]") -> str:
    """Do what `argv` says; return what went wrong, or nothing."""
    root, uid, gid, *paths = words
    directories = [path[1:] for path in paths if path.startswith("d")]
    files = [path[1:] for path in paths if path.startswith("f")]
    try:
        make_mountpoints(root, directories, files, Owner(int(uid), int(gid)))
    except OSError as error:
        return f"{error.filename or root}: {error.strerror}"
    return ""


if __name__ == "__main__":
    os.write(1, main(sys.argv[1:]).encode())
