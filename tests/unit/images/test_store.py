"""The store: references, garbage collection, locks, and what killed processes leave."""

import json
import os
from pathlib import Path

import pytest

from locald.errors.images import ImageNotFound, StoreUnusable, TreeForeign
from locald.images import Owners, Store, cached_tree, files, pull
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import directory, file, tar

AMD64 = "linux/amd64"
SHARED = tar([file("shared", b"s" * 100)])


def names(path: Path) -> set[str]:
    """Return what is in a directory."""
    return set(os.listdir(path))


def test_an_absent_store_is_empty(store: Store) -> None:
    """Reading makes nothing."""
    assert (store.images(), store.get("busybox")) == ([], None)
    assert not store.root.exists()
    with pytest.raises(ImageNotFound):
        store.remove("busybox")


def test_removal_keeps_what_others_need(store: Store, layout: LayoutMaker) -> None:
    """A shared layer goes with the last image that has it."""
    layout.image(SHARED, tar([file("a")]), tag="a")
    layout.image(SHARED, tar([file("b")]), tag="b")
    one, two = (pull(f"oci:{layout.path}:{tag}", store=store, platform=AMD64) for tag in "ab")
    removed = store.remove(one.reference)
    assert removed.references == (one.reference,)
    assert removed.freed_bytes > 0
    assert not removed.postponed
    assert store.images() == [two]
    assert names(store.root / "blobs/sha256") == {
        two.id.hex,
        two.manifest_digest.hex,
        *(layer.blob.digest.hex for layer in two.layers),
    }
    store.remove(two.reference)
    assert names(store.root / "blobs/sha256") == set()


def test_an_index_of_an_older_locald_is_read(store: Store, layout: LayoutMaker) -> None:
    """Its records name no chain id: the images are there all the same, and what is unpacked of them stays."""
    layout.image(SHARED, tar([file("a")]))
    image = pull(f"oci:{layout.path}", store=store, platform=AMD64)
    index = json.loads((store.root / "index.json").read_bytes())
    assert index["images"][image.reference].pop("chain") == str(image.chain)
    (store.root / "index.json").write_text(json.dumps(index))
    assert store.images() == [image]
    cached_tree(image, store, owners=Owners.squashed()).close()
    store.gc()
    assert names(store.trees) == {f"{image.chain.hex}-squashed"}


def test_a_tree_in_use_stays(store: Store, layout: LayoutMaker) -> None:
    """Removal under a running container takes the reference, not the tree; the next collection does."""
    layout.image(SHARED)
    image = pull(f"oci:{layout.path}", store=store, platform=AMD64)
    with cached_tree(image, store, owners=Owners.squashed()) as tree:
        assert store.remove(image.reference).trees_in_use == 1
        assert (tree.path / "shared").exists()
    assert store.gc().trees_in_use == 0
    assert names(store.trees) == set()


def test_a_pull_postpones_collection(store: Store, layout: LayoutMaker) -> None:
    """Blobs that have no reference yet are not garbage."""
    layout.image(SHARED)
    image = pull(f"oci:{layout.path}", store=store, platform=AMD64)
    with store.sharing():
        assert store.remove(image.reference).postponed
        assert names(store.root / "blobs/sha256") != set()
    assert not store.gc().postponed
    assert names(store.root / "blobs/sha256") == set()


def test_what_a_dead_process_left_is_removed(store: Store) -> None:
    """An unlocked workspace is a dead one's; a locked one is somebody's."""
    with store.workspace() as work:
        (work / "file").write_bytes(b"x")
        dead = store.root / "tmp/dead"
        dead.mkdir()
        (dead / "sub").mkdir(mode=0o000)
        store.clean()
        assert not dead.exists()
        assert (work / "file").exists()
    assert names(store.root / "tmp") == set()


def test_foreign_trees_are_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the caller may not remove, the hook gets the directory that holds `rootfs`."""
    handed: list[Path] = []
    real = files.remove_tree

    def remove(path: Path) -> None:
        if not handed:
            raise TreeForeign(str(path))
        real(path)

    monkeypatch.setattr(files, "remove_tree", remove)
    store = Store(tmp_path / "store", remove_foreign=handed.append)
    with store.workspace() as work:
        (work / "key/rootfs").mkdir(parents=True)
    assert handed == [work / "key"]
    assert not work.exists()


def test_foreign_trees_without_hook_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that cannot remove them goes on; removing an image says so."""
    store.clean()
    (store.root / "tmp/dead/key/rootfs").mkdir(parents=True)

    def remove(path: Path) -> None:
        raise TreeForeign(str(path))

    monkeypatch.setattr(files, "remove_tree", remove)
    store.clean()
    assert (store.root / "tmp/dead").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 99}',
        b'{"version": 1, "images": {"a": {}}}',
        b'{"version": 1, "images": {"a": 1}}',
    ],
)
def test_damaged_index(store: Store, content: bytes) -> None:
    """Said, not guessed around."""
    store.clean()
    (store.root / "index.json").write_bytes(content)
    with pytest.raises(StoreUnusable):
        store.images()
    with pytest.raises(StoreUnusable):
        store.gc()


def test_an_image_whose_config_is_gone_is_absent(store: Store, layout: LayoutMaker) -> None:
    """So that a pull mends it."""
    layout.image(SHARED)
    image = pull(f"oci:{layout.path}", store=store, platform=AMD64)
    store.blob_path(image.id).unlink()
    assert (store.get(image.reference), store.images()) == (None, [])
    pull(f"oci:{layout.path}", store=store, platform=AMD64)
    assert store.get(image.reference) is not None


def test_a_missing_layer_is_named(store: Store, layout: LayoutMaker) -> None:
    """An image whose layer was removed by hand says what to do."""
    layout.image(SHARED)
    image = pull(f"oci:{layout.path}", store=store, platform=AMD64)
    store.blob_path(image.layers[0].blob.digest).unlink()
    with pytest.raises(StoreUnusable, match="missing"):
        cached_tree(image, store, owners=Owners.squashed())


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    """One clear error."""
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(StoreUnusable):
        Store(tmp_path / "store").clean()
    with pytest.raises(StoreUnusable):
        Store(tmp_path / "store").images()


def test_index_is_replaced_not_rewritten(store: Store, layout: LayoutMaker) -> None:
    """A reader that opened the old index keeps the whole old index."""
    layout.image(SHARED)
    pull(f"oci:{layout.path}", store=store, platform=AMD64)
    with open(store.root / "index.json", "rb") as old:
        layout.image(tar([directory("x")]), tag="other")
        pull(f"oci:{layout.path}:other", store=store, platform=AMD64)
        assert len(json.load(old)["images"]) == 1
    assert len(store.images()) == 2


def test_remove_tree_of_any_mode_and_depth(tmp_path: Path) -> None:
    """0000 and 0555 directories, and nesting beyond any number of descriptors."""
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
        fd = deeper
    os.close(fd)
    for mode in (0o000, 0o555, 0o300):
        (root / f"m{mode}").mkdir()
        (root / f"m{mode}/sub").mkdir()
        (root / f"m{mode}/sub/file").write_bytes(b"")
        (root / f"m{mode}/sub").chmod(mode)
        (root / f"m{mode}").chmod(mode)
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "canary").write_bytes(b"")
    try:
        files.remove_tree(root)
        assert names(tmp_path) == {"canary"}
    finally:
        bury(root)


def bury(top: Path) -> None:
    """Remove what a failed test left of a deep tree, level by level: pytest's own clean-up calls itself too often."""
    if not top.exists():
        return
    grave = top.with_name("grave")
    grave.mkdir()
    top.rename(grave / "0")
    count = 1
    while waiting := os.listdir(grave):
        for name in waiting:
            for entry in os.scandir(grave / name):
                if entry.is_dir(follow_symlinks=False):
                    # Its owner must be able to write to a directory that gets another parent.
                    os.chmod(entry.path, 0o700)
                    os.rename(entry.path, grave / str(count))
                    count += 1
                else:
                    os.unlink(entry.path)
            os.rmdir(grave / name)
    grave.rmdir()


def test_remove_tree_of_nothing(tmp_path: Path) -> None:
    """Nothing to remove is said; a link is not followed."""
    with pytest.raises(FileNotFoundError):
        files.remove_tree(tmp_path / "absent")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(NotADirectoryError):
        files.remove_tree(tmp_path / "link")
