"""Read images from an OCI layout in a directory (`oci:`).

Imports `oci`, `errors` and `store`. Source: image-spec 1.1, image-layout.md.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from locald.errors.images import DigestMismatch, ImageNotFound, ManifestInvalid
from locald.images.store import BlobWriter
from locald.oci import Descriptor, Digest, Index, LayoutReference, parse_manifest, parse_object

DOCUMENT_LIMIT_BYTES = 4 << 20
CHUNK_BYTES = 1 << 18


class Layout:
    """An OCI layout in a directory."""

    streams = 1  # a tar has one position, and a disk is as fast for one reader

    def __init__(self, reference: LayoutReference, verified: Callable[[Descriptor], bytes | None]) -> None:
        """Name the layout; nothing is read yet. `verified` knows documents that need no second look."""
        self._reference = reference
        self._verified = verified
        self._path = Path(reference.path)

    def close(self) -> None:
        """Close what is open."""

    def manifest(self, version: str) -> tuple[bytes, str | None, Digest]:
        """Return the bytes, media type and digest of what `version` names: a digest, a tag, or "".

        An empty version means the only image.

        Raises:
            ImageNotFound: (exit 125, `image.not-found`).
            DigestMismatch: (exit 125, `image.digest-mismatch`).
            ManifestInvalid: (exit 125, `image.manifest-invalid`).
        """
        if ":" in version:
            digest, media_type = Digest.parse(version), None
        else:
            entry = self._entry(version)
            digest, media_type = entry.digest, entry.media_type
            # An entry may name anything that is there, also a layer of gigabytes: that is refused below, by its size.
            known = self._verified(entry) if entry.size_bytes <= DOCUMENT_LIMIT_BYTES else None
            if known is not None:
                return known, media_type, digest
        # Imported here: a run of an image that is in the store needs no hash.
        import hashlib  # noqa: PLC0415

        content = self._document(f"blobs/{digest.algorithm}/{digest.hex}")
        found = Digest(digest.algorithm, hashlib.new(digest.algorithm, content).hexdigest())
        if found != digest:
            raise DigestMismatch(f"The manifest {digest}", str(digest), str(found))
        return content, media_type, digest

    def fetch(self, writer: BlobWriter) -> None:
        """Give `writer` the blob that it wants.

        Raises:
            ManifestInvalid: The layout has it not (exit 125, `image.manifest-invalid`).
        """
        digest = writer.descriptor.digest
        with self._open(f"blobs/{digest.algorithm}/{digest.hex}") as blob:
            while chunk := blob.read(CHUNK_BYTES):
                writer.write(chunk)

    def _entry(self, tag: str) -> Descriptor:
        what = str(self._reference)
        layout = parse_object(self._document("oci-layout"), what)
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise ManifestInvalid(what, "it is a layout of another version than 1.0.0")
        index = parse_manifest(self._document("index.json"), None, what)
        if not isinstance(index, Index):
            raise ManifestInvalid(what, "its index.json is no index")
        matching = [entry for entry in index.manifests if not tag or entry.ref_name == tag]
        if not tag and len(matching) > 1:
            tags = ", ".join(sorted(entry.ref_name for entry in matching if entry.ref_name))
            raise ImageNotFound(what, f"{self._path}: it holds several, name one of {tags or 'them by tag'}")
        if not matching:
            raise ImageNotFound(what, str(self._path))
        return matching[-1]

    def _document(self, name: str) -> bytes:
        with self._open(name) as file:
            content = file.read(DOCUMENT_LIMIT_BYTES + 1)
        if len(content) > DOCUMENT_LIMIT_BYTES:
            raise ManifestInvalid(str(self._reference), f"{name} is larger than {DOCUMENT_LIMIT_BYTES} bytes")
        return content

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self._open_member(name)
        except FileNotFoundError as error:
            if not self._path.exists():
                raise ImageNotFound(str(self._reference), f"{self._path}, which does not exist") from error
            raise ManifestInvalid(str(self._reference), f"it has no {name}") from error
        except OSError as error:
            raise ManifestInvalid(str(self._reference), f"{name}: {error.strerror}") from error

    def _open_member(self, name: str) -> IO[bytes]:
        # O_NONBLOCK: a fifo in a foreign directory must not hold us up.
        fd = os.open(self._path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return os.fdopen(fd, "rb")


def open_layout(reference: LayoutReference, verified: Callable[[Descriptor], bytes | None]) -> Layout:
    """Return the reader for what `reference` names; see `Layout`."""
    if reference.transport == "oci-archive":
        from locald.images.layout_archive import LayoutArchive  # noqa: PLC0415  # brings tarfile

        return LayoutArchive(reference, verified)
    return Layout(reference, verified)
