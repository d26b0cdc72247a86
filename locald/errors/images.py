"""Errors about images: references, sources, the store and layers."""

from locald.errors import LocaldError


class ImageError(LocaldError):
    """What all errors about images share; never raised itself."""


class ReferenceInvalid(ImageError):
    """A name that is no image reference."""

    code = "image.reference-invalid"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(
            f"{text!r} is not an image reference: {reason}.",
            hint="Write [HOST[:PORT]/]NAME[:TAG|@DIGEST], oci:DIRECTORY[:TAG] or oci-archive:FILE[:TAG].",
        )
        self.text = text


class PlatformInvalid(ImageError):
    """A text that is no platform."""

    code = "image.platform-invalid"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a platform.",
            hint="Write OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm64/v8.",
        )
        self.text = text


class ImageNotFound(ImageError):
    """Neither the store nor the source has this image."""

    code = "image.not-found"

    def __init__(self, reference: str, where: str) -> None:
        super().__init__(
            f"There is no image {reference} in {where}.",
            hint="Check its name and tag; `locald images` lists what is here.",
        )
        self.reference = reference


class PlatformUnavailable(ImageError):
    """The image exists, but not for the platform that is wanted."""

    code = "image.platform-unavailable"

    def __init__(self, reference: str, wanted: str, offered: list[str]) -> None:
        super().__init__(
            f"{reference} has no variant for {wanted}; it has {', '.join(offered) or 'none at all'}.",
            hint="Choose another image or tag, or pull for one of these platforms.",
        )
        self.wanted = wanted
        self.offered = offered


class ManifestInvalid(ImageError):
    """A manifest, an index, an image config or a layout that contradicts the image spec."""

    code = "image.manifest-invalid"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"{what} cannot be used: {reason}.",
            hint="The image was built or stored wrongly; ask its publisher, or build and push it again.",
        )
        self.reason = reason


class MediaTypeUnsupported(ImageError):
    """An image made of parts that locald does not read (schema 1, encrypted layers, artifacts)."""

    code = "image.media-type"

    def __init__(self, what: str, media_type: str) -> None:
        super().__init__(
            f"{what} is of the type {media_type!r}, which locald does not read.",
            hint="Push it as an OCI or docker v2s2 image with tar, tar+gzip or tar+zstd layers.",
        )
        self.media_type = media_type


class DigestMismatch(ImageError):
    """Bytes that are not what their digest promised."""

    code = "image.digest-mismatch"

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(
            f"{what} is not what was promised: expected {expected}, found {found}.",
            hint="Nothing was kept. Try again; if it stays so, the source or a proxy alters data.",
        )
        self.expected = expected
        self.found = found


class LayerInvalid(ImageError):
    """A layer that is no proper archive, or that tries to reach outside of its root filesystem."""

    code = "image.layer-invalid"

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(
            f"Layer {layer} cannot be unpacked: {reason}.",
            hint="Nothing was kept. The image is broken or hostile: do not run it, ask its publisher.",
        )
        self.layer = layer
        self.reason = reason


class OwnerUnmapped(ImageError):
    """A file of the image belongs to an id that the caller's subordinate ids do not reach."""

    code = "image.owner-unmapped"

    def __init__(self, path: str, uid: int, gid: int) -> None:
        super().__init__(
            f"{path} in the image belongs to {uid}:{gid}, beyond your subordinate ids.",
            hint="Run with --mode direct, or ask for a longer range in /etc/subuid and /etc/subgid.",
        )
        self.path = path
        self.uid = uid
        self.gid = gid


class StoreFull(ImageError):
    """The disk, or the caller's quota, has no room left."""

    code = "store.full"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"No space is left for {path}.",
            hint="Nothing was kept. Free some space (`locald rmi` removes images) and try again.",
        )
        self.path = path


class StoreUnusable(ImageError):
    """The store cannot be read or written, or is not what this version of locald writes."""

    code = "store.unusable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"The image store {path} cannot be used: {reason}.",
            hint="It must be your own directory on a local disk; removing it loses only pulled images.",
        )
        self.path = path


class TreeForeign(ImageError):
    """A tree holds files of the caller's subordinate ids, which he alone cannot remove."""

    code = "store.tree-foreign"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} holds files of your subordinate ids, which only the shim can remove for you.",
            hint=f"Run `locald-shim cleanup --bundle {path}`, with the locald-shim beside your `locald`.",
        )
        self.path = path
