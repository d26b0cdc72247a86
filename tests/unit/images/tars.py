"""Layers made member by member, also such as no honest tool writes, and what a directory then holds."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from locald.images.layers import Notes, Unpacker
from locald.images.owners import Owners
from locald.oci import Digest

WHEN_S = 1_600_000_000
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes, data: bytes = b"", **more: Any) -> Member:
    """Make one member; `more` sets any attribute of its TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), WHEN_S
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def file(name: str, data: bytes = b"", mode: int = 0o644, **more: Any) -> Member:
    """Make a regular file."""
    return member(name, tarfile.REGTYPE, data, mode=mode, **more)


def directory(name: str, mode: int = 0o755, **more: Any) -> Member:
    """Make a directory."""
    return member(name, tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str, **more: Any) -> Member:
    """Make a symbolic link."""
    return member(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **more)


def hard_link(name: str, target: str) -> Member:
    """Make a hard link to an earlier name."""
    return member(name, tarfile.LNKTYPE, linkname=target)


def tar(members: Iterable[Member], *, layout: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a layer, uncompressed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=layout) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def digest_of(content: bytes) -> Digest:
    """Return the sha256 digest of `content`."""
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def apply(target: Path, *layers: bytes, readable: bool = False) -> Unpacker:
    """Unpack uncompressed layers below the new directory `target`, all squashed."""
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    unpacker = Unpacker(fd, Owners.squashed(), readable=readable)
    try:
        for layer in layers:
            unpacker.apply(io.BytesIO(layer), digest_of(layer), digest_of(layer))
        unpacker.finish()
    finally:
        unpacker.close()
        os.close(fd)
    return unpacker


def notes(target: Path, *layers: bytes) -> Notes:
    """Unpack, and return only what was left out."""
    return apply(target, *layers).notes


def listing(root: Path) -> dict[str, str]:
    """Return what is below `root`: path -> kind, mode in octal, and content or link target."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        text = f"{stat.filemode(status.st_mode)[0]}{stat.S_IMODE(status.st_mode):04o}"
        if path.is_symlink():
            text = f"l {os.readlink(path)}"
        elif path.is_file():
            text += f" {path.read_text(errors='replace')}"
        found[str(path.relative_to(root))] = text
    return found
