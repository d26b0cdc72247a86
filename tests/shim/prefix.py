"""A directory that root installs the shim into: what stands there before, and what must be true of it after."""

import os
import shutil
import stat
from pathlib import Path

from tests.shim.harness import Caller

NAME = "locald-shim"
ROOT = Caller("root", 0, 0)
OLD = b"an older shim"
FRESH = "fresh"


def make_prefix(path: Path, new: bytes, owner: Caller) -> Path:
    """Make the directory anew, with an old shim in its place, as `owner`'s; return the new one beside it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    put_old(path / NAME)
    fresh = path / FRESH
    fresh.write_bytes(new)
    fresh.chmod(0o755)
    for each in (path, fresh):
        os.chown(each, owner.uid, owner.gid)
    return fresh


def put_old(path: Path) -> None:
    """Put an older shim there."""
    path.write_bytes(OLD)
    path.chmod(0o4755)


def is_shim(path: Path, content: bytes) -> bool:
    """Say whether a file is a whole shim, root's, setuid, with one name."""
    status = path.lstat()
    facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
    return facts == (stat.S_IFREG | 0o4755, 0, 0, 1) and path.read_bytes() == content


def find_bad(tree: Path, new: bytes) -> list[str]:
    """Return each set-user-id file below `tree` that is no whole shim of root's, old or new."""
    found = []
    for directory, _, names in os.walk(tree):
        for path in (Path(directory, name) for name in names):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_ISUID:
                continue
            if not is_shim(path, OLD) and not is_shim(path, new):
                facts = (status.st_uid, oct(status.st_mode), status.st_nlink, status.st_size)
                found.append(f"{path.name} is set-user-id: {facts}")
    return found
