"""Find places inside a root filesystem that grows, by descriptors, so that no name leads out of it.

Imports `files` only. A name's directories are opened one by one with O_NOFOLLOW. A symbolic link among them
is read and followed here, in terms of the root: absolute targets start at it and `..` stops at it, as for a
process that has chroot(2)ed there. The kernel is never given a name with more than one component.
"""

import errno
import os
from collections import OrderedDict, deque

from locald.images import files

LINK_LIMIT = 40  # as the kernel's, path_resolution(7)
DEPTH_LIMIT = 256  # directories below each other: more than any image has, fewer than there are descriptors
OPEN_LIMIT = 128  # directories kept open, since a layer names all files of one after another
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split(name: bytes) -> list[bytes]:
    """Return the components of a name in a layer; absolute names are taken from the root, as docker does.

    Raises:
        ValueError: It holds `..`, which no tool writes into a layer, except to reach outside.
    """
    components = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in components:
        raise ValueError(f"{name.decode(errors='replace')!r} leads upwards")
    return components


class RootDirectory:
    """An open root filesystem. Directories are known by their real path below it, without leading slash."""

    def __init__(self, fd: int) -> None:
        """Take the open directory `fd`, which stays the caller's to close."""
        self._root = fd
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self.made: list[bytes] = []  # directories that `find` made, for the caller to take and clear

    def close(self) -> None:
        """Close every directory opened on the way."""
        while self._open:
            os.close(self._open.popitem()[1])

    def find(self, components: list[bytes], *, make: bool) -> bytes | None:
        """Return the real path of a directory, following links inside the root only.

        Args:
            components: As `split` returns them.
            make: Make what is missing, mode 0700, and note it in `made`. Otherwise it is None.

        Raises:
            OSError: ENOTDIR, ELOOP, ENAMETOOLONG and the like: the layer names an impossible place.
        """
        real: list[bytes] = []
        todo = deque(components)
        links = 0
        while todo:
            part = todo.popleft()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                # Only a link's target can hold it. `real` has no links, so the parent is the last but one.
                del real[-1:]
                continue
            here = b"/".join(real)
            target = self._enter(here, part, make=make)
            if target is None:
                return None
            if target == b"":
                real.append(part)
                if len(real) > DEPTH_LIMIT:
                    raise OSError(errno.ENAMETOOLONG, "nested too deeply", b"/".join(real[:4]) + b"/...")
                continue
            links += 1
            if links > LINK_LIMIT:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), b"/".join(components))
            if target.startswith(b"/"):
                real.clear()
            todo.extendleft(reversed(target.split(b"/")))
        return b"/".join(real)

    def _enter(self, here: bytes, part: bytes, *, make: bool) -> bytes | None:
        """Open `part` in the real directory `here`: b"" for a directory, a link's target, None if absent."""
        path = join(here, part)
        if path in self._open:
            return b""
        parent = self.fd(here)
        try:
            fd = os.open(part, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                return None
            os.mkdir(part, 0o700, dir_fd=parent)
            self.made.append(path)
            fd = os.open(part, _DIRECTORY, dir_fd=parent)
        except NotADirectoryError:
            try:
                return os.readlink(part, dir_fd=parent)
            except OSError as error:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
        self._keep(path, fd)
        return b""

    def fd(self, path: bytes) -> int:
        """Return a descriptor of the directory with this real path, valid until the next call of a method."""
        if path == b"":
            return self._root
        fd = self._open.get(path)
        if fd is None:
            here, part = parent_of(path)
            fd = os.open(part, _DIRECTORY, dir_fd=self.fd(here))
            self._keep(path, fd)
        else:
            self._open.move_to_end(path)
        return fd

    def _keep(self, path: bytes, fd: int) -> None:
        self._open[path] = fd
        if len(self._open) > OPEN_LIMIT:
            os.close(self._open.popitem(last=False)[1])

    def remove(self, path: bytes) -> None:
        """Remove whatever has this real path; a link itself, never its target.

        Raises:
            FileNotFoundError: Nothing has it.
        """
        for known in [known for known in self._open if is_within(known, path)]:
            os.close(self._open.pop(known))
        here, part = parent_of(path)
        files.remove_entry(part, self.fd(here))


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of `name` in `directory`."""
    return directory + b"/" + name if directory else name


def parent_of(path: bytes) -> tuple[bytes, bytes]:
    """Split a path into its directory's and its name."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def is_within(path: bytes, directory: bytes) -> bool:
    """Tell whether `path` is `directory` or lies below it."""
    return directory in {path, b""} or path.startswith(directory + b"/")
