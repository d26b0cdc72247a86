"""Every error that a user of locald can meet: its code, sentence, next step and exit code.

Imports nothing of locald: every module raises from here.

    LocaldError
    ├── UsageError                   usage
    └── ImageError
        ├── ReferenceInvalid         image.reference-invalid
        ├── PlatformInvalid          image.platform-invalid
        ├── ImageNotFound            image.not-found
        ├── PlatformUnavailable      image.platform-unavailable
        ├── ManifestInvalid          image.manifest-invalid
        ├── MediaTypeUnsupported     image.media-type
        ├── DigestMismatch           image.digest-mismatch
        ├── LayerInvalid             image.layer-invalid
        ├── OwnerUnmapped            image.owner-unmapped
        ├── StoreFull                store.full
        ├── StoreUnusable            store.unusable
        ├── TreeForeign              store.tree-foreign
        ├── CredentialsUnreadable    registry.auth-file
        └── RegistryError
            ├── RegistryUnreachable  registry.unreachable
            ├── RegistryInterrupted  registry.interrupted
            ├── RegistryInsecure     registry.insecure
            ├── RegistryTls          registry.tls
            ├── RegistryUnauthorized registry.unauthorized
            ├── RegistryDenied       registry.denied
            ├── RegistryRateLimited  registry.rate-limited
            └── RegistryFailed       registry.failed
"""

from typing import ClassVar


class LocaldError(Exception):
    """What happened, what to do about it, and how the process ends."""

    code: ClassVar[str]  # stable: tests, --json and the manual use it, never the wording
    exit_code: ClassVar[int] = 125  # locald itself; 126, 127 and 128+N speak of the container

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LocaldError):
    """The command line asks for something that does not go together."""

    code = "usage"
    exit_code = 2


# --- images: references, sources, store and layers -------------------------------------------------


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
            hint=f"Run `locald-shim cleanup --bundle {path}`.",
        )
        self.path = path


class RegistryError(ImageError):
    """What all answers of a registry share that end a pull; never raised itself."""

    def __init__(self, registry: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.registry = registry


class RegistryUnreachable(RegistryError):
    """No connection, or one that stayed silent or broke again and again."""

    code = "registry.unreachable"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry,
            f"{registry} cannot be reached: {reason}.",
            hint="Check the name, the network and any proxy.",
        )


class RegistryInterrupted(RegistryError):
    """The connection broke inside a blob more often than is tried."""

    code = "registry.interrupted"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry,
            f"{registry} dropped the connection inside a blob again and again: {reason}.",
            hint="Nothing half is kept. Try again; what was complete is not fetched again.",
        )


class RegistryInsecure(RegistryError):
    """Only plain HTTP is to be had, from a host other than this one."""

    code = "registry.insecure"

    def __init__(self, registry: str, url: str) -> None:
        super().__init__(
            registry,
            f"{registry} leads to {url}, which is not protected by TLS.",
            hint="locald speaks plain HTTP with loopback addresses only: give the registry a certificate.",
        )
        self.url = url


class RegistryTls(RegistryError):
    """The registry's certificate does not prove who it is, or TLS fails otherwise."""

    code = "registry.tls"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry,
            f"TLS with {registry} fails: {reason}.",
            hint="For a private authority, add its certificate to the system's, or set SSL_CERT_FILE.",
        )


class RegistryUnauthorized(RegistryError):
    """401: no credentials, or none that count here."""

    code = "registry.unauthorized"

    def __init__(self, registry: str, repository: str, *, had_credentials: bool) -> None:
        verb = "refuses your" if had_credentials else "asks for"
        super().__init__(
            registry,
            f"{registry} {verb} credentials for {repository}.",
            hint=f"Check the name (many registries answer so for what does not exist), or log in: "
            f"`podman login {registry}` or `docker login {registry}`; locald reads their files.",
        )
        self.had_credentials = had_credentials


class RegistryDenied(RegistryError):
    """403: known, but not allowed."""

    code = "registry.denied"

    def __init__(self, registry: str, repository: str) -> None:
        super().__init__(
            registry,
            f"{registry} denies you {repository}.",
            hint="Ask its owner for read access, or check the name.",
        )


class RegistryRateLimited(RegistryError):
    """429, also after waiting."""

    code = "registry.rate-limited"

    def __init__(self, registry: str) -> None:
        super().__init__(
            registry,
            f"{registry} says that you ask too often.",
            hint="Wait, or log in: most registries allow more to known users.",
        )


class RegistryFailed(RegistryError):
    """A 5xx after retries, or an answer that the protocol does not know."""

    code = "registry.failed"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry, f"{registry} failed: {reason}.", hint="Try again later; the fault is not here."
        )


class CredentialsUnreadable(ImageError):
    """A credentials file exists and is not what podman or docker writes."""

    code = "registry.auth-file"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}.", hint="Mend or remove it, then log in again.")
        self.path = path
