"""References, digests, descriptors, platforms and manifests: parse and print. No I/O.

Imports `errors` only. Sources: distribution/reference (the grammar and docker.io's rules for short names),
image-spec 1.1 (descriptor, manifest, index, config) and docker's image manifest version 2, schema 2.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from locald.errors.images import (
    ManifestInvalid,
    MediaTypeUnsupported,
    PlatformInvalid,
    PlatformUnavailable,
    ReferenceInvalid,
)

DOCKER_HUB = "docker.io"
NAME_LIMIT = 255  # characters of registry and repository together, as in distribution/reference

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"(sha256|sha512):([0-9a-f]+)")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")


class Digest(NamedTuple):
    """The algorithm and the lower-case hex of a digest of stored bytes."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `sha256:…` or `sha512:…`.

        Raises:
            ValueError: Another algorithm, another length, or no digest at all.
        """
        match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
        if match is None or len(match[2]) != _HEX_LENGTH[match[1]]:
            raise ValueError(f"{text!r} is no sha256 or sha512 digest")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def chain_id(diff_ids: tuple[Digest, ...]) -> Digest:
    """Return the digest that stands for layers on each other, lowest first (image-spec config.md, Layer ChainID)."""
    if len(diff_ids) == 1:
        return diff_ids[0]
    # Imported here: it is the store that most runs find it in.
    import hashlib  # noqa: PLC0415

    # An image of no layer has no chain id by the specification; here it has that of nothing.
    chain, *others = diff_ids or (Digest("sha256", hashlib.sha256().hexdigest()),)
    for diff_id in others:
        chain = Digest("sha256", hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest())
    return chain


class Reference(NamedTuple):
    """A repository in a registry with a tag, a digest, or both (then the digest decides)."""

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as docker does: short names are docker.io's, the tag defaults to `latest`.

        The first component names a registry if it holds a dot, a colon or an upper-case letter, or is
        `localhost`; otherwise it belongs to a repository on docker.io.

        Raises:
            ReferenceInvalid: `text` breaks the grammar (exit 125, `image.reference-invalid`).
        """
        name, at, digest_text = text.partition("@")
        try:
            digest = Digest.parse(digest_text) if at else None
        except ValueError as error:
            raise ReferenceInvalid(text, str(error)) from error
        # A colon after the last slash starts a tag; one before it belongs to the registry's port.
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        name = head + slash + last
        if colon and not _TAG.fullmatch(tag):
            raise ReferenceInvalid(text, "its tag is malformed")
        registry, repository = _split_registry(name)
        if not _REGISTRY.fullmatch(registry):
            raise ReferenceInvalid(text, "its registry is no host name")
        if not _REPOSITORY.fullmatch(repository):
            reason = (
                "the name must be lower case" if repository != repository.lower() else "the name is malformed"
            )
            raise ReferenceInvalid(text, reason)
        if len(registry) + 1 + len(repository) > NAME_LIMIT:
            raise ReferenceInvalid(text, f"the name is longer than {NAME_LIMIT} characters")
        if slash == "" and len(last) == _HEX_LENGTH["sha256"] and set(last) <= set("0123456789abcdef"):
            raise ReferenceInvalid(text, "64 hex digits are an image id, not a name")
        return cls(registry, repository, tag if colon else None if digest else "latest", digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def version(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return str(self.digest) if self.digest else self.tag or "latest"


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost" or first != first.lower()):
        first, rest = DOCKER_HUB, name
    if first == "index.docker.io":
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


class LayoutReference(NamedTuple):
    """An image in an OCI layout: a directory (`oci:`) or a tar of one (`oci-archive:`)."""

    transport: str
    path: str
    tag: str | None

    def __str__(self) -> str:
        return f"{self.transport}:{self.path}" + (f":{self.tag}" if self.tag else "")


def parse_reference(text: str) -> Reference | LayoutReference:
    """Read whatever a user may call an image.

    `oci:` and `oci-archive:` always start a path; an image named `oci` is written `docker.io/library/oci`.
    What follows the path's last colon is a tag, as in skopeo, unless it holds a slash.

    Raises:
        ReferenceInvalid: Neither kind (exit 125, `image.reference-invalid`).
    """
    if "\0" in text:
        raise ReferenceInvalid(text, "it holds a NUL")
    transport, colon, rest = text.partition(":")
    if not colon or transport not in {"oci", "oci-archive"}:
        return Reference.parse(text)
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, ""
    if not path:
        raise ReferenceInvalid(text, "the path is missing")
    return LayoutReference(transport, path, tag or None)


class Platform(NamedTuple):
    """Operating system, architecture and variant, as the image spec names them."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os/architecture[/variant]`.

        Raises:
            PlatformInvalid: Anything else (exit 125, `image.platform-invalid`).
        """
        if not re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+(?:/[a-z0-9_.]+)?", text):
            raise PlatformInvalid(text)
        return cls(*text.split("/"))

    @classmethod
    def of_machine(cls, machine: str) -> Self:
        """Return the platform of a Linux host whose uname(2) says `machine`."""
        return cls("linux", *_MACHINES.get(machine, (machine, None)))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def accepts(self, offered: Self) -> int | None:
        """Say how well an image for `offered` suits this platform: 0 is exact, None is not at all."""
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        default, older = _VARIANTS.get(self.architecture, (None, ()))
        mine, theirs = self.variant or default, offered.variant or default
        if mine == theirs:
            return 0
        if mine not in older or theirs not in older:
            return None
        # A newer processor runs what was built for an older one, never the reverse.
        distance = older.index(mine) - older.index(theirs)
        return distance if distance > 0 else None


_MACHINES: dict[str, tuple[str, str | None]] = {
    "x86_64": ("amd64", None),
    "i386": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", None),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", None),
}
# Per architecture: what an absent variant means, and all of them, oldest first. Source: containerd/platforms.
_VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "amd64": ("v1", ("v1", "v2", "v3", "v4")),
    "arm": ("v7", ("v5", "v6", "v7")),
    "arm64": ("v8", ("v8", "v8.1", "v8.2", "v8.3", "v8.4", "v9")),
}


class Descriptor(NamedTuple):
    """What a blob is, which one it is, and how many bytes it has."""

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None
    ref_name: str | None = None  # the annotation org.opencontainers.image.ref.name of a layout's index

    @classmethod
    def from_json(cls, value: object, what: str) -> Self:
        """Read a descriptor of the document that errors call `what`.

        Raises:
            ManifestInvalid: A member is missing or of the wrong kind (exit 125, `image.manifest-invalid`).
        """
        if not isinstance(value, dict):
            raise ManifestInvalid(what, "a descriptor is no object")
        media_type, size = value.get("mediaType"), value.get("size")
        try:
            digest = Digest.parse(value.get("digest"))
        except ValueError as error:
            raise ManifestInvalid(what, str(error)) from error
        if not isinstance(media_type, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ManifestInvalid(what, f"the descriptor of {digest} lacks a media type or a size")
        annotations = value.get("annotations")
        name = annotations.get("org.opencontainers.image.ref.name") if isinstance(annotations, dict) else None
        return cls(media_type, digest, size, _platform(value.get("platform")), name)


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    system, architecture, variant = (value.get(key) or None for key in ("os", "architecture", "variant"))
    if not isinstance(system, str) or not isinstance(architecture, str):
        return None
    return Platform(system, architecture, variant if isinstance(variant, str) else None)


class Manifest(NamedTuple):
    """One image: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(NamedTuple):
    """Several images, one a platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]

    def choose(self, reference: str, wanted: Platform) -> Descriptor:
        """Return the entry that suits `wanted` best; among equals the first, as the image spec says.

        Raises:
            PlatformUnavailable: None suits (exit 125, `image.platform-unavailable`).
        """
        ranked = []
        for entry in self.manifests:
            rank = wanted.accepts(entry.platform) if entry.platform else None
            if rank is not None and entry.media_type in MANIFEST_TYPES | INDEX_TYPES:
                ranked.append((rank, entry))
        if ranked:
            return min(ranked, key=lambda pair: pair[0])[1]
        # An index of one image that names no platform: its config will be judged instead.
        if len(self.manifests) == 1 and self.manifests[0].platform is None:
            return self.manifests[0]
        offered = [
            str(entry.platform)
            for entry in self.manifests
            if entry.platform and entry.platform.os != "unknown"
        ]
        raise PlatformUnavailable(reference, str(wanted), offered)


def parse_manifest(content: bytes, media_type: str | None, what: str) -> Manifest | Index:
    """Read a manifest or an index.

    Args:
        content: The document's bytes, already verified against their digest.
        media_type: What the transport said it is; must agree with what the document itself says.
        what: How errors name the document.

    Raises:
        ManifestInvalid: Not JSON, members missing, or two kinds at once, which would mean different things to
            different readers (CVE-2021-41190) (exit 125, `image.manifest-invalid`).
        MediaTypeUnsupported: Schema 1, an artifact, an unknown layer type (exit 125, `image.media-type`).
    """
    document = parse_object(content, what)
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document):
        raise ManifestInvalid(what, "it is a manifest and an index at once")
    kind = _kind(document, media_type, what)
    if is_index != (kind in INDEX_TYPES):
        raise ManifestInvalid(what, f"its members contradict its type {kind!r}")
    if is_index:
        return Index(kind, tuple(_descriptors(document, "manifests", what)))
    manifest = Manifest(
        kind,
        Descriptor.from_json(document.get("config"), what),
        tuple(_descriptors(document, "layers", what)),
    )
    if manifest.config.media_type not in CONFIG_TYPES:
        raise MediaTypeUnsupported(what, manifest.config.media_type)
    for layer in manifest.layers:
        if layer.media_type not in LAYER_TYPES:
            raise MediaTypeUnsupported(f"Layer {layer.digest}", layer.media_type)
    return manifest


def _kind(document: Mapping[str, Any], media_type: str | None, what: str) -> str:
    """Return the media type of a manifest or an index, in which the document and the transport must agree."""
    kind = document.get("mediaType")
    transported = media_type.partition(";")[0].strip() if media_type else None
    known = INDEX_TYPES | MANIFEST_TYPES
    if document.get("schemaVersion") == 1:
        raise MediaTypeUnsupported(what, transported or "docker manifest schema 1")
    if document.get("schemaVersion") != 2:  # noqa: PLR2004  # the only other one there is
        raise ManifestInvalid(what, "its schemaVersion is not 2")
    if kind is not None and transported in known and kind != transported:
        raise ManifestInvalid(what, f"it says it is {kind!r} but came as {transported!r}")
    if kind is None:
        # OCI documents may leave it out; then the transport's, then the shape decides.
        kind = transported if transported in known else OCI_INDEX if "manifests" in document else OCI_MANIFEST
    if kind not in known:
        raise MediaTypeUnsupported(what, str(kind))
    return str(kind)


def _descriptors(document: Mapping[str, Any], key: str, what: str) -> Iterable[Descriptor]:
    values = document.get(key)
    if not isinstance(values, list):
        raise ManifestInvalid(what, f"{key!r} is no list")
    return [Descriptor.from_json(value, what) for value in values]


def parse_object(content: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `content`.

    Raises:
        ManifestInvalid: It holds something else (exit 125, `image.manifest-invalid`).
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(what, "it is no JSON") from error
    if not isinstance(document, dict):
        raise ManifestInvalid(what, "it is no JSON object")
    return document


# What spec.py takes over of an image config, and the type that the image spec gives it (config.md).
_INHERITED: dict[str, type[Any]] = {
    **dict.fromkeys(("User", "WorkingDir", "StopSignal"), str),
    **dict.fromkeys(("Entrypoint", "Cmd", "Env"), list),
    **dict.fromkeys(("Volumes", "Labels"), dict),
}
_KIND_NAMES: dict[type[Any], str] = {str: "string", list: "list", dict: "object"}


def parse_config(
    content: bytes, manifest: Manifest, what: str
) -> tuple[dict[str, Any], tuple[Digest, ...], Platform]:
    """Return an image config, the diff IDs of its layers (lowest first) and its platform.

    Raises:
        ManifestInvalid: No config, not one diff ID a layer, or something that no container can inherit (exit 125,
            `image.manifest-invalid`).
    """
    config = parse_object(content, what)
    platform = _platform(config)
    rootfs = config.get("rootfs")
    values = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if platform is None or not isinstance(values, list):
        raise ManifestInvalid(what, "it names no platform or no diff IDs")
    try:
        diff_ids = tuple(Digest.parse(value) for value in values)
    except ValueError as error:
        raise ManifestInvalid(what, str(error)) from error
    if len(diff_ids) != len(manifest.layers):
        raise ManifestInvalid(what, f"it names {len(diff_ids)} diff IDs for {len(manifest.layers)} layers")
    inherited = config.get("config")
    if not isinstance(inherited, dict | None):
        raise ManifestInvalid(what, "'config' is no object")
    for name, value in (inherited or {}).items():
        reason = _find_flaw(name, value)
        if reason is not None:
            raise ManifestInvalid(what, f"'config.{name}' {reason}")
    return config, diff_ids, platform


def _find_flaw(name: str, value: Any) -> str | None:
    """Return why a container cannot inherit this member of an image config; None if it can, or does not. Pure."""
    kind = _INHERITED.get(name)
    if kind is None or value is None:
        return None
    if not isinstance(value, kind):
        return f"is no {_KIND_NAMES[kind]}"
    # Labels are looked for by name only.
    texts: list[Any] = [value] if kind is str else [] if name == "Labels" else list(value)
    if not all(isinstance(text, str) for text in texts):
        return "holds something that is no string"
    text = "".join(texts)
    # A NUL would end the string for execve(2) and mount(2), and not for who checks it.
    return "holds a NUL" if "\0" in text else None if _is_whole(text) else "holds half a character"


def _is_whole(text: str) -> bool:
    """Say whether a text of JSON can be written again: a surrogate without its other half cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
