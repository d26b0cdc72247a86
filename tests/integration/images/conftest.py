"""Registries for these tests, all on loopback, with images of tests/fixtures.

`registry` is Debian's docker-registry as tests/fixtures starts it; `private_registry` is the same program with
htpasswd in front; `fake` is ours, and misbehaves as told.
Needs: docker-registry, skopeo, umoci, htpasswd (apache2-utils), openssl, busybox-static; root where marked so.
"""

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locald.images import Store
from locald.images import registry as client
from tests.fixtures import Registry, make_image, running_registry
from tests.fixtures.process import run
from tests.fixtures.registry import find_free_port, push_image
from tests.integration.images.fake_registry import FakeRegistry

ACCOUNT = "reader:pass:word"
PRIVATE_START_LIMIT_S = 20


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """Return a real registry that holds library/busybox and library/owners."""
    with running_registry() as running:
        for name in ("busybox", "owners"):
            push_image(name, running.address)
        yield running


@pytest.fixture(scope="session")
def private_registry(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a registry that gives the same images to ACCOUNT only."""
    base = tmp_path_factory.mktemp("private")
    (base / "htpasswd").write_bytes(run(["htpasswd", "-Bbn", *ACCOUNT.split(":", 1)], limit_s=30))
    port = find_free_port()
    (base / "config.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: '{registry.storage}'}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        f"auth: {{htpasswd: {{realm: locald-tests, path: '{base}/htpasswd'}}}}\n"
    )
    log = base / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(  # a constant argv
            ["/usr/bin/docker-registry", "serve", str(base / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        _wait_for(port, process, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PRIVATE_START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text()) from None
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """Return a registry that misbehaves as told; retries come at once."""
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    monkeypatch.setattr(client, "RETRY_AFTER_LIMIT_S", 0.05)
    with FakeRegistry(make_image("busybox")) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store that does not exist yet."""
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the credentials and proxies of whoever runs the tests."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


def log_in(home: Path, registry: str, account: str = ACCOUNT, **more: str) -> None:
    """Write what `docker login` would."""
    entry = {"auth": base64.b64encode(account.encode()).decode(), **more}
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker/config.json").write_text(json.dumps({"auths": {registry: entry}}))
