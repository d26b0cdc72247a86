"""Find the caller's credentials for a registry, where podman and docker keep them. Reads; never writes.

Imports `errors` and `oci`. Sources: containers-auth.json(5) and docker's config.json. Credential helpers are
programs named by a file, and are not run.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locald.errors.registry import CredentialsUnreadable
from locald.oci import DOCKER_HUB, Reference

# What docker calls docker.io in its file, for history's sake.
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, or an identity token in the password's place."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


def find_credentials(reference: Reference, environment: Mapping[str, str]) -> Credentials | None:
    """Return the credentials that apply to `reference`, from the first file that has some.

    Args:
        reference: A namespace that holds it wins over its registry, as in containers-auth.json(5).
        environment: For $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR, $XDG_CONFIG_HOME, $DOCKER_CONFIG and $HOME.

    Raises:
        CredentialsUnreadable: A file is malformed (exit 125, `registry.auth-file`).
    """
    for path in _files(environment):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CredentialsUnreadable(str(path), error.strerror or str(error)) from error
        found = _search(content, path, reference)
        if found is not None:
            return found
    return None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    if explicit := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(explicit)
        return
    home = Path(environment.get("HOME") or Path.home())
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _search(content: bytes, path: Path, reference: Reference) -> Credentials | None:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise CredentialsUnreadable(str(path), "it is no JSON") from error
    entries = document.get("auths") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        return None
    for key in _keys(reference):
        entry = entries.get(key)
        # An empty entry says that a helper has the password.
        if isinstance(entry, dict) and entry:
            return _decode(entry, path, key)
    return None


def _keys(reference: Reference) -> Iterator[str]:
    parts = [reference.registry, *reference.repository.split("/")]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])
    yield from (f"https://{reference.registry}", f"https://{reference.registry}/v1/")
    if reference.registry == DOCKER_HUB:
        yield from _DOCKER_HUB_KEYS


def _decode(entry: dict[str, Any], path: Path, key: str) -> Credentials | None:
    token = entry.get("identitytoken") or ""
    try:
        text = base64.b64decode(entry.get("auth") or "", validate=True).decode()
    except (binascii.Error, TypeError, ValueError) as error:
        raise CredentialsUnreadable(str(path), f"its entry for {key} is no base64") from error
    username, colon, password = text.partition(":")
    if not isinstance(token, str) or (text and not colon):
        raise CredentialsUnreadable(str(path), f"its entry for {key} is no user:password")
    if not text and not token:
        return None
    return Credentials(username, password.rstrip("\0"), token)
