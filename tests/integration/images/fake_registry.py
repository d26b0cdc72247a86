"""A registry on loopback that misbehaves on demand: what no real one does when a test needs it."""

import base64
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

# Answers one request instead of the registry; gets the body that would have been right.
Fault = Callable[["Handler", bytes], None]


class FakeRegistry:
    """Serves one OCI layout as `app:latest`, with a queue of faults for each kind of request."""

    def __init__(self, layout: Path) -> None:
        """Listen on a free port; serve from `__enter__` on."""
        index = json.loads((layout / "index.json").read_bytes())
        self.top: dict[str, Any] = index["manifests"][0]
        self.blobs = {
            f"sha256:{path.name}": path.read_bytes() for path in (layout / "blobs/sha256").iterdir()
        }
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bearer: str | None = None  # if set, only this Bearer token is served
        self.users: dict[str, str] = {}  # who gets the token; empty: everybody
        self.ranges = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.registry = self  # type: ignore[attr-defined]  # how a handler finds us
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self, kind: str) -> list[str]:
        """Return the paths asked for, of one kind: manifests, blobs or token."""
        return [path for path, _ in self.requests if f"/{kind}" in path]

    @property
    def layer(self) -> str:
        """Return the digest of the first layer."""
        digest: str = json.loads(self.blobs[self.top["digest"]])["layers"][0]["digest"]
        return digest


class Handler(BaseHTTPRequestHandler):
    """Speaks just enough of the distribution protocol."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # http.server's name
        """Answer, or let the next fault answer."""
        registry: FakeRegistry = self.server.registry  # type: ignore[attr-defined]  # set above
        registry.requests.append((self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        kind = "token" if parts.path == "/token" else parts.path.rsplit("/", 2)[1]
        body, media_type = self._find(registry, parts.path)
        fault = registry.faults[kind].popleft() if registry.faults[kind] else registry.always.get(kind)
        if fault is not None:
            fault(self, body)
        elif kind == "token":
            self._give_token(registry, parse_qs(parts.query))
        elif registry.bearer and self.headers.get("Authorization") != f"Bearer {registry.bearer}":
            realm = (
                f'Bearer realm="http://{registry.address}/token",service="fake",scope="repository:app:pull"'
            )
            self.answer(401, b"{}", {"WWW-Authenticate": realm})
        elif not body:
            self.answer(404, b"{}")
        else:
            self._give(registry, body, media_type)

    def do_POST(self) -> None:  # http.server's name
        """Answer what comes with a form: only the token service has one."""
        self.do_GET()

    def _find(self, registry: FakeRegistry, path: str) -> tuple[bytes, str]:
        version = path.rpartition("/")[2]
        if "/manifests/" in path:
            digest = registry.top["digest"] if version == "latest" else version
            return registry.blobs.get(digest, b""), registry.top["mediaType"]
        return registry.blobs.get(version, b""), "application/octet-stream"

    def _give(self, registry: FakeRegistry, body: bytes, media_type: str) -> None:
        start = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        if start and registry.ranges:
            given = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            self.answer(206, body[int(start) :], given)
        else:
            self.answer(200, body, {"Content-Type": media_type})

    def _give_token(self, registry: FakeRegistry, query: dict[str, list[str]]) -> None:
        known = self.headers.get("Authorization", "").removeprefix("Basic ")
        user, _, password = base64.b64decode(known).decode().partition(":")
        if self.command == "POST":
            fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            user, password = "token", fields["refresh_token"][0]
            query = fields
        if query.get("scope") != ["repository:app:pull"] or query.get("service") != ["fake"]:
            self.answer(400, b"{}")
        elif registry.users and registry.users.get(user) != password:
            self.answer(401, b"{}")
        else:
            self.answer(200, json.dumps({"token": registry.bearer}).encode())

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, length: int = -1
    ) -> None:
        """Send a whole answer, perhaps with a length that is not its body's."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def status(code: int, **headers: str) -> Fault:
    """Answer with a status and nothing else."""
    return lambda handler, _: handler.answer(
        code, b"", {key.replace("_", "-"): value for key, value in headers.items()}
    )


def cut(after: float) -> Fault:
    """Send that share of the body, then drop the connection."""

    def fault(handler: Handler, body: bytes) -> None:
        start = handler.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        rest = body[int(start) :] if start else body
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        handler.answer(206 if start else 200, rest[: int(len(rest) * after)], headers, length=len(rest))
        handler.close_connection = True

    return fault


def replace(change: Callable[[bytes], bytes]) -> Fault:
    """Send another body."""
    return lambda handler, body: handler.answer(200, change(body))


def drop(handler: Handler, _body: bytes) -> None:
    """Close without an answer."""
    handler.close_connection = True
