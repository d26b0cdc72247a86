"""The same image unpacked by umoci: the trees are equal. And trees of several owners, made as root."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from locald.errors import TreeForeign
from locald.images import Owners, Store, pull, remove_tree, unpack
from tests.fixtures import TestUser, ensure_users, make_image
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


@pytest.mark.root
def test_the_caller_can_be_any_id(tmp_path: Path, store: Store) -> None:
    """With X = 33 the caller owns 33's files, root's are the first subordinate id's."""
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(
        tar(
            [directory("d", uid=33, gid=33), file("d/root"), file("d/www", uid=33, gid=33), file("z", uid=34)]
        )
    )
    image = pull(f"oci:{layout.path}", store=store, platform="linux/amd64")
    blobs = [f"{layer.diff_id}@{store.blob_path(layer.blob.digest)}" for layer in image.layers]
    run_unpacker("layers", str(tmp_path / "t"), "mapped-33-33", *blobs)
    owners = {path: data[5] for path, data in describe(tmp_path / "t", owners=True).items()}
    assert owners == {".": (1, 1), "d": (0, 0), "d/root": (1, 1), "d/www": (0, 0), "z": (34, 1)}


def as_user(user: TestUser) -> list[str]:
    """Return what starts a program of Python's as `user`."""
    # Debian's own: a virtual environment may lie where only root gets to.
    return [
        "setpriv",
        f"--reuid={user.uid}",
        f"--regid={user.gid}",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
    ]


@pytest.mark.root
def test_an_ordinary_user() -> None:
    """Squashed by a user who is not root: sealed files and directories, copies, removal; foreign files are named."""
    user, _ = ensure_users()
    base = Path("/tmp") / f"locald-images-{os.getpid()}"  # noqa: S108  # pytest's own is not open to other users
    base.mkdir(mode=0o755)
    try:
        shutil.copytree(Path(SOURCES, "locald"), base / "sources/locald")
        environment = {"PYTHONPATH": str(base / "sources"), "HOME": str(user.home)}
        layout = LayoutMaker(base / "layout")
        sealed = [
            directory("no", 0),
            file("no/x", b"1", 0o111),
            directory("ro", 0o555),
            file("ro/y", b"2", 0, uid=5),
        ]
        layout.image(tar([*sealed, file("s", b"", 0o6755)]))
        (base / "user").mkdir()
        os.chown(base / "user", user.uid, user.gid)
        words = [ORDINARY, str(base / "user"), f"oci:{layout.path}"]
        output = run(
            [*as_user(user), *words], limit_s=60, env=environment
        )
        assert output.decode() == "d--------- ---x--x--x dr-xr-xr-x ---------- -rwsr-sr-x\nremoved\n"
        assert pwd.getpwuid((base / "user/store").stat().st_uid).pw_name == user.name
        (base / "user/foreign/sub").mkdir(parents=True)
        (base / "user/foreign/sub/file").write_bytes(b"")
        os.chown(base / "user/foreign", user.uid, user.gid)
        words = [FOREIGN, str(base / "user/foreign")]
        refused = run([*as_user(user), *words], limit_s=60, env=environment)
        assert refused.decode() == f"{TreeForeign.code}\n"
    finally:
        subprocess.run(["rm", "-rf", base], check=True, timeout=30)  # noqa: S603, S607  # not by what is tested


ORDINARY = """
import os, stat, sys
from pathlib import Path
from locald.images import Owners, Store, cached_tree, pull, remove_tree
base = Path(sys.argv[1])
store = Store(base / "store")
image = pull(sys.argv[2], store=store)
copy = base / "copy"
with cached_tree(image, store, owners=Owners.squashed()) as tree:
    tree.copy_to(copy)
mode = lambda path: stat.filemode((copy / path).lstat().st_mode)
outer = [mode(path) for path in ("no", "ro", "ro/y", "s")]
(copy / "no").chmod(0o700)
print(outer[0], mode("no/x"), *outer[1:])
remove_tree(copy)
store.remove(sys.argv[2])
if os.listdir(base) == ["store"] and os.listdir(store.trees) == []:
    print("removed")
"""
FOREIGN = """
import sys
from pathlib import Path
from locald.errors import TreeForeign
from locald.images import remove_tree
try:
    remove_tree(Path(sys.argv[1]))
except TreeForeign as error:
    print(error.code)
"""
