"""Several blobs of a pull at once: from a real registry, and when one of them, or a person, ends it."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locald.errors.registry import RegistryDenied
from locald.images import Store, pull
from locald.images.registry import STREAMS
from locald.oci import Digest
from tests.fixtures import Registry
from tests.integration.images.fake_registry import FakeRegistry, Handler
from tests.integration.images.test_crash import SOURCES, check_blobs
from tests.integration.images.test_registry import skopeo
from tests.unit.images.layouts import LayoutMaker
from tests.unit.images.tars import file, tar

LIMIT_S = 20
# Until a pull that was interrupted has ended, with threads that wait for a server and a busy machine.
END_LIMIT_S = 8
PULL = """
import signal, sys
from locald.cli import main
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["locald", "pull", sys.argv[1]]
main()
"""


def make_layout(path: Path, layers: int) -> LayoutMaker:
    """Return a layout with one image; its first two layers are the same."""
    layout = LayoutMaker(path)
    contents = [tar([file(f"f{number}", bytes([number]) * 300_000, uid=number)]) for number in range(layers)]
    layout.image(contents[0], *contents)
    return layout


class Recorder:
    """Records what a pull tells, and whether two threads ever tell at once."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.begun: list[tuple[Digest, int]] = []
        self.done: dict[Digest, int] = {}
        self.ended: list[Digest] = []
        self._telling = threading.Lock()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._telling.acquire(blocking=False), "told by two threads at once"
        try:
            # Long enough for another thread to come.
            time.sleep(0.001)
            yield
        finally:
            self._telling.release()

    def begin(self, digest: Digest, size_bytes: int) -> None:
        """Record."""
        with self._alone():
            self.begun.append((digest, size_bytes))

    def advance(self, digest: Digest, done_bytes: int) -> None:
        """Record."""
        with self._alone():
            assert digest in dict(self.begun)
            self.done[digest] = done_bytes

    def end(self, digest: Digest, *, cached: bool) -> None:
        """Record."""
        with self._alone():
            assert not cached
            self.ended.append(digest)


def test_a_real_registry(registry: Registry, store: Store, tmp_path: Path) -> None:
    """Twelve layers, one of them twice: each is fetched once, told in order, and the image is whole."""
    layout = make_layout(tmp_path / "layout", 12)
    reference = f"{registry.address}/library/twelve:latest"
    skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout.path}:latest", f"docker://{reference}")
    recorder = Recorder()
    image = pull(reference, store=store, progress=recorder)
    assert len(image.layers) == 13
    assert image.owner_uids == tuple(range(12))
    assert check_blobs(store.root) == 12 + 2
    blobs = {layer.blob.digest: layer.blob.size_bytes for layer in image.layers}
    assert recorder.begun[0][0] == image.id
    assert dict(recorder.begun[1:]) == blobs
    assert len(recorder.begun) == len(recorder.ended) == len(set(recorder.ended)) == 13
    assert {digest: recorder.done[digest] for digest in blobs} == blobs


def test_so_many_at_once(store: Store, tmp_path: Path) -> None:
    """Four connections, no more: a registry counts them."""
    layout = make_layout(tmp_path / "layout", 10)
    open_now: list[int] = []
    most: list[int] = []
    full = threading.Event()

    def hold(handler: Handler, body: bytes) -> None:
        open_now.append(1)
        most.append(len(open_now))
        if len(open_now) == STREAMS:
            full.set()
        # The first few wait for each other; a fifth would be seen.
        full.wait(LIMIT_S)
        time.sleep(0.05)
        open_now.pop()
        handler.answer(200, body)

    with FakeRegistry(layout.path) as fake:
        fake.faults["blobs"].append(lambda handler, body: handler.answer(200, body))  # the config
        fake.always["blobs"] = hold
        pull(f"{fake.address}/app", store=store)
    assert max(most) == STREAMS


@contextlib.contextmanager
def stalling(path: Path) -> Iterator[tuple[FakeRegistry, threading.Semaphore, threading.Event]]:
    """Run a registry that sends half of each layer and waits: told by the semaphore, ended by the event."""
    stalled, release = threading.Semaphore(0), threading.Event()

    def stall(handler: Handler, body: bytes) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        stalled.release()
        release.wait(LIMIT_S)
        with contextlib.suppress(OSError):
            handler.wfile.write(body[len(body) // 2 :])

    with FakeRegistry(make_layout(path, 6).path) as fake:
        fake.faults["blobs"].append(lambda handler, body: handler.answer(200, body))  # the config
        fake.always["blobs"] = stall
        try:
            yield fake, stalled, release
        finally:
            release.set()


def test_one_that_fails_ends_the_others(store: Store, tmp_path: Path) -> None:
    """One error, that one's, without waiting for those that stall; nothing of them is kept."""
    with stalling(tmp_path / "layout") as (fake, stalled, release):

        def deny(handler: Handler, _body: bytes) -> None:
            for _ in range(STREAMS - 1):
                stalled.acquire(timeout=LIMIT_S)
            handler.answer(403, b"")

        fake.faults["blobs"].append(deny)
        begin = time.monotonic()
        with pytest.raises(RegistryDenied):
            pull(f"{fake.address}/app", store=store)
        assert time.monotonic() - begin < END_LIMIT_S
        asked = len(fake.paths("blobs"))
        release.set()
        deadline = time.monotonic() + LIMIT_S
        while list((store.root / "tmp").iterdir()):
            assert time.monotonic() < deadline, "a thread that was left behind keeps its workspace"
            time.sleep(0.02)
        assert len(fake.paths("blobs")) == asked == 1 + STREAMS
    assert check_blobs(store.root) == 2
    assert store.images() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends a pull whose connections stall, with its status and no traceback; the next start tidies."""
    environment = {"PYTHONPATH": SOURCES, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    with stalling(tmp_path / "layout") as (fake, stalled, _):
        process = subprocess.Popen(
            [sys.executable, "-c", PULL, f"{fake.address}/app"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(STREAMS):
                assert stalled.acquire(timeout=LIMIT_S)
            begin = time.monotonic()
            process.send_signal(number)
            said, _ = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
            process.wait()
        assert time.monotonic() - begin < END_LIMIT_S
    # click ends the line that shows ^C.
    assert (process.returncode, said.strip()) == (128 + number, b"")
    store = Store(tmp_path / "data/locald/store")
    store.clean()
    assert list((store.root / "tmp").iterdir()) == []
    assert check_blobs(store.root) == 2
