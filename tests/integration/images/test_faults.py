"""What goes wrong between a registry and us: each fault gives one clear error, or is overcome."""

import contextlib
import hashlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import urllib3
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import MaxRetryError, SSLError

from locald.errors import LocaldError
from locald.errors.images import DigestMismatch, ImageNotFound, ManifestInvalid
from locald.errors.registry import (
    RegistryDenied,
    RegistryFailed,
    RegistryInsecure,
    RegistryInterrupted,
    RegistryRateLimited,
    RegistryTls,
    RegistryUnauthorized,
    RegistryUnreachable,
)
from locald.images import Store, pull
from locald.images import registry as client
from tests.fixtures import make_image
from tests.fixtures.process import run
from tests.integration.images.conftest import log_in
from tests.integration.images.fake_registry import FakeRegistry, Fault, Handler, cut, drop, replace, status


def names(store: Store) -> tuple[set[str], list[Path]]:
    """Return the visible blobs and what is left in the temporary directory."""
    blobs = {path.name for path in (store.root / "blobs/sha256").iterdir()}
    return blobs, list((store.root / "tmp").iterdir())


def check_blobs(store: Store) -> None:
    """Every visible blob is what its name says, and nothing temporary is left."""
    blobs, temporary = names(store)
    for name in blobs:
        assert hashlib.sha256((store.root / "blobs/sha256" / name).read_bytes()).hexdigest() == name
    assert temporary == []


def pull_app(fake: FakeRegistry, store: Store) -> None:
    """Pull, and be sure that what is visible afterwards is right, whatever happened."""
    try:
        pull(f"{fake.address}/app", store=store)
    finally:
        check_blobs(store)


def test_no_fault(fake: FakeRegistry, store: Store) -> None:
    """Our registry serves as a real one; blobs are asked for once."""
    pull_app(fake, store)
    assert len(fake.paths("blobs")) == 2


def test_a_broken_connection_is_resumed(fake: FakeRegistry, store: Store) -> None:
    """Twice inside a layer: it goes on where it broke."""
    fake.faults["blobs"].extend([lambda handler, body: handler.answer(200, body), cut(0.5), cut(0.5)])
    pull_app(fake, store)
    ranges = [headers.get("Range") for path, headers in fake.requests if path.endswith(fake.layer)]
    size = len(fake.blobs[fake.layer])
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]


def test_a_registry_without_ranges(fake: FakeRegistry, store: Store) -> None:
    """It starts again from the first byte."""
    fake.ranges = False
    fake.faults["blobs"].extend([lambda handler, body: handler.answer(200, body), cut(0.5)])
    pull_app(fake, store)
    assert len(fake.paths("blobs")) == 3


def test_a_wrong_range_is_not_trusted(fake: FakeRegistry, store: Store) -> None:
    """206 from another place than asked would corrupt the blob."""

    def wrong(handler: Handler, body: bytes) -> None:
        handler.answer(206, body[3:], {"Content-Range": f"bytes 3-{len(body) - 1}/{len(body)}"})

    fake.faults["blobs"].extend([lambda handler, body: handler.answer(200, body), cut(0.5), wrong])
    with pytest.raises(RegistryFailed):
        pull_app(fake, store)


def test_always_broken(fake: FakeRegistry, store: Store) -> None:
    """Bounded, then one clear error."""
    fake.always["blobs"] = cut(0.3)
    with pytest.raises(RegistryInterrupted) as caught:
        pull_app(fake, store)
    assert caught.value.code == "registry.interrupted"
    assert len(fake.paths("blobs")) == 1 + client.RETRIES


@pytest.mark.parametrize(
    ("kind", "fault", "expected"),
    [
        ("manifests", status(404), ImageNotFound),
        ("manifests", status(403), RegistryDenied),
        ("manifests", status(429, Retry_After="3600"), RegistryRateLimited),
        ("manifests", status(500), RegistryFailed),
        ("manifests", status(503), RegistryFailed),
        ("manifests", status(418), RegistryFailed),
        ("manifests", status(401), RegistryUnauthorized),
        ("manifests", status(401, WWW_Authenticate="Negotiate"), RegistryUnauthorized),
        ("manifests", status(401, WWW_Authenticate="Bearer nonsense"), RegistryFailed),
        ("manifests", status(401, WWW_Authenticate="Bearer realm="), RegistryFailed),
        ("manifests", status(401, WWW_Authenticate='Bearer service="x"'), RegistryFailed),
        ("manifests", status(302, Location="http://[nonsense/"), RegistryFailed),
        ("manifests", status(200, Docker_Content_Digest="sha256:x"), RegistryFailed),
        ("manifests", drop, RegistryUnreachable),
        ("manifests", replace(lambda _: b"{}"), ManifestInvalid),
        ("manifests", replace(lambda _: b" " * (5 << 20)), ManifestInvalid),
        ("blobs", status(404), RegistryFailed),
        ("blobs", status(403), RegistryDenied),
        ("blobs", status(500), RegistryFailed),
        ("blobs", status(204), RegistryFailed),
        ("blobs", replace(lambda body: body[:-1] + b"x"), DigestMismatch),
        ("blobs", replace(lambda body: body + b"x"), DigestMismatch),
        ("blobs", replace(lambda body: body[:-1]), DigestMismatch),
        ("blobs", drop, RegistryUnreachable),
    ],
)
def test_each_fault_is_one_clear_error(
    fake: FakeRegistry, store: Store, kind: str, fault: Fault, expected: type[LocaldError]
) -> None:
    """Whatever the registry does, always: the same error, with a code and a hint."""
    fake.always[kind] = fault
    with pytest.raises(expected) as caught:
        pull_app(fake, store)
    assert type(caught.value) is expected
    assert caught.value.hint


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_passing_faults_are_overcome(fake: FakeRegistry, store: Store, code: int) -> None:
    """Some tries later it works."""
    fake.faults["manifests"].extend([status(code), drop])
    fake.faults["blobs"].extend([status(code), drop, status(code)])
    pull_app(fake, store)


def test_a_manifest_that_is_not_its_digest(fake: FakeRegistry, store: Store) -> None:
    """By digest nothing else is accepted; by tag the registry's own header must agree."""
    fake.always["manifests"] = replace(lambda body: body + b" ")
    with pytest.raises(DigestMismatch):
        pull(f"{fake.address}/app@{fake.top['digest']}", store=store)
    fake.always["manifests"] = lambda handler, body: handler.answer(
        200, body, {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
    )
    with pytest.raises(DigestMismatch):
        pull_app(fake, store)


def test_an_endless_blob_is_not_read_to_its_end(fake: FakeRegistry, store: Store) -> None:
    """More bytes than promised end the pull at once, before they fill the disk."""
    sent: list[int] = []

    def endless(handler: Handler, body: bytes) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(64):
                handler.wfile.write(body.ljust(1 << 20, b"x"))
                sent.append(1)

    fake.always["blobs"] = endless
    with pytest.raises(DigestMismatch, match="more than"):
        pull_app(fake, store)
    assert len(sent) < 64


@pytest.mark.parametrize("kind", ["manifests", "token"])
def test_huge_documents_are_not_read_into_memory(fake: FakeRegistry, store: Store, kind: str) -> None:
    """What is parsed is bounded; only blobs may be large."""
    fake.bearer = "x"
    fake.always[kind] = replace(lambda _: b" " * (5 << 20))
    with pytest.raises(ManifestInvalid, match="larger than"):
        pull_app(fake, store)


def test_tokens(fake: FakeRegistry, store: Store, home: Path) -> None:
    """Anonymous, with a wrong password, with the right one, with an identity token."""
    fake.bearer = "t0ken"
    pull(f"{fake.address}/app", store=store)
    fake.users = {"reader": "pass:word", "token": "refresh"}
    for pair, more in (("reader:wrong", {}), ("reader:", {"identitytoken": "wrong"})):
        log_in(home, fake.address, pair, **more)
        with pytest.raises(RegistryUnauthorized) as caught:
            pull(f"{fake.address}/app", store=store, policy="always")
        assert caught.value.had_credentials
    fake.users["reader"] = "pass:wörd☺"
    for more in ({}, {"identitytoken": "refresh"}):
        log_in(home, fake.address, "reader:pass:wörd☺", **more)
        pull(f"{fake.address}/app", store=store, policy="always")


def test_an_expired_token_is_renewed(fake: FakeRegistry, store: Store) -> None:
    """A 401 in the middle of a pull asks for a new token, once."""
    fake.bearer = "one"

    def expire(handler: Handler, _body: bytes) -> None:
        fake.bearer = "two"
        challenge = f'Bearer realm="http://{fake.address}/token",service="fake"'
        status(401, WWW_Authenticate=challenge)(handler, b"")

    fake.faults["blobs"].append(expire)
    pull_app(fake, store)
    assert len(fake.paths("token")) == 2


@pytest.mark.parametrize(
    "fault",
    [
        replace(lambda _: b"[]"),
        replace(lambda _: b"no JSON"),
        replace(lambda _: b'{"token": ""}'),
        replace(lambda _: b'{"token": "a\\r\\nX-Evil: 1"}'),
        replace(lambda _: b" " * (2 << 20)),
        status(500),
        status(302, Location="http://registry.example/"),
    ],
)
def test_token_services_that_misbehave(fake: FakeRegistry, store: Store, fault: Fault) -> None:
    """No token, a huge one, one that would write headers, one from elsewhere."""
    fake.bearer = "x"
    fake.always["token"] = fault
    with pytest.raises((RegistryFailed, ManifestInvalid, RegistryInsecure)):
        pull_app(fake, store)


def test_a_realm_without_tls(fake: FakeRegistry, store: Store, home: Path) -> None:
    """Credentials never go to a plain HTTP address of another host."""
    log_in(home, fake.address)
    fake.always["manifests"] = status(401, WWW_Authenticate='Bearer realm="http://registry.example/token"')
    with pytest.raises(RegistryInsecure) as caught:
        pull_app(fake, store)
    assert caught.value.url.startswith("http://registry.example/token")
    log_in(home, fake.address, identitytoken="refresh")
    with pytest.raises(RegistryInsecure):
        pull_app(fake, store)


def test_redirects(fake: FakeRegistry, store: Store) -> None:
    """Followed on loopback, without our token to another origin; never to plain HTTP elsewhere; not for ever."""
    with FakeRegistry(make_image("busybox")) as other:
        fake.bearer = "secret"
        fake.always["blobs"] = lambda handler, _: handler.answer(
            307, b"", {"Location": f"http://{other.address}{handler.path}"}
        )
        pull_app(fake, store)
        assert len(other.requests) == 2
        assert all("Authorization" not in headers for _, headers in other.requests)
    fake.always["blobs"] = status(307, Location="http://registry.example/blob")
    with pytest.raises(RegistryInsecure):
        pull_app(fake, Store(store.root / "second"))
    fake.always["blobs"] = lambda handler, _: handler.answer(302, b"", {"Location": handler.path})
    with pytest.raises(RegistryFailed, match="redirects"):
        pull_app(fake, Store(store.root / "third"))


def test_plain_http_only_on_loopback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other host is asked by TLS only, and never again without."""
    asked: list[str] = []

    def request(_self: object, _method: str, url: str, **_more: object) -> object:
        asked.append(url)
        raise MaxRetryError(HTTPConnectionPool("x"), url, SSLError("WRONG_VERSION_NUMBER"))

    monkeypatch.setattr(urllib3.PoolManager, "request", request)
    for host in ("registry.example", "10.0.0.1:5000", "localhost.example", "127.0.0.1.example:5000", "[::2]"):
        with pytest.raises(RegistryTls):
            pull(f"{host}/app", store=store)
    assert all(url.startswith("https://") for url in asked)
    asked.clear()
    for host in ("localhost:5000", "127.8.9.1:5000", "[::1]:5000"):
        with pytest.raises(RegistryTls):
            pull(f"{host}/app", store=store)
    assert [url.partition(":")[0] for url in asked] == ["https", "http"] * 3


def test_a_certificate_that_does_not_convince(store: Store, tmp_path: Path) -> None:
    """Also on loopback it is no reason to go on without TLS."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "1"]
    run([*command, "-keyout", str(key), "-out", str(certificate)], limit_s=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with pytest.raises(RegistryTls, match="certificate"):
            pull(f"127.0.0.1:{server.server_port}/app", store=store)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
