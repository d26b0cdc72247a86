"""Pulls that are killed, run at once, or meet a full disk: a wrong blob is never visible, nothing stays."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from locald.images import Owners, Store, cached_tree, pull
from tests.fixtures.process import run
from tests.integration.images.fake_registry import FakeRegistry, Handler
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import directory, file, tar

SOURCES = str(Path(__file__).parents[3])
PULL_LIMIT_S = 60
KILLS = 40
STALL_S = 3
PULL = """
import sys
from pathlib import Path
from locald.images import Owners, Store, cached_tree, pull
store = Store(Path(sys.argv[1]))
image = pull(sys.argv[2], store=store, platform="linux/amd64")
cached_tree(image, store, owners=Owners.squashed()).close()
"""


def start(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start Python with our sources and nothing else of this process's environment."""
    return subprocess.Popen(  # our own interpreter
        [sys.executable, *arguments],
        env={"PYTHONPATH": SOURCES, "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def check_blobs(root: Path) -> int:
    """Every visible blob is what its name says; return how many there are."""
    count = 0
    for path in (root / "blobs/sha256").glob("*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        count += 1
    return count


def check_trees(root: Path) -> None:
    """Every visible tree is whole."""
    for path in (root / "trees").glob("*"):
        json.loads((path / "meta.json").read_bytes())
        assert len(list((path / "rootfs").rglob("*"))) == 401


def make_layers() -> list[bytes]:
    """Return layers that take some time: 20 MB that do not compress, and 400 files."""
    numbers = random.Random(1)  # noqa: S311  # the same bytes each time
    data = [file(f"d/{number}", numbers.randbytes(50_000)) for number in range(400)]
    return [tar([directory("d"), *data[:200]]), tar(data[200:])]


def test_killed_at_any_instant(tmp_path: Path) -> None:
    """SIGKILL all along a pull and an unpacking: what is visible is right, and the next start cleans up."""
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(*make_layers())
    root, name = tmp_path / "store", f"oci:{layout.path}"
    begin = time.monotonic()
    with start(["-c", PULL, str(tmp_path / "measure"), name]) as process:
        assert process.wait(PULL_LIMIT_S) == 0
    whole_s = time.monotonic() - begin
    seen: set[tuple[int, int]] = set()
    killed = 0
    for number in range(KILLS):
        with start(["-c", PULL, str(root), name]) as process:
            time.sleep(whole_s * (0.1 + 0.9 * number / KILLS))
            process.send_signal(signal.SIGKILL)
            if process.wait(PULL_LIMIT_S) == -signal.SIGKILL:
                killed += 1
            else:
                # The machine had more to do while this was measured.
                whole_s *= 0.8
        check_trees(root)
        seen.add((check_blobs(root), len(list((root / "tmp").glob("*")))))
        # Half of the rounds start from nothing, half from what the last one reached.
        if number % 2:
            subprocess.run(["rm", "-rf", root], check=True, timeout=30)  # noqa: S607  # ours, not locald's
    assert killed > KILLS // 2
    assert len(seen) > 2, "the kills all fell into the same instant"
    store = Store(root)
    image = pull(name, store=store, platform="linux/amd64")
    cached_tree(image, store, owners=Owners.squashed()).close()
    assert os.listdir(root / "tmp") == []
    assert check_blobs(root) == 4
    check_trees(root)


def test_many_pulls_at_once(tmp_path: Path) -> None:
    """Eight processes, one store, two images that share a layer: all succeed, all is right."""
    shared, *rest = make_layers()
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(shared, *rest, tag="a")
    layout.image(shared, *rest, tar([directory("d")]), tag="b")
    root = tmp_path / "store"
    processes = [start(["-c", PULL, str(root), f"oci:{layout.path}:{tag}"]) for tag in "ab" * 4]
    for process in processes:
        output, _ = process.communicate(timeout=PULL_LIMIT_S)
        assert (process.returncode, output) == (0, b"")
    assert check_blobs(root) == 7
    check_trees(root)
    assert len(list((root / "trees").iterdir())) == 2
    assert len(Store(root).images()) == 2
    assert os.listdir(root / "tmp") == []


def test_pulls_and_removals_at_once(tmp_path: Path) -> None:
    """Removing all the time while others pull: each pull ends with a whole image, or a clear error."""
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(*make_layers())
    root, name = tmp_path / "store", f"oci:{layout.path}"
    processes = [start(["-c", PULL, str(root), name]) for _ in range(4)]
    store = Store(root)
    while any(process.poll() is None for process in processes):
        if store.get(name) is not None:
            store.remove(name)
        time.sleep(0.01)
    for process in processes:
        output, _ = process.communicate(timeout=PULL_LIMIT_S)
        assert process.returncode == 0 or b"StoreUnusable" in output, output.decode()
    store.gc()
    check_blobs(root)
    check_trees(root)
    assert os.listdir(root / "tmp") == []


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from locald.errors.images import StoreFull
from locald.images import Owners, Store, cached_tree, pull
place, name, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
store = Store(place / "store")
try:
    image = pull(name, store=store, platform="linux/amd64")
except StoreFull:
    print("pull full", os.listdir(store.root / "tmp"), len(store.images()))
else:
    try:
        cached_tree(image, store, owners=Owners.squashed()).close()
    except StoreFull:
        print("tree full", os.listdir(store.root / "tmp"), os.listdir(store.trees))
        store.remove(name)
        print("removed", os.listdir(store.root / "blobs/sha256"))
    else:
        print("room enough")
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("8m", "pull full [] 0\n"),
        ("28m", "tree full [] []\nremoved []\n"),
        ("80m", "room enough\n"),
    ],
)
def test_full_disk(tmp_path: Path, size: str, expected: str) -> None:
    """The kernel's own ENOSPC, on a tiny tmpfs in a private mount namespace: one error, nothing left."""
    layout = LayoutMaker(tmp_path / "layout")
    layout.image(*make_layers())
    (tmp_path / "place").mkdir()
    script = [sys.executable, "-c", FULL_DISK, str(tmp_path / "place"), f"oci:{layout.path}", size]
    output = run(["unshare", "--mount", *script], limit_s=PULL_LIMIT_S, env={"PYTHONPATH": SOURCES})
    assert output.decode() == expected


def test_killed_during_a_download(fake: FakeRegistry, tmp_path: Path) -> None:
    """A pull from a registry that is killed half-way leaves a temporary file until the next start only."""

    def stall(handler: Handler, body: bytes) -> None:
        handler.answer(200, body[: len(body) // 2], length=len(body))
        time.sleep(STALL_S)

    fake.faults["blobs"].extend([lambda handler, body: handler.answer(200, body), stall])
    root = tmp_path / "store"
    process = start(["-c", PULL, str(root), f"{fake.address}/app"])
    deadline = time.monotonic() + PULL_LIMIT_S
    while not any(path.stat().st_size > 100_000 for path in (root / "tmp").glob("*/blob")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=PULL_LIMIT_S)
    assert os.listdir(root / "tmp") != []
    pull(f"{fake.address}/app", store=Store(root), platform="linux/amd64")
    assert os.listdir(root / "tmp") == []
    assert check_blobs(root) == 3
