"""The same image unpacked by umoci: the trees are equal. And trees of several owners, made as root."""

import os
import stat
import sys
import tarfile
from pathlib import Path

import pytest

from locald.images import Owners, Store, pull, remove_tree, unpack
from tests.fixtures import make_image
from tests.fixtures.process import run
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import Member, directory, file, hard_link, member, symlink, tar

SOURCES = str(Path(__file__).parents[3])
UMOCI_LIMIT_S = 300

Described = tuple[str, int, int, int, str, tuple[int, ...]]


def describe(root: Path, *, owners: bool = False) -> dict[str, Described]:
    """Return path -> kind, mode, size, mtime, link target, owners for everything below `root`, and itself."""
    described: dict[str, Described] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        is_file = stat.S_ISREG(status.st_mode)
        described[str(path.relative_to(root))] = (
            stat.filemode(status.st_mode),
            status.st_nlink if is_file else 0,
            status.st_size if is_file else 0,
            status.st_mtime_ns,
            os.readlink(path) if path.is_symlink() else "",
            (status.st_uid, status.st_gid) if owners else (),
        )
    return described


def umoci(layout: Path, bundle: Path, *, rootless: bool = True) -> Path:
    """Unpack by umoci and return the root filesystem."""
    options = ["--rootless"] if rootless else []
    run(["umoci", "unpack", *options, "--image", f"{layout}:latest", str(bundle)], limit_s=UMOCI_LIMIT_S)
    return bundle / "rootfs"


EVERYTHING: list[list[Member]] = [
    [
        directory("./", 0o755),
        directory("usr"),
        directory("usr/lib", 0o755),
        symlink("lib", "usr/lib"),
        directory("ro", 0o555, mtime=1_500_000_000),
        file("ro/a", b"1", 0o444),
        file("setuid", b"s", 0o4755),
        file("big", bytes(2_000_000), pax_headers={"mtime": "1600000000.987654321"}),
        hard_link("same", "big"),
        member("fifo", tarfile.FIFOTYPE, mode=0o622),
        directory("tmp", 0o1777),
        directory("gone"),
        file("gone/x"),
        directory("opaque", 0o700),
        file("opaque/old"),
        directory("opaque/dir"),
        symlink("absolute", "/usr/lib"),
        symlink("to-file", "setuid"),
        file("caf\udce9", b"latin1"),
        file("was-file"),
        directory("was-dir"),
        file("was-dir/x"),
    ],
    [
        file("lib/added", b"2", mtime=1_400_000_000),
        directory("usr", 0o751, mtime=1_300_000_000),
        file(".wh.gone"),
        directory("opaque", 0o750),
        file("opaque/.wh..wh..opq"),
        file("opaque/new", b"3"),
        file("to-file", b"no link any more"),
        directory("was-file"),
        file("was-dir", b"4"),
        hard_link("ro/linked", "big"),
        file("d" * 120 + "/" + "n" * 200, b"long"),
    ],
]


@pytest.mark.root
def test_every_kind_of_entry(tmp_path: Path, store: Store) -> None:
    """All that layers may hold, over two of them."""
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(*(tar(members) for members in EVERYTHING))
    image = pull(f"oci:{layout.path}", store=store)
    unpack(image, store, tmp_path / "ours", owners=Owners.squashed())
    ours, theirs = describe(tmp_path / "ours"), describe(umoci(layout.path, tmp_path / "bundle"))
    # A directory that no layer describes has no time of its own, theirs is the present; and umoci does not
    # set the root's time again after a layer that only puts entries into it.
    for path in ("d" * 120, "."):
        assert ours.pop(path)[0] == theirs.pop(path)[0]
    assert ours == theirs


@pytest.mark.root
@pytest.mark.parametrize("name", ["busybox", "owners", "debian"])
def test_real_images(tmp_path: Path, store: Store, name: str) -> None:
    """The images of tests/fixtures, as squashed and with all owners."""
    layout = make_image(name)
    image = pull(f"oci:{layout}:latest", store=store)
    unpack(image, store, tmp_path / "ours", owners=Owners.squashed())
    ours, theirs = describe(tmp_path / "ours"), describe(umoci(layout, tmp_path / "bundle"))
    _forget_implied_times(ours, theirs)
    assert ours == theirs
    remove_tree(tmp_path / "ours")
    # As root, 0 is 0 and every other id is itself: what a namespace that maps all ids would show.
    blobs = [f"{layer.diff_id}@{store.blob_path(layer.blob.digest)}" for layer in image.layers]
    run_unpacker("layers", str(tmp_path / "mapped"), "mapped-0-0", *blobs)
    mapped = describe(tmp_path / "mapped", owners=True)
    theirs = describe(umoci(layout, tmp_path / "root-bundle", rootless=False), owners=True)
    _forget_implied_times(mapped, theirs)
    assert mapped == theirs
    run_unpacker("copy", str(tmp_path / "mapped"), str(tmp_path / "copy"))
    copied = describe(tmp_path / "copy", owners=True)
    _forget_implied_times(copied, theirs)
    assert copied == theirs


def _forget_implied_times(ours: dict[str, Described], theirs: dict[str, Described]) -> None:
    for path, data in ours.items():
        if data[0].startswith("d") and data[3] == 0 and path in theirs:
            theirs[path] = (*theirs[path][:3], 0, *theirs[path][4:])


def run_unpacker(*arguments: str) -> None:
    """Run the program as a container of ours would."""
    command = [sys.executable, "-P", "-m", "locald.images.unpack", *arguments]
    run(command, limit_s=UMOCI_LIMIT_S, env={"PYTHONPATH": SOURCES})
