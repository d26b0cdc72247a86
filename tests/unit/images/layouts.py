"""OCI layouts byte by byte, also such as contradict themselves."""

import gzip
import json
from pathlib import Path
from typing import Any

from locald.oci import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Platform
from tests.unit.images.tars import digest_of

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
HOST = Platform("linux", "amd64")


class LayoutMaker:
    """Writes one layout; every digest is right unless a test says otherwise."""

    def __init__(self, path: Path) -> None:
        """Make an empty layout at `path`."""
        self.path = path
        self.entries: list[dict[str, Any]] = []
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        """Store `content` and return its descriptor."""
        digest = digest_of(content)
        (self.path / "blobs/sha256" / digest.hex).write_bytes(content)
        return {"mediaType": media_type, "digest": str(digest), "size": len(content)}

    def image(
        self,
        *layers: bytes,
        tag: str = "latest",
        platform: Platform = HOST,
        diff_ids: list[str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add an image of uncompressed layers and return its manifest's descriptor."""
        image_config = {
            "os": platform.os,
            "architecture": platform.architecture,
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [str(digest_of(layer)) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(json.dumps(image_config).encode(), OCI_CONFIG),
            "layers": [self.blob(gzip.compress(layer, mtime=0), LAYER) for layer in layers],
        }
        entry = self.blob(json.dumps(manifest).encode(), OCI_MANIFEST)
        entry["platform"] = {"os": platform.os, "architecture": platform.architecture}
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.entries.append(entry)
        self._write_index()
        return entry

    def index(self, *manifests: dict[str, Any], tag: str = "latest") -> dict[str, Any]:
        """Replace all entries by one index of `manifests`."""
        content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
        entry = self.blob(content, OCI_INDEX)
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.entries = [entry]
        self._write_index()
        return entry

    def _write_index(self) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries}
        (self.path / "index.json").write_text(json.dumps(index))
