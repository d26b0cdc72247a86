"""Trees: the cache, copies, and the program that makes trees of several owners."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from locald.errors.images import DigestMismatch, LayerInvalid, OwnerUnmapped, StoreFull, StoreUnusable
from locald.images import Image, Owners, Store, cached_tree, copying, files, pull, trees, unpack
from locald.images.unpack import main
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import apply, directory, file, hard_link, listing, member, symlink, tar

ONE_OWNER = tar([directory("d", 0o555), file("d/a", b"1", 0o4711), hard_link("b", "d/a"), symlink("l", "b")])


@pytest.fixture
def image(store: Store, layout: LayoutMaker) -> Image:
    """Return a pulled image of one owner."""
    layout.image(ONE_OWNER)
    return pull(f"oci:{layout.path}", store=store, platform="linux/amd64")


def test_a_tree_is_made_once(store: Store, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run finds it; for root as caller, mapped and squashed are the same tree."""
    with cached_tree(image, store, owners=Owners.squashed()) as first:
        assert listing(first.path)["d/a"] == "-4711 1"
    monkeypatch.setattr(trees, "unpack", None)
    with cached_tree(image, store, owners=Owners.mapped(0, 0)) as second:
        assert (second.path, second.owners) == (first.path, Owners.squashed())
    assert os.listdir(store.root / "tmp") == []


def test_a_config_of_its_own_is_no_tree_of_its_own(
    store: Store, layout: LayoutMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of the same layers share what is unpacked, which goes with the last of them."""
    layout.image(ONE_OWNER, tag="a")
    layout.image(ONE_OWNER, tag="b", config={"Env": ["A=1"]})
    one, two = (pull(f"oci:{layout.path}:{tag}", store=store, platform="linux/amd64") for tag in "ab")
    assert one.id != two.id
    with cached_tree(one, store, owners=Owners.squashed()) as first:
        path = first.path
    monkeypatch.setattr(trees, "unpack", None)
    store.remove(one.reference)
    with cached_tree(two, store, owners=Owners.squashed()) as second:
        assert second.path == path
    store.remove(two.reference)
    assert os.listdir(store.trees) == []


def test_a_faster_process_wins(store: Store, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two make the same tree at once: one is kept, the other discarded."""
    real = trees.unpack

    def slow(*arguments: object, **more: object) -> object:
        facts = real(*arguments, **more)  # type: ignore[arg-type]  # handed through
        monkeypatch.setattr(trees, "unpack", real)
        cached_tree(image, store, owners=Owners.squashed()).close()
        return facts

    monkeypatch.setattr(trees, "unpack", slow)
    with cached_tree(image, store, owners=Owners.squashed()) as tree:
        assert (tree.path / "b").exists()
    assert len(os.listdir(store.trees)) == 1
    assert os.listdir(store.root / "tmp") == []


def test_a_broken_layer_leaves_no_tree(store: Store, image: Image) -> None:
    """A blob that rotted on disk is found out, and nothing half stays."""
    path = store.blob_path(image.layers[0].blob.digest)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises((LayerInvalid, DigestMismatch)):
        cached_tree(image, store, owners=Owners.squashed())
    assert (os.listdir(store.trees), os.listdir(store.root / "tmp")) == ([], [])


def test_damaged_meta_is_said(store: Store, image: Image) -> None:
    """Not guessed around."""
    with cached_tree(image, store, owners=Owners.squashed()) as tree:
        (tree.path.parent / "meta.json").write_text("{")
    with pytest.raises(StoreUnusable):
        cached_tree(image, store, owners=Owners.squashed())


class Runner:
    """Stands for a container of ours: runs the program's main here, as it is."""

    def __init__(self, answer: bytes | None = None) -> None:
        """Answer with `answer`, else with what a subprocess of this interpreter would get."""
        self.answer = answer
        self.calls: list[tuple[list[str], list[Path], list[Path]]] = []

    def __call__(self, argv: Sequence[str], *, readable: Sequence[Path], writable: Sequence[Path]) -> bytes:
        """Record the call; make what `layers` would."""
        self.calls.append((list(argv), list(readable), list(writable)))
        if self.answer is None:
            Path(argv[5]).mkdir()
            return b'{"notes": {"device": 1}, "sealed": {}}'
        return self.answer


def test_several_owners_need_root_of_a_namespace(store: Store, layout: LayoutMaker) -> None:
    """The unpacker runs by the hook: it reads the blobs, and writes into the workspace alone."""
    layout.image(tar([file("a", uid=33)]))
    image = pull(f"oci:{layout.path}", store=store, platform="linux/amd64")
    runner = Runner()
    with cached_tree(image, store, owners=Owners.mapped(0, 0), as_root=runner) as tree:
        assert (tree.owners, tree.notes) == (Owners.mapped(0, 0), {"device": 1})
        tree_path = tree.path
    ((argv, readable, writable),) = runner.calls
    assert argv[1:5] == ["-P", "-m", "locald.images.unpack", "layers"]
    assert argv[6] == "mapped-0-0"
    assert argv[7].startswith(f"{image.layers[0].diff_id}@/")
    assert Path(argv[7].partition("@")[2]).is_relative_to(readable[0])
    assert (len(readable), writable) == (1, [Path(argv[5]).parent])
    with cached_tree(image, store, owners=Owners.mapped(0, 0)) as tree:
        tree.copy_to(store.root / "copy", as_root=Runner(b'{"copied": "x"}'))
        assert tree.path == tree_path
    with pytest.raises(TypeError):
        cached_tree(image, store, owners=Owners.mapped(33, 0))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", StoreUnusable),
        (b"[]", StoreUnusable),
        (b'{"error": {"code": "image.owner-unmapped", "message": "m", "hint": "h"}}', OwnerUnmapped),
        (b'{"error": {"code": "store.full", "message": "m", "hint": "h"}}', StoreFull),
        (b'{"error": {"code": "new.code", "message": "m", "hint": "h"}}', StoreUnusable),
    ],
)
def test_errors_come_back_as_they_were(
    store: Store, layout: LayoutMaker, answer: bytes, kind: type[Exception]
) -> None:
    """What the unpacker met there is raised here, by its code."""
    layout.image(tar([file("a", uid=33)]))
    image = pull(f"oci:{layout.path}", store=store, platform="linux/amd64")
    with pytest.raises(kind):
        cached_tree(image, store, owners=Owners.mapped(0, 0), as_root=Runner(answer))
    assert os.listdir(store.root / "tmp") == []


def test_unpack_into_a_directory(store: Store, image: Image, tmp_path: Path) -> None:
    """Without cache, with final modes."""
    unpack(image, store, tmp_path / "root", owners=Owners.squashed())
    assert listing(tmp_path / "root") == {"d": "d0555", "d/a": "-4711 1", "b": "-4711 1", "l": "l b"}


@pytest.mark.parametrize(
    "arguments", [[], ["layers"], ["layers", "t", "mapped-x-0"], ["copy", "a"], ["x", "y", "z"]]
)
def test_program_usage(arguments: list[str]) -> None:
    """A malformed call is told from a failure."""
    assert main(arguments) == 2


def test_program_answers(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """One JSON object: what was noted, or the error."""
    blob = tmp_path / "blob"
    blob.write_bytes(tar([member("dev", b"3")]))
    import hashlib  # noqa: PLC0415

    diff_id = f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"
    assert main(["layers", str(tmp_path / "t"), "squashed", f"{diff_id}@{blob}"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["notes"] == {"device": 1}
    assert main(["layers", str(tmp_path / "u"), "squashed", f"sha256:{'0' * 64}@{blob}"]) == 125
    assert json.loads(capfdbinary.readouterr().out)["error"]["code"] == DigestMismatch.code
    assert not (tmp_path / "u").exists()


def test_a_copy_is_equal(tmp_path: Path) -> None:
    """Modes, times, attributes, hard links; sealed modes get their true value."""
    source = tmp_path / "source"
    layer = tar(
        [
            directory("d", 0o555),
            file(
                "d/a",
                b"x" * 300_000,
                0o6711,
                pax_headers={"SCHILY.xattr.user.k": "v", "mtime": "5.000000007"},
            ),
            hard_link("h", "d/a"),
            symlink("l", "d"),
            member("fifo", b"6", mode=0o600),
            directory("no", 0),
            file("no/x", b"2", 0o111),
        ]
    )
    unpacker = apply(source, layer, readable=True)
    plain = tmp_path / "plain"
    apply(plain, layer)
    copying.copy_tree(source, tmp_path / "copy", sealed=unpacker.sealed)
    copy = tmp_path / "copy"
    assert (copy / "d/a").stat().st_mtime_ns == 5_000_000_007
    assert os.getxattr(copy / "d/a", "user.k") == b"v"
    assert (copy / "d/a").samefile(copy / "h")
    assert not (copy / "d/a").samefile(source / "d/a")
    assert (copy / "l").lstat().st_mtime == (source / "l").lstat().st_mtime
    assert stat.S_IMODE((copy / "no").stat().st_mode) == 0
    for root in (plain, copy):
        (root / "no").chmod(0o700)
        # Who is not root reads only what he may.
        assert stat.S_IMODE((root / "no/x").stat().st_mode) == 0o111
        (root / "no/x").chmod(0o511)
    assert listing(copy) == listing(plain)


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: one clear error, no target."""
    source = tmp_path / "source"
    apply(source, tar([directory("d", 0o555), file("d/a", b"1")]))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying._Copy, "_data", full)
    with pytest.raises(StoreFull):
        copying.copy_tree(source, tmp_path / "copy", sealed={})
    assert not (tmp_path / "copy").exists()
    files.remove_tree(source)


def test_a_copy_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither reflinks nor copy_file_range: sendfile."""
    source = tmp_path / "source"
    apply(source, tar([file("a", b"x" * 100_000), file("b", b"y" * 100_000)]))

    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    copying.copy_tree(source, tmp_path / "copy", sealed={})
    assert listing(tmp_path / "copy") == listing(source)
