"""A pull from layouts: what is stored, what is verified, what is left behind."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO

import pytest

from locald.errors.images import (
    DigestMismatch,
    ImageNotFound,
    LayerInvalid,
    ManifestInvalid,
    PlatformUnavailable,
    StoreFull,
)
from locald.images import Policy, Store, archive, pull
from locald.images.layout import open_layout
from locald.oci import OCI_INDEX, Digest, LayoutReference, Platform
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import directory, file, tar

ROOT = Path(__file__).resolve().parents[3]
AMD64 = "linux/amd64"
LAYER = tar([directory("d"), file("d/a", b"1", uid=33, gid=44)])


def blobs(store: Store) -> set[str]:
    """Return the hex names of all blobs that are visible."""
    return {path.name for path in (store.root / "blobs/sha256").iterdir()}


def leftovers(store: Store) -> list[str]:
    """Return what is in the store's temporary directory."""
    return os.listdir(store.root / "tmp")


def test_pull_and_get(store: Store, layout: LayoutMaker) -> None:
    """The image is found by any spelling of its name, with its config and owners."""
    layout.image(LAYER, tag="v1", config={"Cmd": ["x"]})
    image = pull(f"oci:{layout.path}:v1", store=store, platform=AMD64)
    assert image == store.get(f"oci:{os.path.relpath(layout.path)}:v1")
    assert store.images() == [image]
    assert image.config["config"] == {"Cmd": ["x"]}
    assert (image.owner_uids, image.owner_gids) == ((0, 33), (0, 44))
    assert image.platform == Platform("linux", "amd64")
    assert len(blobs(store)) == 3
    assert leftovers(store) == []
    assert image.size_bytes == (store.blob_path(image.layers[0].blob.digest)).stat().st_size


def test_policy(store: Store, layout: LayoutMaker) -> None:
    """`never` only looks; a layout is looked into each time."""
    name = f"oci:{layout.path}"
    with pytest.raises(ImageNotFound):
        pull(name, store=store, platform=AMD64, policy="never")
    layout.image(LAYER)
    first = pull(name, store=store, platform=AMD64)
    assert pull(name, store=store, platform=AMD64, policy="never") == first
    layout.entries.clear()
    layout.image(tar([file("b")]))
    assert pull(name, store=store, platform=AMD64).id != first.id


def test_a_layout_that_did_not_change_is_not_recorded_again(
    store: Store, layout: LayoutMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of it waits for no disk; whatever changed, or was asked for by a pull, is recorded."""
    name = f"oci:{layout.path}"
    layout.image(LAYER)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    first = pull(name, store=store, platform=AMD64)
    written = (store.root / "index.json").stat().st_ino
    monkeypatch.setattr(time, "time", lambda: 2000.0)

    def waited(_fd: int) -> None:
        raise AssertionError("the disk was waited for")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", waited)
        patched.setattr(os, "fdatasync", waited)
        assert pull(name, store=store, platform=AMD64) == first
    # A written one would be another file.
    assert (store.root / "index.json").stat().st_ino == written
    assert pull(name, store=store, platform=AMD64, policy="always").pulled_at_s == 2000
    assert store.images()[0].pulled_at_s == 2000
    # The same layers with another config.
    layout.entries.clear()
    layout.image(LAYER, config={"Cmd": ["new"]})
    changed = pull(name, store=store, platform=AMD64)
    assert changed.id != first.id
    assert store.images() == [changed]
    store.remove(name)
    pull(name, store=store, platform=AMD64)
    assert [image.reference for image in store.images()] == [name]


def test_what_a_registry_gave_is_always_recorded(
    store: Store, layout: LayoutMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is what was here: it was asked, and that was now; be it for a blob that somebody tidied away."""
    layout.image(LAYER)
    # A layout in its place: what a source answers has the same form.
    asked = LayoutReference("oci", str(layout.path), None)
    source = open_layout(asked, store.read_blob)
    monkeypatch.setattr(sys.modules["locald.images.pull"], "_open_source", lambda _name, _store: source)
    asks: list[tuple[int, Policy]] = [(1000, "missing"), (2000, "always"), (3000, "missing")]
    for now, policy in asks:
        monkeypatch.setattr(time, "time", lambda now=now: float(now))
        image = pull("registry.test/x", store=store, platform=AMD64, policy=policy)
        assert [image.pulled_at_s for image in store.images()] == [now]
        store.blob_path(image.layers[0].blob.digest).unlink()


@pytest.mark.spawns
def test_a_layout_that_is_here_is_looked_into_without_a_hash(store: Store, layout: LayoutMaker) -> None:
    """Each run of an `oci:` image does that: what was verified needs no module that hashes, unpacks or waits."""
    layout.image(LAYER, LAYER)
    name = f"oci:{layout.path}"
    image = pull(name, store=store, platform=AMD64)
    script = (
        "import sys; from pathlib import Path; from locald.images import Store, pull\n"
        "image = pull(sys.argv[1], store=Store(Path(sys.argv[2])), platform='linux/amd64')\n"
        "print(image.id, *sorted({'hashlib', 'tarfile', 'threading'} & set(sys.modules)))"
    )
    argv = [sys.executable, "-P", "-c", script, name, str(store.root)]
    said = subprocess.run(argv, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, timeout=30, check=True)
    assert said.stdout.decode().split() == [str(image.id)]


def test_a_layer_named_as_manifest_is_not_read_whole(
    store: Store, layout: LayoutMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the store has it: what is no document by its size is refused, whoever verified it."""
    layout.image(tar([file("big", os.urandom(9000))]))
    layer = pull(f"oci:{layout.path}", store=store, platform=AMD64).layers[0].blob
    entry = layout.entries[0] | {"digest": str(layer.digest), "size": layer.size_bytes}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    (layout.path / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr(sys.modules["locald.images.layout"], "DOCUMENT_LIMIT_BYTES", 8000)
    monkeypatch.setattr(Store, "read_blob", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ManifestInvalid, match="is larger than 8000 bytes"):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)


class Recorder:
    """Records what a pull tells."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.told: list[tuple[str, str, object]] = []

    def begin(self, digest: Digest, size_bytes: int) -> None:
        """Record."""
        self.told.append(("begin", digest.hex, size_bytes))

    def advance(self, digest: Digest, done_bytes: int) -> None:
        """Record."""
        self.told.append(("advance", digest.hex, done_bytes))

    def end(self, digest: Digest, *, cached: bool) -> None:
        """Record."""
        self.told.append(("end", digest.hex, cached))


def test_progress(store: Store, layout: LayoutMaker) -> None:
    """Each blob begins, advances to its size, ends; a stored one only ends."""
    layout.image(LAYER)
    recorder = Recorder()
    image = pull(f"oci:{layout.path}", store=store, platform=AMD64, progress=recorder)
    layer = image.layers[0].blob
    of_layer = [(event, value) for event, digest, value in recorder.told if digest == layer.digest.hex]
    assert of_layer == [("begin", layer.size_bytes), ("advance", layer.size_bytes), ("end", False)]
    recorder.told.clear()
    pull(f"oci:{layout.path}", store=store, platform=AMD64, progress=recorder)
    assert recorder.told == [("end", image.id.hex, True), ("end", layer.digest.hex, True)]


def test_archive(store: Store, layout: LayoutMaker, tmp_path: Path) -> None:
    """`oci-archive:` reads the same from a tar, with or without `./`."""
    layout.image(LAYER, tag="t")
    for prefix in (".", ""):
        path = tmp_path / f"image{prefix}.tar"
        with tarfile.open(path, "w") as whole:
            whole.add(layout.path, prefix)
        assert pull(f"oci-archive:{path}:t", store=store, platform=AMD64).owner_uids == (0, 33)


def test_layers_are_read_once_whatever_names_them(
    store: Store, layout: LayoutMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image under a second name is not unpacked again to be checked; another image is."""
    read: list[Digest] = []
    honest = archive.scan

    def scan(blob: IO[bytes], layer: Digest, diff_id: Digest) -> archive.LayerFacts:
        read.append(layer)
        return honest(blob, layer, diff_id)

    monkeypatch.setattr(archive, "scan", scan)
    layout.image(LAYER, tag="t")
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as whole:
        whole.add(layout.path, "")
    first = pull(f"oci:{layout.path}:t", store=store, platform=AMD64)
    second = pull(f"oci-archive:{path}:t", store=store, platform=AMD64)
    assert len(read) == 1
    assert (second.id, second.owner_uids, second.owner_gids) == (first.id, (0, 33), (0, 44))
    layout.entries.clear()
    layout.image(LAYER, tar([file("b")]))
    pull(f"oci:{layout.path}", store=store, platform=AMD64)
    assert len(read) == 3


def test_index_in_a_layout(store: Store, layout: LayoutMaker) -> None:
    """The platform's image is chosen, and a missing one is named with what there is."""
    arm = layout.image(LAYER, platform=Platform("linux", "arm64"))
    amd = layout.image(tar([file("amd")]))
    layout.index(arm, amd)
    image = pull(f"oci:{layout.path}", store=store, platform="linux/arm64")
    assert str(image.manifest_digest) == arm["digest"]
    with pytest.raises(PlatformUnavailable) as caught:
        pull(f"oci:{layout.path}", store=store, platform="linux/s390x")
    assert caught.value.offered == ["linux/arm64", "linux/amd64"]


def test_config_of_another_platform(store: Store, layout: LayoutMaker) -> None:
    """A manifest without index is judged by its config."""
    layout.image(LAYER, platform=Platform("linux", "arm64"))
    with pytest.raises(PlatformUnavailable):
        pull(f"oci:{layout.path}:latest", store=store, platform=AMD64)


def corrupt(layout: LayoutMaker, digest: str) -> None:
    """Change one byte of a blob."""
    path = layout.path / "blobs/sha256" / digest.removeprefix("sha256:")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("which", ["manifest", "config", "layer", "short", "long"])
def test_wrong_bytes_are_never_visible(store: Store, layout: LayoutMaker, which: str) -> None:
    """A digest that does not hold ends the pull, and no blob of that name exists then."""
    entry = layout.image(LAYER)
    manifest = json.loads((layout.path / "blobs/sha256" / entry["digest"][7:]).read_bytes())
    victim = {"manifest": entry, "config": manifest["config"]}.get(which, manifest["layers"][0])["digest"]
    path = layout.path / "blobs/sha256" / victim[7:]
    if which == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif which == "long":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        corrupt(layout, victim)
    with pytest.raises(DigestMismatch):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)
    assert victim[7:] not in blobs(store)
    assert leftovers(store) == []
    assert store.images() == []


def test_wrong_diff_id(store: Store, layout: LayoutMaker) -> None:
    """A layer that unpacks to something else is found out at the pull already."""
    layout.image(LAYER, diff_ids=["sha256:" + "0" * 64])
    with pytest.raises(DigestMismatch):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)
    assert store.images() == []


def test_layer_that_is_no_archive(store: Store, layout: LayoutMaker) -> None:
    """Found at the pull as well."""
    layout.image(b"noise" * 300)
    with pytest.raises(LayerInvalid):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)


@pytest.mark.parametrize("name", ["", ":v9"])
def test_absent_layouts_and_tags(store: Store, layout: LayoutMaker, name: str) -> None:
    """A missing directory, a missing tag: not found."""
    layout.image(LAYER)
    path = layout.path if name else "/nonexistent"
    with pytest.raises(ImageNotFound):
        pull(f"oci:{path}{name}", store=store, platform=AMD64)


def test_several_images_and_no_tag(store: Store, layout: LayoutMaker) -> None:
    """The error names the tags."""
    layout.image(LAYER, tag="a")
    layout.image(tar([file("b")]), tag="b")
    with pytest.raises(ImageNotFound, match="a, b"):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'),
        ("oci-layout", b"no JSON"),
        ("index.json", b"{}"),
        ("index.json", b"[]"),
        ("index.json", b" " * (5 << 20)),
    ],
)
def test_damaged_layouts(store: Store, layout: LayoutMaker, name: str, content: bytes) -> None:
    """Each file of a layout is checked."""
    layout.image(LAYER)
    (layout.path / name).write_bytes(content)
    with pytest.raises((ManifestInvalid, ImageNotFound)):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)


def test_a_fifo_in_a_layout_does_not_block(store: Store, layout: LayoutMaker) -> None:
    """A foreign directory may hold anything."""
    layout.image(LAYER)
    (layout.path / "index.json").unlink()
    os.mkfifo(layout.path / "index.json")
    with pytest.raises(ManifestInvalid):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)


def test_indexes_that_name_themselves_end(store: Store, layout: LayoutMaker) -> None:
    """Nesting is bounded."""
    entry = layout.image(LAYER)
    for _ in range(5):
        entry = layout.index(entry)
    with pytest.raises(ManifestInvalid, match="nested"):
        pull(f"oci:{layout.path}", store=store, platform=AMD64)


def test_full_disk(store: Store, layout: LayoutMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error, and nothing is left. The kernel's own ENOSPC: tests/integration/images."""
    layout.image(LAYER)

    def full(_fd: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StoreFull):
            pull(f"oci:{layout.path}", store=store, platform=AMD64)
    assert (blobs(store), leftovers(store)) == (set(), [])
    assert pull(f"oci:{layout.path}", store=store, platform=AMD64) == store.images()[0]


def test_damaged_archive(store: Store, tmp_path: Path) -> None:
    """No tar, an empty tar, a tar cut short."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as empty:
        empty.addfile(tarfile.TarInfo("oci-layout"))
    for number, content in enumerate((b"", b"x" * 600, whole.getvalue()[:100])):
        path = tmp_path / str(number)
        path.write_bytes(content)
        with pytest.raises(ManifestInvalid):
            pull(f"oci-archive:{path}", store=store, platform=AMD64)
