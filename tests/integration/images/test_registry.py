"""Pulls from a real registry: what arrives is what skopeo sees there."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from locald.errors.images import ImageNotFound, PlatformUnavailable
from locald.errors.registry import RegistryUnauthorized, RegistryUnreachable
from locald.images import Owners, Store, cached_tree, pull
from tests.fixtures import Registry, make_image
from tests.fixtures.process import run
from tests.integration.images.conftest import log_in
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import file, tar

SKOPEO_LIMIT_S = 60
SOURCES = str(Path(__file__).parents[3])


def skopeo(*arguments: str) -> bytes:
    """Run skopeo and return its output."""
    command = ["skopeo", "--insecure-policy", *arguments]
    return run(command, limit_s=SKOPEO_LIMIT_S)


def test_pull_by_tag_and_digest(registry: Registry, store: Store) -> None:
    """Digest, config and layers are those of skopeo; a pull by digest gives the same image."""
    reference = f"{registry.address}/library/owners"
    image = pull(reference, store=store)
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{reference}:latest"))
    assert str(image.manifest_digest) == inspected["Digest"]
    assert [str(layer.blob.digest) for layer in image.layers] == inspected["Layers"]
    assert image.reference == f"{reference}:latest"
    assert image.owner_uids == (0, 33, 999, 65534)
    again = pull(f"{reference}@{image.manifest_digest}", store=store)
    assert again.id == image.id


def test_pull_once(registry: Registry, store: Store) -> None:
    """What is stored needs no registry; the policy decides."""
    reference = f"{registry.address}/library/busybox"
    with pytest.raises(ImageNotFound):
        pull(reference, store=store, policy="never")
    image = pull(reference, store=store)
    assert pull(reference, store=store, policy="never") == image
    assert pull(reference, store=store, policy="always").id == image.id
    with cached_tree(image, store, owners=Owners.mapped(0, 0)) as tree:
        assert (tree.path / "bin/busybox").stat().st_mode & 0o777 == 0o755


def test_absent(registry: Registry, store: Store) -> None:
    """A repository or a tag that is not there."""
    for name in ("library/absent", "library/busybox:absent", f"library/busybox@sha256:{'0' * 64}"):
        with pytest.raises(ImageNotFound) as caught:
            pull(f"{registry.address}/{name}", store=store)
        assert name in str(caught.value)


def test_docker_schema_2(registry: Registry, store: Store) -> None:
    """The same image in docker's own format."""
    target = f"{registry.address}/library/v2s2:latest"
    layout = f"oci:{make_image('busybox')}:latest"
    skopeo("copy", "--quiet", "--format=v2s2", "--dest-tls-verify=false", layout, f"docker://{target}")
    image = pull(target, store=store)
    assert image.layers[0].blob.media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert image.owner_uids == (0,)


def test_zstd_layers(registry: Registry, store: Store, tmp_path: Path) -> None:
    """Layers compressed by zstd, made by skopeo (which leaves gzip as it is, so it is undone first)."""
    # A layer that skopeo has not seen: it would push what it knows of one, by its cache.
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(tar([file("fresh", os.urandom(5000))]))
    plain = f"dir:{tmp_path}/plain"
    skopeo("copy", "--quiet", "--dest-decompress", f"oci:{layout.path}:latest", plain)
    target = f"{registry.address}/library/zstd:latest"
    options = ["--quiet", "--dest-tls-verify=false", "--dest-compress-format=zstd"]
    skopeo("copy", *options, plain, f"docker://{target}")
    image = pull(target, store=store)
    assert image.layers[0].blob.media_type.endswith("+zstd")
    with cached_tree(image, store, owners=Owners.squashed()) as tree:
        assert (tree.path / "fresh").stat().st_size == 5000


def test_multi_platform_index(registry: Registry, store: Store, tmp_path: Path) -> None:
    """An index: the host's platform is chosen, another on demand, a missing one is named."""
    reference = f"{registry.address}/library/multi:latest"
    manifests = []
    for architecture in ("amd64", "arm64"):
        layout = tmp_path / architecture
        shutil.copytree(make_image("busybox"), layout)
        image = json.loads(skopeo("inspect", "--config", f"oci:{layout}:latest"))
        assert image["os"] == "linux"
        name = f"docker://{registry.address}/library/{architecture}:latest"
        _set_architecture(layout, architecture)
        skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:latest", name)
        raw = skopeo("inspect", "--raw", "--tls-verify=false", name)
        manifests.append((architecture, raw))
    _push_index(registry.address, manifests)
    image = pull(reference, store=store, platform="linux/arm64")
    assert str(image.platform) == "linux/arm64"
    assert str(pull(reference, store=store, platform="linux/amd64").platform) == "linux/amd64"
    with pytest.raises(PlatformUnavailable, match="linux/amd64, linux/arm64/v8"):
        pull(reference, store=store, platform="linux/s390x", policy="always")


def _set_architecture(layout: Path, architecture: str) -> None:
    """Change an image's config, by umoci, so that all digests are right again."""
    command = ["umoci", "config", "--image", f"{layout}:latest", "--architecture", architecture]
    run(command, limit_s=30)


def _push_index(address: str, manifests: list[tuple[str, bytes]]) -> None:
    """PUT the manifests and an index of them into library/multi, mounting their blobs."""
    import hashlib  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    def request(
        method: str, path: str, content: bytes = b"", media_type: str = "application/octet-stream"
    ) -> None:
        made = urllib.request.Request(  # always http, on loopback
            f"http://{address}/v2/library/multi/{path}", content, {"Content-Type": media_type}, method=method
        )
        urllib.request.urlopen(made, timeout=10).close()  # noqa: S310  # always http, on loopback

    entries = []
    for architecture, raw in manifests:
        document = json.loads(raw)
        for blob in [document["config"], *document["layers"]]:
            request("POST", f"blobs/uploads/?mount={blob['digest']}&from=library/{architecture}")
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        request("PUT", f"manifests/{digest}", raw, document["mediaType"])
        variant = {"variant": "v8"} if architecture == "arm64" else {}
        platform = {"os": "linux", "architecture": architecture, **variant}
        entries.append(
            {"mediaType": document["mediaType"], "digest": digest, "size": len(raw), "platform": platform}
        )
    index_type = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": index_type, "manifests": entries}
    request("PUT", "manifests/latest", json.dumps(index).encode(), index_type)


def test_basic_authentication(private_registry: str, store: Store, home: Path) -> None:
    """Without, with wrong and with right credentials."""
    reference = f"{private_registry}/library/busybox"
    with pytest.raises(RegistryUnauthorized) as caught:
        pull(reference, store=store)
    assert not caught.value.had_credentials
    log_in(home, private_registry, "reader:wrong")
    with pytest.raises(RegistryUnauthorized) as caught:
        pull(reference, store=store)
    assert caught.value.had_credentials
    log_in(home, private_registry)
    assert pull(reference, store=store).owner_uids == (0,)


def test_nobody_listens(store: Store) -> None:
    """A refused connection is said as such, soon."""
    with pytest.raises(RegistryUnreachable, match="refused"):
        pull("127.0.0.1:1/app", store=store)


def test_imports_are_lazy() -> None:
    """Neither the HTTP library nor tarfile is loaded to find a stored image and its tree."""
    heavy = {"urllib3", "tarfile", "zstandard", "ssl", "http", "ctypes", "hashlib"}
    program = f"import sys, locald.images; print({heavy} & set(sys.modules))"
    assert run([sys.executable, "-c", program], limit_s=30, env={"PYTHONPATH": SOURCES}) == b"set()\n"
