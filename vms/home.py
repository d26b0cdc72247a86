"""Where this package keeps what it makes: boxes, machines, Vagrant's own state, downloaded packages.

One directory, LOCALD_VMS_HOME or else $XDG_CACHE_HOME/locald-vms; removing it loses time, nothing
else (destroy what is up first). Imports nothing of this package.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "LOCALD_VMS_HOME"


def root() -> Path:
    """Return the directory, absolute; it need not exist."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "locald-vms"


def tag() -> str:
    """Return eight characters that differ between two homes of one machine."""
    return hashlib.sha256(os.fsencode(root())).hexdigest()[:8]


def machine(name: str) -> Path:
    """Return the directory of one machine's state, made if need be."""
    path = root() / "machines" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def sockets() -> Path:
    """Return a private directory with a short name: a socket's path has room for 107 bytes.

    Not below a temporary directory: every process has to find the same one, whatever its TMPDIR.
    """
    path = Path(f"/run/locald-vms-{tag()}")
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep others of this home from building a box, and from handing one to Vagrant and libvirt, at the same time.

    The first machine of a box uploads its disk; those after it start from that and need not wait.
    """
    with locked("shared"):
        yield


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Wait for this home's lock of that name, and hold it."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f"{name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_leftovers(place: Path, pattern: str) -> None:
    """Remove the trees that killed runs left in `place`; only under a lock of whoever makes such trees."""
    mounted = _read_mount_points()
    for path in place.glob(pattern):
        # A tree was once a root: removed through a mount, this machine's own /sys or /dev/shm would go with it.
        if not any(point.is_relative_to(path.resolve()) for point in mounted):
            shutil.rmtree(path, ignore_errors=True)


def _read_mount_points() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [Path(line.split(" ")[4].replace("\\040", " ")) for line in lines]
