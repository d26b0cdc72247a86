"""Speak the distribution protocol, as far as a pull needs it: manifests, blobs, tokens.

The only module that imports the HTTP library. Why urllib3: docs/decisions/0020-registry-client.md.
"""

import base64
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import getproxies, parse_http_list, parse_keqv_list, proxy_bypass

import urllib3
from urllib3.exceptions import (
    HTTPError,
    IncompleteRead,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from locald import __version__
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
from locald.images.credentials import Credentials, find_credentials
from locald.images.store import BlobWriter
from locald.oci import DOCKER_HUB, INDEX_TYPES, MANIFEST_TYPES, Digest, Reference

MANIFEST_LIMIT_BYTES = 4 << 20  # the distribution spec asks registries to take at least that
TOKEN_LIMIT_BYTES = 1 << 20
CHUNK_BYTES = 1 << 17
REDIRECT_LIMIT = 5
STREAMS = 4  # as skopeo and docker within a factor of two; registries count connections
CONNECT_LIMIT_S = 15.0
SILENCE_LIMIT_S = 30.0  # between two pieces of an answer
RETRY_AFTER_LIMIT_S = 15.0
# 5 tries after the first, 0.5 s to 8 s apart: some 15 s until an answer that there is none.
RETRIES = 5
CONNECT_RETRIES = 2  # what refuses a connection or has no name does not change in seconds
BACKOFF_S = 0.5
BACKOFF_LIMIT_S = 8.0
_RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))


class _Retry(urllib3.Retry):
    """urllib3's bookkeeping of retries, but no server makes us wait for hours."""

    def parse_retry_after(self, retry_after: str) -> float:
        return min(super().parse_retry_after(retry_after), RETRY_AFTER_LIMIT_S)


class Registry:
    """One repository in a registry, for the time of a pull.

    `fetch` may be called by several threads at once, after one has had a manifest: by then scheme and token are
    known. Two that meet an expired token both renew it, which harms nothing.
    """

    streams = STREAMS

    def __init__(self, reference: Reference, environment: Mapping[str, str] | None = None) -> None:
        """Connect to nothing yet.

        Args:
            reference: Its registry and repository count.
            environment: Where credentials are looked for; default: this process's.
        """
        self._environment = os.environ if environment is None else environment
        self._reference = reference
        self._name = reference.registry
        host = "registry-1.docker.io" if self._name == DOCKER_HUB else self._name
        self._host = host
        self._scheme = "https"
        self._loopback = _is_loopback(f"//{host}")
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._authorization: str | None = None
        self._retry = _Retry(
            total=RETRIES,
            connect=CONNECT_RETRIES,
            redirect=False,
            status_forcelist=_RETRY_STATUSES,
            backoff_factor=BACKOFF_S,
            backoff_max=BACKOFF_LIMIT_S,
            raise_on_status=False,
        )

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()

    # --- what a pull asks for -------------------------------------------------------------------------

    def manifest(self, version: str) -> tuple[bytes, str | None, Digest]:
        """Fetch a manifest or an index by tag or digest: its verified bytes, media type and digest.

        Raises:
            ImageNotFound: (exit 125, `image.not-found`).
            DigestMismatch: (exit 125, `image.digest-mismatch`).
            ManifestInvalid: It is too large (exit 125, `image.manifest-invalid`).
            RegistryError: (exit 125, `registry.*`).
        """
        what = f"The manifest {version}"
        with self._errors():
            response = self._get(f"manifests/{version}", {"Accept": _ACCEPT})
            if response.status == 404:  # noqa: PLR2004  # Not Found
                response.close()
                separator = "@" if ":" in version else ":"
                raise ImageNotFound(
                    f"{self._name}/{self._reference.repository}{separator}{version}", self._name
                )
            content = self._body(response, MANIFEST_LIMIT_BYTES, what)
        promised = version if ":" in version else response.headers.get("Docker-Content-Digest")
        try:
            expected = Digest.parse(promised) if promised else None
        except ValueError as error:
            raise RegistryFailed(self._name, str(error)) from error
        # Imported here, as in store.py.
        import hashlib  # noqa: PLC0415

        algorithm = expected.algorithm if expected else "sha256"
        found = Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
        if expected is not None and found != expected:
            raise DigestMismatch(what, str(expected), str(found))
        return content, response.headers.get("Content-Type"), found

    def fetch(self, writer: BlobWriter) -> None:
        """Fetch the blob that `writer` wants; go on where a connection broke.

        Raises:
            RegistryInterrupted: It broke too often (exit 125, `registry.interrupted`).
            RegistryError: (exit 125, `registry.*`).
            DigestMismatch: More bytes than promised (exit 125, `image.digest-mismatch`).
        """
        retry: urllib3.Retry = self._retry
        with self._errors():
            while (broken := self._read_blob(writer)) is not None:
                try:
                    retry = retry.increment("GET", str(writer.descriptor.digest), error=broken)
                except MaxRetryError as exhausted:
                    raise RegistryInterrupted(self._name, _reason(broken)) from exhausted
                retry.sleep()

    def _read_blob(self, writer: BlobWriter) -> Exception | None:
        """Read on until the blob ends, or return what ended it earlier."""
        response = self._open_blob(writer)
        try:
            for chunk in response.stream(CHUNK_BYTES, decode_content=False):
                writer.write(chunk)
        except (ProtocolError, Urllib3TimeoutError, SSLError) as error:
            response.close()
            return error
        except BaseException:
            # Half an answer is still to come: that connection serves nobody else.
            response.close()
            raise
        response.release_conn()
        return None

    def _open_blob(self, writer: BlobWriter) -> urllib3.BaseHTTPResponse:
        digest = writer.descriptor.digest
        headers = {"Range": f"bytes={writer.size_bytes}-"} if writer.size_bytes else {}
        response = self._get(f"blobs/{digest}", headers)
        if response.status == 404:  # noqa: PLR2004  # Not Found
            response.close()
            raise RegistryFailed(self._name, f"it has the image, but not its blob {digest}")
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        resumed = response.status == 206 and start is not None  # noqa: PLR2004  # Partial Content
        if writer.size_bytes and not (resumed and start is not None and int(start[1]) == writer.size_bytes):
            if response.status != 200:  # noqa: PLR2004  # OK: all of it
                self._raise_for(response)
            writer.restart()
        elif response.status not in (200, 206):
            self._raise_for(response)
        return response

    # --- requests -------------------------------------------------------------------------------------

    def _get(self, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask for `path` of the repository; authenticate if the registry wants that."""
        try:
            response = self._request_as_known(path, headers)
        except MaxRetryError as error:
            if not self._speaks_plain_http(error):
                raise
            self._scheme = "http"
            response = self._request_as_known(path, headers)
        if response.status == 401:  # noqa: PLR2004  # Unauthorized: not yet, or a token that has expired
            challenge = response.headers.get("WWW-Authenticate", "")
            response.drain_conn()
            self._authorization = self._answer(challenge)
            response = self._request_as_known(path, headers)
        if response.status in (401, 403) or response.status in _RETRY_STATUSES:
            self._raise_for(response)
        return response

    def _request_as_known(self, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        sent = {**headers, "Authorization": self._authorization} if self._authorization else headers
        return self._request(f"{self._scheme}://{self._host}/v2/{self._reference.repository}/{path}", sent)

    def _speaks_plain_http(self, error: MaxRetryError) -> bool:
        # A certificate that does not convince is no reason to go without one.
        return (
            self._loopback
            and self._scheme == "https"
            and isinstance(error.reason, SSLError)
            and "CERTIFICATE_VERIFY_FAILED" not in str(error.reason)
        )

    def _request(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """GET `url`, following redirects without ever giving up TLS or showing our credentials elsewhere."""
        sent = {"User-Agent": f"locald/{__version__}", "Accept-Encoding": "identity", **headers}
        for _ in range(REDIRECT_LIMIT + 1):
            if urlsplit(url).scheme != "https" and not _is_loopback(url):
                raise RegistryInsecure(self._name, url)
            pool = self._pool(url)
            response = pool.request(
                "GET", url, headers=sent, retries=self._retry_for(url), redirect=False, preload_content=False
            )
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.drain_conn()
            target = urljoin(url, location)
            if _origin(target) != _origin(url):
                sent.pop("Authorization", None)
            url = target
        raise RegistryFailed(self._name, f"it redirects more than {REDIRECT_LIMIT} times")

    def _retry_for(self, url: str) -> urllib3.Retry:
        # A TLS handshake with a plain HTTP server fails the same way however often it is tried.
        return self._retry.new(total=RETRIES, other=0 if url.startswith("https:") else None)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the connections for `url`: direct, or through the proxy that the environment names."""
        parts = urlsplit(url)
        # Always this process's environment: urllib knows all spellings of its variables.
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        if _is_loopback(url) or proxy_bypass(parts.hostname or ""):
            proxy = ""
        if proxy not in self._pools:
            timeout = urllib3.Timeout(connect=CONNECT_LIMIT_S, read=SILENCE_LIMIT_S)
            self._pools[proxy] = (
                urllib3.ProxyManager(proxy, timeout=timeout, maxsize=STREAMS)
                if proxy
                else urllib3.PoolManager(timeout=timeout, maxsize=STREAMS)
            )
        return self._pools[proxy]

    # --- who we are -----------------------------------------------------------------------------------

    def _answer(self, challenge: str) -> str | None:
        """Return the Authorization that a WWW-Authenticate header asks for."""
        credentials = find_credentials(self._reference, self._environment)
        scheme, _, parameters = challenge.partition(" ")
        if scheme.lower() == "bearer":
            wanted = parse_keqv_list(parse_http_list(parameters))
            if not wanted.get("realm"):
                raise RegistryFailed(self._name, "it asks for a token without saying where")
            return f"Bearer {self._token(wanted, credentials)}"
        if scheme.lower() == "basic" and credentials is not None:
            return _basic(credentials)
        raise RegistryUnauthorized(
            self._name, self._reference.repository, had_credentials=credentials is not None
        )

    def _token(self, challenge: Mapping[str, str], credentials: Credentials | None) -> str:
        realm = challenge["realm"]
        query = {
            "service": challenge.get("service", ""),
            "scope": f"repository:{self._reference.repository}:pull",
        }
        headers = {}
        if credentials is not None and credentials.identity_token:
            return self._refreshed_token(realm, query, credentials)
        if credentials is not None:
            headers["Authorization"] = _basic(credentials)
        separator = "&" if urlsplit(realm).query else "?"
        response = self._request(
            f"{realm}{separator}{urlencode({k: v for k, v in query.items() if v})}", headers
        )
        return self._read_token(response, had_credentials=credentials is not None)

    def _refreshed_token(self, realm: str, query: Mapping[str, str], credentials: Credentials) -> str:
        if urlsplit(realm).scheme != "https" and not _is_loopback(realm):
            raise RegistryInsecure(self._name, realm)
        fields = {
            **query,
            "grant_type": "refresh_token",
            "client_id": "locald",
            "refresh_token": credentials.identity_token,
        }
        response = self._pool(realm).request(
            "POST", realm, fields=fields, encode_multipart=False, redirect=False, preload_content=False
        )
        return self._read_token(response, had_credentials=True)

    def _read_token(self, response: urllib3.BaseHTTPResponse, *, had_credentials: bool) -> str:
        if response.status in (400, 401):
            response.drain_conn()
            repository = self._reference.repository
            raise RegistryUnauthorized(self._name, repository, had_credentials=had_credentials)
        if response.status != 200:  # noqa: PLR2004  # OK
            self._raise_for(response)
        try:
            answer: Any = json.loads(self._body(response, TOKEN_LIMIT_BYTES, "The token"))
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError) as error:
            raise RegistryFailed(self._name, "its token service answered no JSON") from error
        # A line break would let the token service write headers of its own.
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise RegistryFailed(self._name, "its token service gave no token")
        return token

    # --- answers --------------------------------------------------------------------------------------

    def _body(self, response: urllib3.BaseHTTPResponse, limit_bytes: int, what: str) -> bytes:
        if response.status != 200:  # noqa: PLR2004  # OK
            self._raise_for(response)
        content = bytearray()
        for chunk in response.stream(CHUNK_BYTES, decode_content=False):
            content += chunk
            if len(content) > limit_bytes:
                response.close()
                raise ManifestInvalid(what, f"it is larger than {limit_bytes} bytes")
        response.release_conn()
        return bytes(content)

    def _raise_for(self, response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        response.close()
        repository = self._reference.repository
        if status == 401:  # noqa: PLR2004  # Unauthorized
            raise RegistryUnauthorized(
                self._name, repository, had_credentials=self._authorization is not None
            )
        if status == 403:  # noqa: PLR2004  # Forbidden
            raise RegistryDenied(self._name, repository)
        if status == 429:  # noqa: PLR2004  # Too Many Requests
            raise RegistryRateLimited(self._name)
        raise RegistryFailed(self._name, f"it answered {status} {response.reason or ''}".rstrip())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the HTTP library raises into errors that a user can act on."""
        try:
            yield
        except MaxRetryError as error:
            if isinstance(error.reason, SSLError):
                raise RegistryTls(self._name, _reason(error.reason)) from error
            raise RegistryUnreachable(self._name, _reason(error.reason or error)) from error
        except SSLError as error:
            raise RegistryTls(self._name, _reason(error)) from error
        except (ValueError, IndexError) as error:
            # Addresses, challenges and numbers that no parser takes, urllib3's among them.
            raise RegistryFailed(self._name, f"it answered nonsense ({_reason(error)})") from error
        except HTTPError as error:
            raise RegistryUnreachable(self._name, _reason(error)) from error


def _basic(credentials: Credentials) -> str:
    # UTF-8, as RFC 7617 has it; urllib3's own takes Latin-1 only.
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _is_loopback(url: str) -> bool:
    """Tell whether `url` names this host by a loopback address, the only kind that may do without TLS."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong, without the HTTP library's object names."""
    for kind, words in (
        (NameResolutionError, "its name cannot be resolved"),
        # Before the time-outs: urllib3 counts it as one of them.
        (NewConnectionError, "the connection is refused"),
        (IncompleteRead, "the connection broke"),
        (Urllib3TimeoutError, f"no answer within {SILENCE_LIMIT_S:.0f} s"),
        (ProxyError, "the proxy does not answer"),
    ):
        if isinstance(error, kind):
            return words
    text = str(error.__cause__ or error)
    return re.sub(r"<[^>]*>:? ?|\(_ssl\.c:\d+\)", "", text).strip() or type(error).__name__
