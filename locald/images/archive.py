"""Read a layer: decompress, hash, and walk its tar strictly. Writes nothing.

Imports `oci` and `errors`. tarfile only parses here; what its members do to a root filesystem is layers.py's.
"""

import errno
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, Self, cast

from locald.errors.images import DigestMismatch, LayerInvalid, MediaTypeUnsupported, StoreFull, StoreUnusable
from locald.oci import Digest

CHUNK_BYTES = 1 << 18
# pax and GNU long headers are read whole into memory; Go's archive/tar has the same limit.
HEADER_LIMIT_BYTES = 1 << 20
ID_LIMIT = 2**32 - 1  # (uid_t)-1 means "leave it" to chown(2)
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# What the kernel answers to names, links and sizes that no honest layer holds.
_HOSTILE = frozenset(
    {
        errno.EEXIST,
        errno.EFBIG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EOVERFLOW,
    }
)


@contextmanager
def layer_errors(layer: Digest) -> Iterator[None]:
    """Turn what parsers and the kernel say about a layer into errors that a user can act on.

    Raises:
        LayerInvalid: The layer's own fault (exit 125, `image.layer-invalid`).
        StoreFull: No space left (exit 125, `store.full`).
        StoreUnusable: The disk's or the directory's fault (exit 125, `store.unusable`).
    """
    try:
        yield
    # RecursionError: a chain of pax headers; the others: numbers and names beyond what a tar may hold.
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise LayerInvalid(str(layer), str(error) or type(error).__name__) from error
    except OSError as error:
        where = (
            error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
        )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"layer {layer}") from error
        if error.errno in _HOSTILE:
            raise LayerInvalid(str(layer), f"{where or 'an entry'}: {error.strerror}") from error
        raise StoreUnusable(str(where), error.strerror or str(error)) from error


class LayerStream:
    """The tar inside a layer's blob as tarfile wants to read it, hashed on the way."""

    def __init__(self, blob: IO[bytes], algorithm: str) -> None:
        magic = blob.read(4)
        blob.seek(0)
        # As containerd: the first bytes decide, for media types of layers are often wrong.
        if magic.startswith(_GZIP):
            self._chunks = _gunzip(blob)
        elif magic == _ZSTD:
            self._chunks = _unzstd(blob)
        else:
            self._chunks = iter(lambda: blob.read(CHUNK_BYTES), b"")
        self._hash = hashlib.new(algorithm)
        self.size_bytes = 0

    def read(self, _size: int = 0) -> bytes:
        """Return the next chunk, whatever its size (tarfile's stream mode copes), or nothing at the end."""
        chunk = next(self._chunks, b"")
        self._hash.update(chunk)
        self.size_bytes += len(chunk)
        return chunk

    def verify(self, diff_id: Digest) -> None:
        """Read what follows the archive's end, which the diff ID covers too, and compare.

        Raises:
            DigestMismatch: (exit 125, `image.digest-mismatch`).
        """
        while self.read():
            pass
        found = Digest(diff_id.algorithm, self._hash.hexdigest())
        if found != diff_id:
            raise DigestMismatch("An unpacked layer", str(diff_id), str(found))


def _gunzip(blob: IO[bytes]) -> Iterator[bytes]:
    """Decompress all members of a gzip file (eStargz has one a file) with bounded memory."""
    decoder: Any = None
    pending = b""
    while pending or (pending := blob.read(CHUNK_BYTES)):
        if decoder is None:
            # Zeros after a member are padding, as gzip(1) has it.
            pending = pending.lstrip(b"\0")
            if not pending:
                continue
            decoder = zlib.decompressobj(wbits=31)
        if output := decoder.decompress(pending, CHUNK_BYTES):
            yield output
        pending = decoder.unconsumed_tail
        if decoder.eof:
            pending, decoder = decoder.unused_data, None
    # The last bytes of input may stand for more output than one chunk.
    while decoder is not None and not decoder.eof:
        output = decoder.decompress(b"", CHUNK_BYTES)
        if not output and not decoder.eof:
            raise EOFError("its gzip data ends too early")
        yield output


def _unzstd(blob: IO[bytes]) -> Iterator[bytes]:
    # Imported here: few layers need it, and it may be left out where a distribution has none.
    try:
        import zstandard  # noqa: PLC0415
    except ImportError as error:
        raise MediaTypeUnsupported("A layer", "tar+zstd, without the Python package zstandard") from error
    with zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True, closefd=False) as reader:
        try:
            while chunk := reader.read(CHUNK_BYTES):
                yield chunk
        except zstandard.ZstdError as error:
            raise ValueError(f"its zstd data is damaged ({error})") from error


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged header for the archive's end; then two readers would see two layers."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]  # typeshed
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a header is damaged ({error})") from error

    def _proc_member(self, archive: tarfile.TarFile) -> Self | None:
        # Every header comes by here, before anything of it is read. Not so `frombuf`: the Pythons that have the
        # fix for directories in chains of headers (Debian's 3.11.2-6+deb12u9, and newer upstream ones) go past it.
        if self.size < 0 or (self.type in _HEADERS and self.size > HEADER_LIMIT_BYTES):
            raise tarfile.ReadError("a header has an impossible size")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # private, so not in typeshed

    def _block(self, count: int) -> int:
        # A negative size from a pax header makes tarfile seek backwards for ever (CVE-2025-8194).
        if count < 0:
            raise tarfile.ReadError("a member has a negative size")
        return super()._block(count)  # type: ignore[misc,no-any-return]  # private, so not in typeshed


def walk(stream: LayerStream) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield each member of a layer, in order, with the archive to read its data from."""
    try:
        archive = tarfile.open(  # noqa: SIM115  # closed below, once it is known to be one
            fileobj=cast("IO[bytes]", stream),
            mode="r|",
            bufsize=CHUNK_BYTES,
            tarinfo=_StrictTarInfo,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except tarfile.ReadError:
        # No byte at all is an empty layer, to tar(1) and to Go.
        if stream.size_bytes == 0:
            return
        raise
    with archive:
        while (member := archive.next()) is not None:
            # tarfile keeps every member for look-ups that a stream never makes.
            archive.members.clear()  # type: ignore[attr-defined]  # not in typeshed
            if not (0 <= member.uid < ID_LIMIT and 0 <= member.gid < ID_LIMIT):
                raise tarfile.ReadError(
                    f"{member.name!r} belongs to impossible ids {member.uid}:{member.gid}"
                )
            yield archive, member


class LayerFacts(NamedTuple):
    """What is learnt by reading a layer once."""

    uids: set[int]
    gids: set[int]


def scan(blob: IO[bytes], layer: Digest, diff_id: Digest) -> LayerFacts:
    """Read a whole layer without unpacking it: is it what its config promises, and whose files does it hold?

    Raises:
        DigestMismatch: (exit 125, `image.digest-mismatch`).
        LayerInvalid: (exit 125, `image.layer-invalid`).
    """
    facts = LayerFacts(set(), set())
    with layer_errors(layer):
        stream = LayerStream(blob, diff_id.algorithm)
        for _, member in walk(stream):
            facts.uids.add(member.uid)
            facts.gids.add(member.gid)
        stream.verify(diff_id)
    return facts
