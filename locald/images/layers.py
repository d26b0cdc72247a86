"""Apply layers to an empty directory, lowest first, as the image spec's chapter on layers wants it.

Imports `archive`, `rootdir`, `owners`, `oci` and `errors`; knows neither store nor registry, so that it can
run as root of a user namespace (unpack.py). The rules: docs/decisions/0022-unpack-rules.md.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from locald.errors.images import OwnerUnmapped
from locald.images.archive import CHUNK_BYTES, LayerStream, layer_errors, walk
from locald.images.owners import Owners
from locald.images.rootdir import RootDirectory, is_within, join, parent_of, split
from locald.oci import Digest

if TYPE_CHECKING:
    import io

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# aufs's own bookkeeping, which old versions of docker let slip into layers.
AUFS = b".wh..wh."
_XATTR = "SCHILY.xattr."
NOTES_LIMIT = 20  # paths kept for each kind of note
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Notes:
    """What was left out, by kind: how often, and where first."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.counts: dict[str, int] = {}
        self.paths: dict[str, list[str]] = {}

    def add(self, kind: str, path: bytes) -> None:
        """Note that `path` lost something."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.paths.setdefault(kind, [])
        if len(examples) < NOTES_LIMIT:
            examples.append(path.decode(errors="backslashreplace"))


class _Metadata(NamedTuple):
    """What a directory gets at the end: before, it must be writable, and each new entry changes its times."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]


# A directory that no layer describes: as docker makes it, but with the same time in every unpacking.
_IMPLIED = _Metadata(0o755, 0, 0, 0, ())


class Unpacker:
    """One root filesystem in the making: `apply` each layer, then `finish` once."""

    def __init__(self, target: int, owners: Owners, *, readable: bool = False) -> None:
        """Unpack below the open, empty directory `target`.

        Args:
            target: The root filesystem to be.
            owners: Who owns what on disk.
            readable: Let the caller read all of it, also what its mode keeps even its owner from: such modes
                are only noted, in `sealed`, for the copies that containers get.
        """
        self._readable = readable
        self.sealed: dict[str, int] = {}
        self._root = RootDirectory(target)
        self._owners = owners
        self._directories: dict[bytes, _Metadata] = {b"": _IMPLIED}
        # Real paths that this layer brought, with all directories above them: its whiteouts spare them.
        self._fresh: set[bytes] = set()
        self.notes = Notes()

    def apply(self, blob: IO[bytes], layer: Digest, diff_id: Digest) -> None:
        """Unpack one layer on top of what is there.

        Raises:
            LayerInvalid: (exit 125, `image.layer-invalid`).
            DigestMismatch: (exit 125, `image.digest-mismatch`).
            OwnerUnmapped: (exit 125, `image.owner-unmapped`).
            StoreFull: (exit 125, `store.full`).
        """
        self._fresh = set()
        with layer_errors(layer):
            stream = LayerStream(blob, diff_id.algorithm)
            for archive, member in walk(stream):
                self._apply_member(archive, member)
            stream.verify(diff_id)

    def finish(self) -> None:
        """Give every directory its owner, attributes, mode and time, the deepest first.

        Raises:
            OwnerUnmapped: (exit 125, `image.owner-unmapped`).
        """
        for path in sorted(self._directories, key=_depth, reverse=True):
            self._set_metadata(self._root.fd(path), path, self._directories[path])

    def close(self) -> None:
        """Close all descriptors."""
        self._root.close()

    def _apply_member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        components = split(_bytes(member.name))
        if not components:
            # The root itself: only a directory can be that.
            if not member.isdir():
                raise ValueError("its root is no directory")
            self._directories[b""] = self._metadata(member, b"")
            return
        name = components.pop()
        if name.startswith(WHITEOUT):
            self._apply_whiteout(components, name)
            return
        directory = self._root.find(components, make=True)
        if directory is None:
            raise AssertionError("find() makes what is missing")
        for made in self._root.made:
            self._directories[made] = _IMPLIED
        self._root.made.clear()
        self._make_entry(archive, member, join(directory, name))

    def _make_entry(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: bytes) -> None:
        _, name = parent_of(path)
        metadata = self._metadata(member, path)
        if member.isdir():
            self._make_directory(path, metadata)
        elif member.isreg():
            self._make_file(archive, member, path, metadata)
        elif member.issym():
            self._make(path, lambda fd: os.symlink(_bytes(member.linkname), name, dir_fd=fd))
            self._set_metadata_by_name(path, metadata, mode=False)
        elif member.islnk():
            self._make_hard_link(path, split(_bytes(member.linkname)))
        elif member.isfifo():
            self._make(path, lambda fd: os.mkfifo(name, 0o600, dir_fd=fd))
            self._set_metadata_by_name(path, metadata, mode=True)
        else:
            self._skip(member, path)
        self._mark_fresh(path)

    # --- whiteouts ------------------------------------------------------------------------------------

    def _apply_whiteout(self, components: list[bytes], name: bytes) -> None:
        if name.startswith(AUFS) and name != OPAQUE:
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in {b"", b".", b".."}:
            raise ValueError(f"a whiteout hides {hidden.decode()!r}")
        directory = self._root.find(components, make=False)
        if directory is None:
            return
        if name == OPAQUE:
            self._remove_lower_children(directory)
        else:
            self._remove_lower(join(directory, hidden))

    def _remove_lower(self, path: bytes) -> None:
        """Remove `path` as far as lower layers brought it: a layer's whiteouts never hide what is its own."""
        if path not in self._fresh:
            self._clear(path)
        elif path in self._directories:
            self._remove_lower_children(path)

    def _remove_lower_children(self, directory: bytes) -> None:
        for name in os.listdir(self._root.fd(directory)):
            self._remove_lower(join(directory, os.fsencode(name)))

    def _mark_fresh(self, path: bytes) -> None:
        while path and path not in self._fresh:
            self._fresh.add(path)
            path, _ = parent_of(path)

    def _clear(self, path: bytes) -> bool:
        """Remove whatever is at `path`; tell whether there was anything."""
        try:
            self._root.remove(path)
        except FileNotFoundError:
            return False
        if path in self._directories:
            self._directories = {
                known: data for known, data in self._directories.items() if not is_within(known, path)
            }
            self._fresh = {known for known in self._fresh if not is_within(known, path)}
        return True

    # --- entries --------------------------------------------------------------------------------------

    def _make_directory(self, path: bytes, metadata: _Metadata) -> None:
        # A directory keeps its content; anything else is replaced, also a link to a directory.
        if path not in self._directories:
            _, name = parent_of(path)
            self._make(path, lambda fd: os.mkdir(name, 0o700, dir_fd=fd))
        self._directories[path] = metadata

    def _make_file(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: bytes, metadata: _Metadata
    ) -> None:
        here, name = parent_of(path)
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=self._root.fd(here))
        except FileExistsError:
            self._clear(path)
            fd = os.open(name, _CREATE, 0o600, dir_fd=self._root.fd(here))
        try:
            _write_data(archive, member, fd)
            self._set_metadata(fd, path, metadata)
        finally:
            os.close(fd)

    def _make_hard_link(self, path: bytes, components: list[bytes]) -> None:
        if not components:
            raise ValueError(f"{path.decode(errors='replace')!r} is a hard link to the root")
        source_name = components.pop()
        directory = self._root.find(components, make=False)
        if directory is None or join(directory, source_name) in self._directories:
            raise ValueError(f"{path.decode(errors='replace')!r} is a hard link to what is no file")
        if join(directory, source_name) == path:
            return
        source = os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root.fd(directory))
        try:
            # The last component is never followed: a link to a link is a link.
            self._make(
                path,
                lambda fd: os.link(
                    source_name, parent_of(path)[1], src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False
                ),
            )
        finally:
            os.close(source)
        name = os.fsdecode(join(directory, source_name))
        if name in self.sealed:
            self.sealed[os.fsdecode(path)] = self.sealed[name]

    def _make(self, path: bytes, make: Callable[[int], None]) -> None:
        here, _ = parent_of(path)
        try:
            make(self._root.fd(here))
        except FileExistsError:
            self._clear(path)
            make(self._root.fd(here))

    def _skip(self, member: tarfile.TarInfo, path: bytes) -> None:
        # No unprivileged process can make a device, and the container's /dev is made anew anyway.
        if not member.isdev():
            raise ValueError(f"{member.name!r} is of an unknown type {member.type!r}")
        self._clear(path)
        self.notes.add("device", path)

    # --- metadata -------------------------------------------------------------------------------------

    def _metadata(self, member: tarfile.TarInfo, path: bytes) -> _Metadata:
        xattrs = []
        for key, value in member.pax_headers.items():
            if not key.startswith(_XATTR):
                continue
            name = key.removeprefix(_XATTR)
            # security.capability and the like need privilege, and would be void on a nosuid mount.
            if name.startswith("user.") and (member.isreg() or member.isdir()):
                xattrs.append((name, _bytes(value)))
            else:
                self.notes.add(f"xattr:{name}", path)
        return _Metadata(member.mode & 0o7777, member.uid, member.gid, _mtime_ns(member), tuple(xattrs))

    def _set_metadata(self, fd: int, path: bytes, metadata: _Metadata) -> None:
        # The owner first: changing it clears setuid and setgid bits.
        owner = self._owners.on_disk(metadata.uid, metadata.gid)
        if owner is not None:
            try:
                os.fchown(fd, *owner)
            except OSError as error:
                self._explain_owner(error, path, metadata)
        for name, value in metadata.xattrs:
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.E2BIG, errno.ERANGE):
                    raise
                self.notes.add(f"xattr:{name}", path)
        needed = stat.S_IRUSR | stat.S_IXUSR if path in self._directories else stat.S_IRUSR
        os.fchmod(fd, self._mode(path, metadata.mode, needed))
        os.utime(fd, ns=(metadata.mtime_ns, metadata.mtime_ns))

    def _set_metadata_by_name(self, path: bytes, metadata: _Metadata, *, mode: bool) -> None:
        """As `_set_metadata`, for what cannot be opened: links and fifos, made just now."""
        here, name = parent_of(path)
        fd = self._root.fd(here)
        owner = self._owners.on_disk(metadata.uid, metadata.gid)
        if owner is not None:
            try:
                os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                self._explain_owner(error, path, metadata)
        if mode:
            os.chmod(name, metadata.mode, dir_fd=fd)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _mode(self, path: bytes, mode: int, needed: int) -> int:
        if not self._readable or mode & needed == needed:
            return mode
        self.sealed[os.fsdecode(path)] = mode
        return mode | needed

    def _explain_owner(self, error: OSError, path: bytes, metadata: _Metadata) -> None:
        # EINVAL: the user namespace has no such id.
        if error.errno in (errno.EINVAL, errno.EPERM):
            raise OwnerUnmapped(path.decode(errors="replace"), metadata.uid, metadata.gid) from error
        raise error


def _depth(path: bytes) -> int:
    return path.count(b"/") + (path != b"")


def _bytes(text: str) -> bytes:
    # How walk() had them decoded.
    return text.encode("utf-8", "surrogateescape")


def _mtime_ns(member: tarfile.TarInfo) -> int:
    """Return the time in full precision, which tarfile rounds to a float."""
    text = member.pax_headers.get("mtime", "")
    seconds, _, fraction = text.partition(".")
    if not seconds.removeprefix("-").isdecimal() or not (fraction or "0").isdecimal():
        return int(member.mtime) * 10**9
    nanoseconds = int((fraction + "0" * 9)[:9])
    # -1.5 is half a second before -1, not after it.
    return int(seconds) * 10**9 + (-nanoseconds if seconds.startswith("-") else nanoseconds)


def _write_data(archive: tarfile.TarFile, member: tarfile.TarInfo, fd: int) -> None:
    file = archive.extractfile(member)
    if file is None or member.size == 0:
        return
    # Without the buffer around it: that one asks whether a stream can seek, and copies once more.
    source: io.RawIOBase = cast("Any", file).raw
    pieces = [(0, member.size)]
    if member.issparse():
        # typeshed has the attribute as bytes; it is tarfile's list of (offset, size).
        pieces = [(offset, size) for offset, size in cast("list[tuple[int, int]]", member.sparse) if size > 0]
        os.ftruncate(fd, member.size)
    for offset, size in pieces:
        if offset < 0 or offset + size > member.size:
            raise ValueError(f"{member.name!r} has a sparse map beyond its end")
        source.seek(offset)
        place, left = offset, size
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise EOFError(f"{member.name!r} ends too early")
            left -= len(chunk)
            view = memoryview(chunk)
            while view:
                # By its place, also in a file without holes: one call a file less than seeking and writing.
                written = os.pwrite(fd, view, place)
                view, place = view[written:], place + written
