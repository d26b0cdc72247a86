"""The content-addressed image store of one user: blobs, the index of references, and what is still needed.

    store/index.json            reference -> image, replaced atomically
    store/index.lock            held while the index is rewritten
    store/use.lock              shared by whoever adds or reads blobs, exclusive for garbage collection
    store/blobs/sha256/<hex>    complete and verified, or absent
    store/trees/<key>/          unpacked images (trees.py); locked, shared, by whoever uses one
    store/tmp/<random>/         work in progress, each locked by its owner

Imports `oci`, `errors` and `files`; never the HTTP library, nor tarfile: each `locald run` loads this.
Why it is laid out so: docs/decisions/0021-image-store.md.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from locald.errors.images import DigestMismatch, ImageNotFound, StoreUnusable, TreeForeign
from locald.images import files
from locald.oci import Descriptor, Digest, LayoutReference, Platform, Reference, chain_id, parse_reference

VERSION = 1


class Layer(NamedTuple):
    """A layer as stored, and the digest of what it unpacks to."""

    blob: Descriptor
    diff_id: Digest


class Image(NamedTuple):
    """An image in the store. `id` is the digest of its config, `chain` stands for its layers as they are unpacked."""

    reference: str
    id: Digest
    chain: Digest
    manifest_digest: Digest
    platform: Platform
    layers: tuple[Layer, ...]
    config: dict[str, Any]
    # Of all files in all layers, ascending; always with 0, which owns implied directories.
    owner_uids: tuple[int, ...]
    owner_gids: tuple[int, ...]
    pulled_at_s: int  # Unix time

    @property
    def size_bytes(self) -> int:
        """What its layers take in the store, compressed as they came; shared layers count for each image."""
        return sum(layer.blob.size_bytes for layer in self.layers)


class Removed(NamedTuple):
    """What a removal or a garbage collection did."""

    references: tuple[str, ...]
    freed_bytes: int  # of blobs; trees are not counted
    trees_in_use: int  # kept for a running container; a later collection takes them
    postponed: bool  # a pull is running: nothing was collected, a later collection will


def canonical(text: str) -> Reference | LayoutReference:
    """Read what a user calls an image; a layout's path becomes absolute, so that it means the same elsewhere.

    Raises:
        ReferenceInvalid: (exit 125, `image.reference-invalid`).
    """
    reference = parse_reference(text)
    if isinstance(reference, LayoutReference):
        return LayoutReference(reference.transport, os.path.abspath(reference.path), reference.tag)
    return reference


class Store:
    """All images of one user. Any number of processes may use it at once."""

    def __init__(self, root: Path, *, remove_foreign: Callable[[Path], None] | None = None) -> None:
        """Name the store; it is created when something is written.

        Args:
            root: Its directory.
            remove_foreign: Removes `PATH/rootfs` where files belong to the caller's subordinate ids, as
                `locald-shim cleanup --bundle PATH` does. Without it such trees stay until somebody passes it.
        """
        self.root = root
        self.blobs = self.root / "blobs"
        self.trees = self.root / "trees"
        self._remove_foreign = remove_foreign

    # --- reading --------------------------------------------------------------------------------------

    def images(self) -> list[Image]:
        """Return all images, by reference.

        Raises:
            StoreUnusable: (exit 125, `store.unusable`).
        """
        found = (self._image(reference, record) for reference, record in sorted(self._read_index().items()))
        return [image for image in found if image is not None]

    def get(self, reference: str) -> Image | None:
        """Return the image stored under `reference` (any spelling of it), or None.

        Raises:
            ReferenceInvalid: (exit 125, `image.reference-invalid`).
            StoreUnusable: (exit 125, `store.unusable`).
        """
        key = str(canonical(reference))
        record = self._read_index().get(key)
        return self._image(key, record) if record is not None else None

    def _image(self, reference: str, record: dict[str, Any]) -> Image | None:
        try:
            image_id = Digest.parse(record["id"])
            return Image(
                reference=reference,
                id=image_id,
                chain=_find_chain(record),
                manifest_digest=Digest.parse(record["manifest"]),
                platform=Platform(*record["platform"]),
                layers=tuple(
                    Layer(Descriptor(kind, Digest.parse(digest), size), Digest.parse(diff_id))
                    for kind, digest, size, diff_id in record["layers"]
                ),
                config=json.loads(self.blob_path(image_id).read_bytes()),
                owner_uids=tuple(record["uids"]),
                owner_gids=tuple(record["gids"]),
                pulled_at_s=record["pulled_at_s"],
            )
        except FileNotFoundError:
            # Somebody tidied by hand. A pull mends it, so the image counts as absent.
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise StoreUnusable(str(self.root), f"its record of {reference} is damaged ({error})") from error

    def _read_index(self) -> dict[str, dict[str, Any]]:
        try:
            with files.store_errors(self.root):
                index = json.loads((self.root / "index.json").read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StoreUnusable(str(self.root), "index.json is damaged") from error
        if not isinstance(index, dict) or index.get("version") != VERSION:
            raise StoreUnusable(str(self.root), "index.json was written by another version of locald")
        images = index.get("images")
        return images if isinstance(images, dict) else {}

    # --- blobs ----------------------------------------------------------------------------------------

    def blob_path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        return self.blobs / digest.algorithm / digest.hex

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is here; what is here was verified and is complete."""
        try:
            return os.stat(self.blob_path(descriptor.digest)).st_size == descriptor.size_bytes
        except FileNotFoundError:
            return False

    def read_blob(self, descriptor: Descriptor) -> bytes | None:
        """Return a small blob, which was verified when it came, if it is here."""
        return self.blob_path(descriptor.digest).read_bytes() if self.has_blob(descriptor) else None

    def open_blob(self, digest: Digest) -> IO[bytes]:
        """Open a stored blob for reading.

        Raises:
            StoreUnusable: It is not there (exit 125, `store.unusable`).
        """
        try:
            return open(self.blob_path(digest), "rb", buffering=0)
        except FileNotFoundError as error:
            raise StoreUnusable(
                str(self.root), f"blob {digest} is missing; `locald pull` fetches it again"
            ) from error

    def add_blob(self, descriptor: Descriptor, fill: "Callable[[BlobWriter], None]") -> None:
        """Store what `fill` writes, if it is what `descriptor` promises. Call it inside `sharing()`.

        Raises:
            DigestMismatch: They are not; nothing is kept (exit 125, `image.digest-mismatch`).
            StoreFull: (exit 125, `store.full`).
        """
        with files.store_errors(self.root), self.workspace() as work:
            temporary = work / "blob"
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                writer = BlobWriter(fd, descriptor)
                fill(writer)
                writer.verify()
                os.fsync(fd)
            finally:
                os.close(fd)
            # A concurrent pull of the same blob may have been faster: then the same bytes replace themselves.
            files.rename_durably(temporary, self.blob_path(descriptor.digest))

    # --- references -----------------------------------------------------------------------------------

    def put(self, image: Image) -> None:
        """Let `image.reference` mean `image`. Its blobs must be stored, within the same `sharing()`."""
        record = {
            "id": str(image.id),
            "chain": str(image.chain),
            "manifest": str(image.manifest_digest),
            "platform": [image.platform.os, image.platform.architecture, image.platform.variant],
            "layers": [
                [layer.blob.media_type, str(layer.blob.digest), layer.blob.size_bytes, str(layer.diff_id)]
                for layer in image.layers
            ],
            "uids": list(image.owner_uids),
            "gids": list(image.owner_gids),
            "pulled_at_s": image.pulled_at_s,
        }
        with self._rewriting() as index:
            index[image.reference] = record

    def remove(self, reference: str) -> Removed:
        """Forget `reference`, then collect what nothing needs any more.

        Raises:
            ImageNotFound: (exit 125, `image.not-found`).
        """
        key = str(canonical(reference))
        if key not in self._read_index():
            raise ImageNotFound(key, "the store")
        with self._rewriting() as index:
            index.pop(key, None)
        collected = self.gc()
        return Removed((key,), collected.freed_bytes, collected.trees_in_use, collected.postponed)

    def gc(self) -> Removed:
        """Remove blobs and trees that no reference needs. Waits for nobody: see `Removed.postponed`."""
        self._prepare()
        with files.store_errors(self.root), files.locked(self.root / "use.lock", wait=False) as alone:
            if not alone:
                return Removed((), 0, 0, postponed=True)
            records = self._read_index().values()
            try:
                blobs = {record[key] for record in records for key in ("id", "manifest")}
                blobs |= {layer[1] for record in records for layer in record["layers"]}
                chains = {_find_chain(record).hex for record in records}
            except (KeyError, IndexError, TypeError, ValueError) as error:
                # Whatever it needed would be taken for garbage.
                raise StoreUnusable(str(self.root), f"a record of its index is damaged ({error})") from error
            freed = self._remove_blobs(blobs)
            in_use = self._remove_trees(chains)
        self.clean()
        return Removed((), freed, in_use, postponed=False)

    def _remove_blobs(self, needed: set[str]) -> int:
        freed = 0
        for algorithm in ("sha256", "sha512"):
            for entry in os.scandir(self.blobs / algorithm):
                if f"{algorithm}:{entry.name}" not in needed:
                    freed += entry.stat().st_size
                    os.unlink(entry.path)
        return freed

    def _remove_trees(self, needed: set[str]) -> int:
        in_use = 0
        for name in os.listdir(self.trees):
            if name.partition("-")[0] in needed:
                continue
            fd = files.open_locked_directory(self.trees / name, wait=False)
            if fd is None:
                in_use += 1
                continue
            try:
                # Renamed away first: a tree under its key is whole, or absent.
                with self.workspace() as work:
                    os.rename(self.trees / name, work / name)
            finally:
                os.close(fd)
        return in_use

    # --- who works here -------------------------------------------------------------------------------

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Keep garbage collection away while blobs are added or read."""
        self._prepare()
        with ExitStack() as stack:
            # Only the lock: what the block meets is its own to explain.
            with files.store_errors(self.root):
                stack.enter_context(files.locked(self.root / "use.lock", shared=True))
            yield

    def workspace(self) -> AbstractContextManager[Path]:
        """Make a temporary directory in the store, gone after the block or else at the next `clean()`."""
        self._prepare()
        return files.workspace(self.root / "tmp", self.discard)

    def clean(self) -> None:
        """Remove what killed processes left."""
        self._prepare()
        with files.store_errors(self.root):
            files.clean_workspaces(self.root / "tmp", self.discard)

    def discard(self, path: Path) -> None:
        """Remove a workspace; where `path/*/rootfs` holds foreign files, by `remove_foreign`."""
        try:
            files.remove_tree(path)
        except TreeForeign:
            if self._remove_foreign is None:
                raise
            for name in os.listdir(path):
                if os.path.isdir(path / name / "rootfs"):
                    self._remove_foreign(path / name)
            files.remove_tree(path)

    def _prepare(self) -> None:
        with files.store_errors(self.root):
            for path in (
                self.trees,
                self.root / "tmp",
                self.blobs / "sha256",
                self.blobs / "sha512",
            ):
                os.makedirs(path, mode=0o700, exist_ok=True)

    @contextmanager
    def _rewriting(self) -> Iterator[dict[str, dict[str, Any]]]:
        self._prepare()
        with files.store_errors(self.root), files.locked(self.root / "index.lock"):
            images = self._read_index()
            yield images
            content = json.dumps({"version": VERSION, "images": images}, indent=1, sort_keys=True).encode()
            with self.workspace() as work:
                files.write_durably(self.root, "index.json", content, beside=work)


def _find_chain(record: dict[str, Any]) -> Digest:
    """Return the chain id of a record's layers, which locald did not always write down."""
    if "chain" in record:
        return Digest.parse(record["chain"])
    return chain_id(tuple(Digest.parse(diff_id) for *_, diff_id in record["layers"]))


class BlobWriter:
    """Takes the bytes of one blob as they come, counts and hashes them."""

    def __init__(self, fd: int, descriptor: Descriptor) -> None:
        self._fd = fd
        self.descriptor = descriptor
        # Called after each piece with all that is here; what it raises ends the blob, and nothing is kept.
        self.progress: Callable[[Digest, int], None] | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was written: the source starts again from the first byte."""
        # Imported here: reading the index, which every `locald run` does, needs no hash.
        import hashlib  # noqa: PLC0415

        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size_bytes = 0
        self._hash = hashlib.new(self.descriptor.digest.algorithm)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises:
            DigestMismatch: More bytes than promised: no need to wait for the end of an endless answer.
        """
        self.size_bytes += len(chunk)
        if self.size_bytes > self.descriptor.size_bytes:
            self._mismatch(f"more than {self.descriptor.size_bytes} bytes")
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]
        if self.progress is not None:
            self.progress(self.descriptor.digest, self.size_bytes)

    def verify(self) -> None:
        """Compare size and digest with what was promised.

        Raises:
            DigestMismatch: (exit 125, `image.digest-mismatch`).
        """
        found = Digest(self.descriptor.digest.algorithm, self._hash.hexdigest())
        if self.size_bytes != self.descriptor.size_bytes or found != self.descriptor.digest:
            self._mismatch(f"{found} ({self.size_bytes} bytes)")

    def _mismatch(self, found: str) -> None:
        promised = self.descriptor
        raise DigestMismatch("A blob", f"{promised.digest} ({promised.size_bytes} bytes)", found)
