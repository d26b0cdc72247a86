"""Locks, atomic writes and removal: what the store and the trees do with files. Imports `errors` only.

All locks are flock(2) on an open file: the kernel drops them however their holder ends, SIGKILL included.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from locald.errors.images import StoreFull, StoreUnusable, TreeForeign

# Directories nested deeper are first moved up: a container may nest them beyond any number of descriptors.
NESTING_LIMIT = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNUSABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.EIO, errno.ENOLCK}
)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn what the file system says about `path` into an error that a user can act on.

    Raises:
        StoreFull: ENOSPC or EDQUOT (exit 125, `store.full`).
        StoreUnusable: The caller may not, or it is no directory (exit 125, `store.unusable`).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(str(path)) from error
        if error.errno in _UNUSABLE:
            raise StoreUnusable(str(path), error.strerror or str(error)) from error
        raise


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, created if missing, for the time of the block.

    Args:
        path: The lock file; it is never removed, so that all processes lock the same inode.
        shared: With other readers, or alone.
        wait: False yields False at once where somebody else holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lock(fd, shared=shared, wait=wait)
    finally:
        os.close(fd)


def lock(fd: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock the open file `fd` until it is closed; False if `wait` is False and somebody else holds it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def open_locked_directory(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Open and lock the directory `path`; None if it is gone, or if it is held and `wait` is False."""
    while True:
        try:
            fd = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            # Somebody may have removed, even replaced it before it was locked: then try again.
            if not lock(fd, shared=shared, wait=wait):
                break
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                return fd
        except FileNotFoundError:
            break
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    os.close(fd)
    return None


@contextmanager
def workspace(parent: Path, discard: Callable[[Path], None]) -> Iterator[Path]:
    """Make a locked temporary directory below `parent`; `discard` removes it, whatever the block does."""
    while True:
        path = parent / os.urandom(8).hex()
        path.mkdir(mode=0o700)
        # None: a starting process took it for a dead one's in the instant before it was locked.
        fd = open_locked_directory(path)
        if fd is not None:
            break
    try:
        yield path
    finally:
        try:
            discard(path)
        finally:
            os.close(fd)


def clean_workspaces(parent: Path, discard: Callable[[Path], None]) -> None:
    """Remove what killed processes left below `parent`: every workspace that nobody holds."""
    for name in os.listdir(parent):
        fd = open_locked_directory(parent / name, wait=False)
        if fd is None:
            continue
        try:
            # Another process may be removing it too, and what needs the shim waits for one who can call it.
            with suppress(FileNotFoundError, TreeForeign):
                discard(parent / name)
        finally:
            os.close(fd)


def write_durably(directory: Path, name: str, content: bytes, *, beside: Path) -> None:
    """Make `directory/name` hold `content`: a reader sees the old bytes or the new, also after a power cut.

    Args:
        directory: Where the file belongs.
        name: Its name there.
        content: All of it.
        beside: A workspace on the same file system, where the new file grows.
    """
    temporary = beside / os.urandom(8).hex()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    rename_durably(temporary, directory / name)


def rename_durably(source: Path, target: Path) -> None:
    """Rename `source`, whose content is on disk already, and put the new name on disk too."""
    os.rename(source, target)
    fd = os.open(target.parent, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove the directory `path` and all below it, whatever its modes and depth; follow no link or mount.

    Raises:
        FileNotFoundError: There is no such directory.
        TreeForeign: It holds files of other ids (exit 125, `store.tree-foreign`); what could be removed, is.
    """
    try:
        fd = _open_writable(os.fspath(path), None)
        try:
            device = os.fstat(fd).st_dev
            # Each round empties the tree down to the nesting limit; what was moved up waits for the next one.
            while os.listdir(fd):
                _empty(fd, fd, device, 0)
        finally:
            os.close(fd)
        os.rmdir(path)
    except PermissionError as error:
        raise TreeForeign(str(path)) from error


def remove_entry(name: bytes, parent: int) -> None:
    """Remove `name` in the directory `parent`: a tree, or anything else."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    fd = _open_writable(name, parent)
    try:
        _empty(fd, fd, os.fstat(fd).st_dev, 0)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _empty(fd: int, top: int, device: int, depth: int) -> None:
    with os.scandir(fd) as entries:
        # Listed first: removing while reading may skip some on some file systems.
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
            continue
        child = _open_writable(name, fd)
        try:
            if os.fstat(child).st_dev != device:
                raise OSError(errno.EBUSY, "something is mounted there", name)
            if depth < NESTING_LIMIT:
                _empty(child, top, device, depth + 1)
            elif os.listdir(child):
                os.rename(name, os.urandom(8).hex(), src_dir_fd=fd, dst_dir_fd=top)
                continue
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=fd)


def _open_writable(name: str | bytes, parent: int | None) -> int:
    """Open the directory `name` after giving its owner the rights to read and empty it."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        # Mode 0000: only its owner may change that, and not through a descriptor that grants nothing.
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
        finally:
            os.close(handle)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    if os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        try:
            os.fchmod(fd, stat.S_IRWXU)
        except OSError:
            os.close(fd)
            raise
    return fd
