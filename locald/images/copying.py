"""Copy an unpacked tree: each container gets its own. Imports `files` only.

Shares the data where the file system can (FICLONE on btrfs, XFS, bcachefs), else copies it inside the kernel.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from locald.images import files

FICLONE = 0x40049409  # _IOW(0x94, 9, int) of linux/fs.h
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM})
_COPY_BYTES = 1 << 30


def copy_tree(source: Path, target: Path, *, sealed: Mapping[str, int], owners: bool = False) -> None:
    """Copy the tree `source`, with modes, times, links, hard links and user.* attributes.

    Args:
        source: A root filesystem made by `unpack`.
        target: The new one's root; must not exist.
        sealed: Modes, by path below the root, that the copy gets instead of the source's (see `Unpacker`).
        owners: Give each file its source's owner; needs root of a user namespace that maps them. Otherwise
            all is the caller's.

    Raises:
        StoreFull: No space left; what was copied is removed (exit 125, `store.full`).
        StoreUnusable: (exit 125, `store.unusable`).
    """
    with files.store_errors(target):
        source_fd = os.open(source, _DIRECTORY)
        try:
            os.mkdir(target, 0o700)
            try:
                target_fd = os.open(target, _DIRECTORY)
                try:
                    _Copy(sealed, owners=owners).directory(source_fd, target_fd, "")
                finally:
                    os.close(target_fd)
            except BaseException:
                files.remove_tree(target)
                raise
        finally:
            os.close(source_fd)


class _Copy:
    """One copy under way: what it has seen of hard links, and whether this file system shares data."""

    def __init__(self, sealed: Mapping[str, int], *, owners: bool) -> None:
        self._sealed = sealed
        self._owners = owners
        self._clones = True
        # Device and inode of what has several names -> the directory and the name of its copy.
        self._links: dict[tuple[int, int], str] = {}
        self._top = -1

    def directory(self, source: int, target: int, path: str) -> None:
        """Fill the open directory `target` from `source`; both are at `path` below their roots, with `/`."""
        if self._top < 0:
            self._top = target
        with os.scandir(source) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    self._subdirectory(source, target, entry.name, path)
                elif not self._linked(status, target, entry.name, path):
                    self._entry(status, source, target, entry.name, path)
        self._metadata(os.fstat(source), source, target, path.rstrip("/"))

    def _subdirectory(self, source: int, target: int, name: str, path: str) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        source_fd = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            target_fd = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(source_fd, target_fd, f"{path}{name}/")
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def _linked(self, status: os.stat_result, target: int, name: str, path: str) -> bool:
        if status.st_nlink == 1:
            return False
        known = self._links.setdefault((status.st_dev, status.st_ino), path + name)
        if known == path + name:
            return False
        # Safe by path: only this process has written below the root, and made no link where a directory is.
        os.link(known, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
        return True

    def _entry(self, status: os.stat_result, source: int, target: int, name: str, path: str) -> None:
        if stat.S_ISREG(status.st_mode):
            self._file(status, source, target, name, path)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=target)
        else:
            # No tree of ours holds sockets or devices.
            return
        if self._owners:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, self._mode(status, path + name), dir_fd=target)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _file(self, status: os.stat_result, source: int, target: int, name: str, path: str) -> None:
        source_fd = os.open(name, _READ, dir_fd=source)
        try:
            target_fd = os.open(name, _CREATE, 0o600, dir_fd=target)
            try:
                if status.st_size:
                    self._data(source_fd, target_fd, status.st_size)
                self._metadata(status, source_fd, target_fd, path + name)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def _data(self, source: int, target: int, size_bytes: int) -> None:
        if self._clones:
            try:
                fcntl.ioctl(target, FICLONE, source)
            except OSError as error:
                if error.errno not in _NO_CLONE:
                    raise
                self._clones = False
            else:
                return
        try:
            # Nobody writes to a tree, so its size is the file's end: no call a file that only asks for it.
            while size_bytes > 0 and (copied := os.copy_file_range(source, target, _COPY_BYTES)):
                size_bytes -= copied
        except OSError as error:
            # Between some file systems the kernel refuses; sendfile goes through the page cache everywhere.
            if error.errno not in _NO_CLONE:
                raise
            while os.sendfile(target, source, None, _COPY_BYTES):
                pass

    def _metadata(self, status: os.stat_result, source: int, target: int, path: str) -> None:
        if self._owners:
            os.fchown(target, status.st_uid, status.st_gid)
        for name in os.listxattr(source):
            if name.startswith("user."):
                os.setxattr(target, name, os.getxattr(source, name))
        os.fchmod(target, self._mode(status, path))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _mode(self, status: os.stat_result, path: str) -> int:
        return self._sealed.get(path, stat.S_IMODE(status.st_mode))
