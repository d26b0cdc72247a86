"""Bring an image into the store, from a registry or a layout, with every digest verified.

Imports `store`, `oci` and `errors`; the HTTP library (registry.py) and tarfile only to fetch something.
"""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, Protocol

from locald.errors.images import ImageNotFound, ManifestInvalid, PlatformUnavailable
from locald.images.store import BlobWriter, Image, Layer, Store, canonical
from locald.oci import (
    OCI_MANIFEST,
    Descriptor,
    Digest,
    LayoutReference,
    Manifest,
    Platform,
    Reference,
    chain_id,
    parse_config,
    parse_manifest,
)

if TYPE_CHECKING:
    from locald.images.parallel import Check, Job

CONFIG_LIMIT_BYTES = 8 << 20
INDEX_DEPTH_LIMIT = 3  # an index may name an index; more than this is nobody's image

Policy = Literal["missing", "always", "never"]


class Progress(Protocol):
    """Told about blobs while they come, several in turns but never by two threads at once; drawing is the cli's."""

    def begin(self, digest: Digest, size_bytes: int) -> None:
        """Say that a blob is about to be fetched."""

    def advance(self, digest: Digest, done_bytes: int) -> None:
        """Say how much of it is here; less than before if the source had to start again."""

    def end(self, digest: Digest, *, cached: bool) -> None:
        """Say that it is complete and verified; `cached`: it was here before, without `begin`."""


class Source(Protocol):
    """Where images come from."""

    @property
    def streams(self) -> int:
        """How many blobs may be fetched at once, each by a thread of its own."""

    def manifest(self, version: str) -> tuple[bytes, str | None, Digest]:
        """Return the verified bytes, the media type if known, and the digest of a manifest or an index."""

    def fetch(self, writer: BlobWriter) -> None:
        """Give `writer` the blob that it wants."""

    def close(self) -> None:
        """Close what is open."""


def pull(
    reference: str,
    *,
    store: Store,
    platform: str | None = None,
    progress: Progress | None = None,
    policy: Policy = "missing",
) -> Image:
    """Return the image that `reference` names, fetched if need be.

    Args:
        reference: What a user calls it: [HOST[:PORT]/]NAME[:TAG][@DIGEST], oci:DIRECTORY[:TAG] or
            oci-archive:FILE[:TAG].
        store: Where it goes.
        platform: OS/ARCHITECTURE[/VARIANT]; default: this host's.
        progress: Told what happens.
        policy: "missing" asks a registry only for what the store does not have (a layout is always looked
            into: that is cheap, and files change; the store is written only if they did); "always" asks;
            "never" does not.

    Raises:
        ReferenceInvalid, PlatformInvalid, ImageNotFound, PlatformUnavailable, ManifestInvalid,
        MediaTypeUnsupported, DigestMismatch, LayerInvalid: (exit 125, `image.*`).
        StoreFull, StoreUnusable: (exit 125, `store.*`).
        RegistryError, CredentialsUnreadable: (exit 125, `registry.*`).
    """
    name = canonical(reference)
    wanted = Platform.parse(platform) if platform else Platform.of_machine(os.uname().machine)
    local = policy == "never" or (policy == "missing" and isinstance(name, Reference))
    known = store.get(str(name)) if local else None
    if known is not None and _serves(known, wanted, store):
        return known
    if policy == "never":
        raise ImageNotFound(str(name), "the store")
    store.clean()
    source = _open_source(name, store)
    try:
        with store.sharing():
            image = _Pull(str(name), name, source, store, wanted, progress).run()
            # A run looks into a layout each time. What it says already needs no second record, which would be made
            # durable: two waits for the disk before a container of an image that is here.
            if policy == "missing" and isinstance(name, LayoutReference):
                known = store.get(str(name))
                if known is not None and known == image._replace(pulled_at_s=known.pulled_at_s):
                    return known
            store.put(image)
    finally:
        source.close()
    return image


def _serves(image: Image, wanted: Platform, store: Store) -> bool:
    """Tell whether a stored image is for `wanted`, and whole: somebody may have tidied by hand."""
    same = (wanted.os, wanted.architecture) == (image.platform.os, image.platform.architecture)
    return same and all(store.has_blob(layer.blob) for layer in image.layers)


def _open_source(name: Reference | LayoutReference, store: Store) -> Source:
    if isinstance(name, LayoutReference):
        from locald.images.layout import open_layout  # noqa: PLC0415  # many runs need no source

        return open_layout(name, store.read_blob)
    from locald.images.registry import Registry  # noqa: PLC0415  # brings the HTTP library

    return Registry(name)


class _Pull:
    """One pull: the same questions to whichever source."""

    def __init__(
        self,
        reference: str,
        name: Reference | LayoutReference,
        source: Source,
        store: Store,
        wanted: Platform,
        progress: Progress | None,
    ) -> None:
        self._reference = reference
        self._version = name.version if isinstance(name, Reference) else name.tag or ""
        self._source = source
        self._store = store
        self._wanted = wanted
        self._progress = progress
        # Of one thread, until there are more.
        self._telling: AbstractContextManager[object] = nullcontext()

    def run(self) -> Image:
        manifest, digest, content = self._find_manifest()
        self._add(Descriptor(OCI_MANIFEST, digest, len(content)), content)
        if manifest.config.size_bytes > CONFIG_LIMIT_BYTES:
            raise ManifestInvalid(self._reference, f"its config is larger than {CONFIG_LIMIT_BYTES} bytes")
        self._fetch(manifest.config, lambda: None)
        config_bytes = self._store.blob_path(manifest.config.digest).read_bytes()
        config, diff_ids, platform = parse_config(config_bytes, manifest, self._reference)
        # Variants are left to the index: many configs name none.
        if (platform.os, platform.architecture) != (self._wanted.os, self._wanted.architecture):
            raise PlatformUnavailable(self._reference, str(self._wanted), [str(platform)])
        layers = [Layer(blob, diff_id) for blob, diff_id in zip(manifest.layers, diff_ids, strict=True)]
        known = next((image for image in self._store.images() if image.layers == tuple(layers)), None)
        uids, gids = self._fetch_layers(layers, known)
        return Image(
            reference=self._reference,
            id=manifest.config.digest,
            chain=chain_id(diff_ids) if known is None else known.chain,
            manifest_digest=digest,
            platform=platform,
            layers=tuple(layers),
            config=config,
            owner_uids=tuple(sorted(uids)),
            owner_gids=tuple(sorted(gids)),
            pulled_at_s=int(time.time()),
        )

    def _find_manifest(self) -> tuple[Manifest, Digest, bytes]:
        version = self._version
        for _ in range(INDEX_DEPTH_LIMIT):
            content, media_type, digest = self._source.manifest(version)
            document = parse_manifest(content, media_type, f"The manifest {digest}")
            if isinstance(document, Manifest):
                return document, digest, content
            version = str(document.choose(self._reference, self._wanted).digest)
        raise ManifestInvalid(self._reference, "its indexes are nested too deeply")

    def _add(self, descriptor: Descriptor, content: bytes) -> None:
        if not self._store.has_blob(descriptor):
            self._store.add_blob(descriptor, lambda writer: writer.write(content))

    def _fetch_layers(self, layers: list[Layer], known: Image | None) -> tuple[set[int], set[int]]:
        """Fetch what is missing, several at once, and return the uids and gids that own files.

        Each layer is checked against its diff ID as soon as it is here, unless that was done for `known`, an image
        of the same layers, whatever it is called: the blobs themselves are verified by their digests.
        """
        # Empty layers stand in many images several times.
        distinct = list(dict.fromkeys(layers))
        if known is not None and all(self._store.has_blob(layer.blob) for layer in distinct):
            for layer in distinct:
                self._fetch(layer.blob, lambda: None)
            return set(known.owner_uids), set(known.owner_gids)
        # Imported here: none is needed where everything is in the store.
        import threading  # noqa: PLC0415

        from locald.images.archive import LayerFacts, scan  # noqa: PLC0415  # brings tarfile
        from locald.images.parallel import run_all  # noqa: PLC0415  # brings threading

        found: list[LayerFacts] = []
        self._telling = threading.Lock()

        def make_job(layer: Layer) -> "Job":
            def job(check: "Check") -> None:
                self._fetch(layer.blob, check)
                if known is None:
                    with self._store.open_blob(layer.blob.digest) as blob:
                        found.append(scan(blob, layer.blob.digest, layer.diff_id))

            return job

        run_all([make_job(layer) for layer in distinct], threads=self._source.streams)
        if known is not None:
            return set(known.owner_uids), set(known.owner_gids)
        # Directories that no layer describes are root's.
        return {0}.union(*(facts.uids for facts in found)), {0}.union(*(facts.gids for facts in found))

    def _fetch(self, descriptor: Descriptor, check: "Check") -> None:
        """Have the blob in the store; `check` may raise at any piece of it, and nothing is kept then."""
        digest, progress = descriptor.digest, self._progress
        cached = self._store.has_blob(descriptor)

        def advance(digest: Digest, done_bytes: int) -> None:
            check()
            if progress is not None:
                with self._telling:
                    progress.advance(digest, done_bytes)

        def fill(writer: BlobWriter) -> None:
            writer.progress = advance
            self._source.fetch(writer)

        if not cached:
            if progress is not None:
                with self._telling:
                    progress.begin(digest, descriptor.size_bytes)
            self._store.add_blob(descriptor, fill)
        if progress is not None:
            with self._telling:
                progress.end(digest, cached=cached)
