"""Who owns what on disk: as root, as an ordinary user, and as root of that user's own namespace."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locald.errors.images import TreeForeign
from locald.images import Store, pull
from tests.fixtures import TestUser, ensure_users
from tests.fixtures.process import run
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import directory, file, hard_link, symlink, tar

SOURCES = str(Path(__file__).parents[3])
LIMIT_S = 60


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory that every user reaches, with locald's sources; pytest's own is root's."""
    base = Path("/tmp") / f"locald-images-{os.getpid()}"  # noqa: S108  # made by root, and not for writing by others
    base.mkdir(mode=0o755)
    try:
        shutil.copytree(Path(SOURCES, "locald"), base / "sources/locald")
        yield base
    finally:
        subprocess.run(["rm", "-rf", base], check=True, timeout=30)  # noqa: S607  # not by what is tested


def run_as(user: TestUser, place: Path, *words: str) -> str:
    """Run Python as `user` and return what it prints."""
    # Debian's own: a virtual environment may lie where only root gets to.
    identity = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    environment = {"PYTHONPATH": str(place / "sources"), "HOME": str(user.home)}
    return run([*identity, "/usr/bin/python3", "-c", *words], limit_s=LIMIT_S, env=environment).decode()


def users_directory(user: TestUser, place: Path) -> Path:
    """Make a directory of the user's own."""
    path = place / "user"
    path.mkdir()
    os.chown(path, user.uid, user.gid)
    return path


@pytest.mark.root
def test_the_caller_can_be_any_id(tmp_path: Path, store: Store) -> None:
    """With X = 33 the caller owns 33's files, root's are the first subordinate id's."""
    layout = LayoutMaker(tmp_path / "layout")
    www: dict[str, Any] = {"uid": 33, "gid": 33}
    layout.image(tar([directory("d", **www), file("d/root"), file("d/www", **www), file("z", uid=34)]))
    image = pull(f"oci:{layout.path}", store=store, platform="linux/amd64")
    blobs = [f"{layer.diff_id}@{store.blob_path(layer.blob.digest)}" for layer in image.layers]
    command = [
        sys.executable,
        "-P",
        "-m",
        "locald.images.unpack",
        "layers",
        str(tmp_path / "t"),
        "mapped-33-33",
        *blobs,
    ]
    run(command, limit_s=LIMIT_S, env={"PYTHONPATH": SOURCES})
    statuses = {name: (tmp_path / "t" / name).lstat() for name in (".", "d", "d/root", "d/www", "z")}
    owners = {name: (status.st_uid, status.st_gid) for name, status in statuses.items()}
    assert owners == {".": (1, 1), "d": (0, 0), "d/root": (1, 1), "d/www": (0, 0), "z": (34, 1)}


@pytest.mark.root
def test_an_ordinary_user(place: Path) -> None:
    """Squashed by a user who is not root: sealed files and directories, copies, removal."""
    user, _ = ensure_users()
    layout = LayoutMaker(place / "layout")
    sealed = [
        directory("no", 0),
        file("no/x", b"1", 0o111),
        directory("ro", 0o555),
        file("ro/y", b"2", 0, uid=5),
    ]
    layout.image(tar([*sealed, file("s", b"", 0o6755)]))
    own = users_directory(user, place)
    said = run_as(user, place, ORDINARY, str(own), f"oci:{layout.path}")
    assert said == "d--------- ---x--x--x dr-xr-xr-x ---------- -rwsr-sr-x\nremoved\n"
    assert pwd.getpwuid((own / "store").stat().st_uid).pw_name == user.name


@pytest.mark.root
def test_foreign_files_are_named(place: Path) -> None:
    """What another id owns is not removed, and not taken for a failure of the disk."""
    user, _ = ensure_users()
    foreign = users_directory(user, place) / "foreign"
    (foreign / "sub").mkdir(parents=True)
    (foreign / "sub/file").write_bytes(b"")
    os.chown(foreign, user.uid, user.gid)
    assert run_as(user, place, FOREIGN, str(foreign)) == f"{TreeForeign.code}\n"


@pytest.mark.root
def test_a_tree_of_several_owners(place: Path) -> None:
    """Made, copied and removed as root of a user namespace: subordinate ids on disk, the caller where X says."""
    user, _ = ensure_users()
    layout = LayoutMaker(place / "layout")
    www: dict[str, Any] = {"uid": 33, "gid": 33}
    closed = [directory("d", 0o700, **www), file("d/x", b"1", 0o6711, **www), hard_link("d/y", "d/x")]
    layout.image(tar([*closed, symlink("l", "d", **www), file("nobody", uid=65534, gid=65534), file("root")]))
    lines = run_as(user, place, SEVERAL, str(users_directory(user, place)), f"oci:{layout.path}").splitlines()
    first = int(
        run(["awk", "-F:", f'$1 == "{user.name}" {{ print $2; exit }}', "/etc/subuid"], limit_s=LIMIT_S)
    )
    caller, www_id, nobody = user.uid, first + 32, first + 65533
    assert lines == [
        f"mapped-0-0 root={caller} l={www_id} nobody={nobody} d={www_id} copied nlink=2 mode=6711",
        f"mapped-33-33 root={first} l={caller} nobody={nobody} d={caller} copied nlink=2 mode=6711",
        "removed",
        "image.owner-unmapped",
    ]


ORDINARY = """
import os, stat, sys
from pathlib import Path
from typing import Any
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
from typing import Any
from locald.errors.images import TreeForeign
from locald.images import remove_tree
try:
    remove_tree(Path(sys.argv[1]))
except TreeForeign as error:
    print(error.code)
"""
SEVERAL = """
import os, subprocess, sys
from pathlib import Path
from typing import Any
from locald.errors.images import OwnerUnmapped
from locald.images import Owners, Store, cached_tree, pull
base = Path(sys.argv[1])

def as_root(argv, *, readable, writable):
    namespace = ["unshare", "--user", "--map-root-user", *extra]
    return subprocess.run([*namespace, *argv], stdout=subprocess.PIPE).stdout

def remove_foreign(path):
    subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", path / "rootfs"], check=True)

extra = ["--map-auto"]
store = Store(base / "store", remove_foreign=remove_foreign)
image = pull(sys.argv[2], store=store, platform="linux/amd64")
look = "import os, sys; s = os.stat(sys.argv[1]); print(s.st_nlink, oct(s.st_mode)[-4:])"
for x in (0, 33):
    bundle = base / f"bundle-{x}"
    bundle.mkdir()
    with cached_tree(image, store, owners=Owners.mapped(x, x), as_root=as_root) as tree:
        tree.copy_to(bundle / "rootfs", as_root=as_root)
        for root in (tree.path, bundle / "rootfs"):
            ids = [f"{name}={(root / name).lstat().st_uid}" for name in ("root", "l", "nobody", "d")]
            links, mode = as_root([sys.executable, "-c", look, str(root / "d/x")], readable=[], writable=[]).split()
            if root != tree.path:
                print(tree.owners, *ids, f"copied nlink={int(links)} mode={mode.decode()}")
    remove_foreign(bundle)
store.remove(sys.argv[2])
if os.listdir(store.trees) == [] and os.listdir(store.root / "tmp") == []:
    print("removed")
extra.clear()
image = pull(sys.argv[2], store=store, platform="linux/amd64")
try:
    cached_tree(image, store, owners=Owners.mapped(0, 0), as_root=as_root)
except OwnerUnmapped as error:
    print(error.code)
"""
