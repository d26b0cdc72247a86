"""References as docker reads them, digests, platforms, manifests."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locald.errors.images import (
    ManifestInvalid,
    MediaTypeUnsupported,
    PlatformInvalid,
    PlatformUnavailable,
    ReferenceInvalid,
)
from locald.oci import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    Index,
    LayoutReference,
    Manifest,
    Platform,
    Reference,
    chain_id,
    parse_config,
    parse_manifest,
    parse_reference,
)

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("host:5000/app:v1", "host:5000/app:v1"),
        ("127.0.0.1:5000/a/b__c.d-e:V_1.x", "127.0.0.1:5000/a/b__c.d-e:V_1.x"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("Registry/app", "Registry/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"ghcr.io/a/b:c@{DIGEST}", f"ghcr.io/a/b:c@{DIGEST}"),
        (f"a@sha512:{HEX * 2}", f"docker.io/library/a@sha512:{HEX * 2}"),
    ],
)
def test_reference_is_read_as_docker_does(text: str, expected: str) -> None:
    """Short names, registries, ports, tags and digests follow distribution/reference."""
    assert str(Reference.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "Upper",
        "a/Upper",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a: b",
        "a:" + "t" * 129,
        "a:.t",
        "a@",
        "a@sha256:abc",
        f"a@SHA256:{HEX}",
        f"a@sha256:{HEX.upper()}",
        f"a@md5:{HEX[:32]}",
        "a@b@c",
        "-host.com/a",
        "host.com:port/a",
        "a..b/c.d/../e",
        "a.-b/c",
        "https://host/a",
        HEX,
        "a\nb",
        "a\n",
        "a:t\n",
        "é",
        "host.com/" + "a" * 250,
    ],
)
def test_malformed_reference_is_refused(text: str) -> None:
    """What breaks the grammar is refused, and the error keeps what was typed."""
    with pytest.raises(ReferenceInvalid) as caught:
        Reference.parse(text)
    assert caught.value.text == text
    assert caught.value.code == "image.reference-invalid"


_ALNUM = string.ascii_lowercase + string.digits
_WORD = st.text(_ALNUM, min_size=1, max_size=8)
_COMPONENT = st.builds(
    lambda words, sep: sep.join(words),
    st.lists(_WORD, min_size=1, max_size=3),
    st.sampled_from(["_", "__", ".", "-", "---"]),
)
_REGISTRY = st.one_of(
    st.builds(
        lambda words, port: ".".join(words) + port,
        st.lists(_WORD, min_size=2, max_size=4),
        st.sampled_from(["", ":5000"]),
    ),
    st.just("localhost"),
    st.just("[::1]:443"),
    st.builds("{}:{}".format, _WORD, st.integers(1, 65535)),
)
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
_DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda text: Digest("sha256", text))


@given(
    registry=_REGISTRY,
    components=st.lists(_COMPONENT, min_size=1, max_size=4),
    tag=st.none() | _TAG,
    digest=st.none() | _DIGEST,
)
def test_printing_then_parsing_a_reference_is_identity(
    registry: str, components: list[str], tag: str | None, digest: Digest | None
) -> None:
    """Whatever a Reference prints means that Reference again."""
    reference = Reference(registry, "/".join(components), tag if tag or digest else "latest", digest)
    assert Reference.parse(str(reference)) == reference


@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("aA0.:/@-_[]", max_size=40))
def test_any_text_is_a_stable_reference_or_refused(text: str) -> None:
    """Parsing never fails otherwise, and what it accepts is a fixed point."""
    try:
        reference = parse_reference(text)
    except ReferenceInvalid:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:dir", LayoutReference("oci", "dir", None)),
        ("oci:/a/b:tag", LayoutReference("oci", "/a/b", "tag")),
        ("oci:/a:b/c", LayoutReference("oci", "/a:b/c", None)),
        ("oci-archive:x.tar:1", LayoutReference("oci-archive", "x.tar", "1")),
    ],
)
def test_layout_reference(text: str, expected: LayoutReference) -> None:
    """The last colon starts a tag unless a slash follows."""
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", ["oci:", "oci:\0", "oci-archive::tag"])
def test_layout_without_path_is_refused(text: str) -> None:
    """A transport without a path is no image."""
    with pytest.raises(ReferenceInvalid):
        parse_reference(text)


@pytest.mark.parametrize(
    ("wanted", "offered", "rank"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/amd64", "linux/amd64/v1", 0),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm64/v8", "linux/arm64", 0),
        ("linux/arm/v7", "linux/arm/v6", 1),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/arm64", "linux/arm/v7", None),
        ("linux/amd64", "windows/amd64", None),
    ],
)
def test_platform_accepts_what_its_processor_runs(wanted: str, offered: str, rank: int | None) -> None:
    """Same variant first, then older ones, never newer ones."""
    assert Platform.parse(wanted).accepts(Platform.parse(offered)) == rank


@pytest.mark.parametrize("text", ["", "linux", "linux/", "a/b/c/d", "Linux/amd64", "linux/amd64\n"])
def test_malformed_platform_is_refused(text: str) -> None:
    """Anything but OS/ARCHITECTURE[/VARIANT] is refused."""
    with pytest.raises(PlatformInvalid):
        Platform.parse(text)


def test_platform_of_this_kind_of_machine() -> None:
    """Uname's names become the image spec's."""
    assert str(Platform.of_machine("x86_64")) == "linux/amd64"
    assert str(Platform.of_machine("aarch64")) == "linux/arm64"
    assert str(Platform.of_machine("armv6l")) == "linux/arm/v6"
    assert str(Platform.of_machine("riscv64")) == "linux/riscv64"


def descriptor(media_type: str, **more: object) -> dict[str, object]:
    """Return a descriptor as JSON has it."""
    return {"mediaType": media_type, "digest": DIGEST, "size": 3, **more}


def manifest(**more: object) -> bytes:
    """Return a manifest with one layer; `more` overrides."""
    document = {"schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [descriptor(LAYER)]}
    return json.dumps(document | more).encode()


def index(*platforms: tuple[str, str, str | None]) -> bytes:
    """Return an index with one entry a platform, each with a digest of its own."""
    entries = [
        descriptor(
            OCI_MANIFEST,
            digest=f"sha256:{number:064x}",
            platform={
                "os": system,
                "architecture": architecture,
                **({"variant": variant} if variant else {}),
            },
        )
        for number, (system, architecture, variant) in enumerate(platforms)
    ]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def test_manifest_is_read() -> None:
    """Config and layers come out in order."""
    parsed = parse_manifest(manifest(), OCI_MANIFEST, "m")
    assert isinstance(parsed, Manifest)
    assert (str(parsed.config.digest), len(parsed.layers)) == (DIGEST, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff",
        manifest(layers=None),
        manifest(config=None),
        manifest(config={**descriptor(OCI_CONFIG), "size": -1}),
        manifest(config={**descriptor(OCI_CONFIG), "size": True}),
        manifest(config={**descriptor(OCI_CONFIG), "digest": "sha256:x"}),
        manifest(config={**descriptor(OCI_CONFIG), "digest": None}),
        manifest(layers=[1]),
        manifest(manifests=[]),
        manifest(mediaType=OCI_INDEX),
        manifest(mediaType=DOCKER_MANIFEST),
    ],
)
def test_damaged_or_ambiguous_manifest_is_refused(content: bytes) -> None:
    """Also a document that is manifest and index at once (CVE-2021-41190), or contradicts its media type."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(content, OCI_MANIFEST, "m")


def test_manifest_and_index_at_once() -> None:
    """Without any media type too: other readers would see another image in it (CVE-2021-41190)."""
    for content in (manifest(manifests=[]), manifest(manifests=[], layers=None, config=None)):
        with pytest.raises(ManifestInvalid, match="at once"):
            parse_manifest(content, None, "m")


@pytest.mark.parametrize(
    "content",
    [
        b'{"schemaVersion": 1, "fsLayers": []}',
        manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json")),
        manifest(layers=[descriptor(LAYER + "+encrypted")]),
        manifest(mediaType="application/vnd.docker.distribution.manifest.v1+json"),
    ],
)
def test_other_kinds_of_documents_are_named(content: bytes) -> None:
    """Schema 1, artifacts and encrypted layers are refused by their type."""
    with pytest.raises(MediaTypeUnsupported):
        parse_manifest(content, None, "m")


def test_media_type_parameters_are_ignored() -> None:
    """Some registries append a charset."""
    assert isinstance(parse_manifest(index(), f"{DOCKER_INDEX}; charset=utf-8", "m"), Index)


def test_index_chooses_the_best_entry() -> None:
    """The exact variant wins over an older one, the first of equals over the second."""
    parsed = parse_manifest(
        index(
            ("linux", "arm", "v6"), ("linux", "amd64", None), ("linux", "arm", "v7"), ("linux", "arm", "v7")
        ),
        None,
        "m",
    )
    assert isinstance(parsed, Index)
    assert parsed.choose("x", Platform("linux", "arm", "v7")).digest.hex.endswith("2")
    assert parsed.choose("x", Platform("linux", "arm", "v6")).digest.hex.endswith("0")


def test_index_names_what_it_offers() -> None:
    """Attestations (unknown/unknown) are not offered."""
    parsed = parse_manifest(index(("linux", "arm64", "v8"), ("unknown", "unknown", None)), None, "m")
    assert isinstance(parsed, Index)
    with pytest.raises(PlatformUnavailable) as caught:
        parsed.choose("x", Platform("linux", "amd64"))
    assert caught.value.offered == ["linux/arm64/v8"]


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": {"diff_ids": []}},
        {"rootfs": {"diff_ids": ["sha256:x"]}},
        {"rootfs": None},
        {"os": None},
        {"config": []},
        {"config": "x"},
        # What a container cannot inherit.
        {"config": {"User": 5}},
        {"config": {"Entrypoint": "/bin/sh"}},
        {"config": {"Cmd": ["a", None]}},
        {"config": {"Env": ["A=a\0b"]}},
        {"config": {"Env": ["A=\ud800"]}},
        {"config": {"WorkingDir": "/\0"}},
        {"config": {"StopSignal": "\udfff"}},
        {"config": {"Volumes": ["/data"]}},
        {"config": {"Volumes": {"/da\0ta": {}}}},
        {"config": {"Labels": "x"}},
    ],
)
def test_damaged_config_is_refused(change: dict[str, object]) -> None:
    """A config names its platform and one diff ID a layer; what a container inherits has its type and no NUL."""
    parsed = parse_manifest(manifest(), None, "m")
    assert isinstance(parsed, Manifest)
    inherited = {
        "User": None,
        "Cmd": ["\U0001f600"],
        "Volumes": {},
        "Labels": {"a": 5},
        "Healthcheck": 1,
        "x": "\0",
    }
    good: dict[str, object] = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [DIGEST]}}
    good["config"] = inherited
    assert parse_config(json.dumps(good).encode(), parsed, "c")[1] == (Digest.parse(DIGEST),)
    with pytest.raises(ManifestInvalid):
        parse_config(json.dumps(good | change).encode(), parsed, "c")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, f"{1:064d}"),
        # By sha256sum, from the words of the specification.
        (2, "e0213565073dd272477933ef550455db21856966e444074f1492aef0939305ac"),
        (3, "af4149e65a6923bb39782a876ce40a7c3b08fc85ec732e9efcc661d9399016d0"),
    ],
)
def test_layers_have_one_chain_id(layers: int, expected: str) -> None:
    """Of one layer it is the diff id; of more, the digest of what is below and the next one's."""
    diff_ids = tuple(Digest("sha256", f"{number:064d}") for number in range(1, layers + 1))
    assert chain_id(diff_ids) == Digest("sha256", expected)
