"""Read images from a tar of an OCI layout (`oci-archive:`), where it lies.

Imports `layout`, `oci` and `errors`. Source: image-spec 1.1, image-layout.md.
"""

import os
import tarfile
from collections.abc import Callable
from typing import IO

from locald.errors.images import ManifestInvalid
from locald.images.layout import Layout
from locald.oci import Descriptor, LayoutReference


class LayoutArchive(Layout):
    """An OCI layout in a tar file, read where it lies."""

    def __init__(self, reference: LayoutReference, verified: Callable[[Descriptor], bytes | None]) -> None:
        """Name the archive; nothing is read yet. See `Layout`."""
        super().__init__(reference, verified)
        self._archive: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}

    def close(self) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()

    def _open_member(self, name: str) -> IO[bytes]:
        if self._archive is None:
            try:
                self._archive = tarfile.open(self._path)  # noqa: SIM115  # close() does
                self._members = {os.path.normpath(member.name): member for member in self._archive}
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise ManifestInvalid(str(self._reference), f"it is no tar archive ({error})") from error
        member = self._members.get(name)
        file = self._archive.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise FileNotFoundError(name)
        return file
