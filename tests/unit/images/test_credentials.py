"""Credentials where podman and docker keep them."""

import base64
import json
from pathlib import Path

import pytest

from locald.errors.registry import CredentialsUnreadable
from locald.images.credentials import Credentials, find_credentials
from locald.oci import Reference

APP = Reference.parse("registry.example/team/app")


def auth(user: str, password: str = "secret") -> dict[str, str]:  # noqa: S107  # a test's
    """Return one entry."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, auths: object) -> None:
    """Write a credentials file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths}))


def environment(tmp_path: Path) -> dict[str, str]:
    """Return the variables that name all places."""
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def find(tmp_path: Path, reference: Reference = APP) -> str | None:
    """Return the user name found."""
    found = find_credentials(reference, environment(tmp_path))
    return found.username if found else None


def test_files_in_order(tmp_path: Path) -> None:
    """Containers' runtime file, its persistent one, docker's."""
    assert find(tmp_path) is None
    write(tmp_path / "home/.docker/config.json", {"registry.example": auth("docker")})
    assert find(tmp_path) == "docker"
    write(tmp_path / "home/.config/containers/auth.json", {"other": auth("x")})
    assert find(tmp_path) == "docker"
    write(tmp_path / "home/.config/containers/auth.json", {"registry.example": auth("config")})
    assert find(tmp_path) == "config"
    write(tmp_path / "run/containers/auth.json", {"registry.example": auth("run")})
    assert find(tmp_path) == "run"
    explicit = {**environment(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "absent")}
    assert find_credentials(APP, explicit) is None


def test_the_longest_namespace_wins(tmp_path: Path) -> None:
    """And a namespace that is not above the repository does not count."""
    path = tmp_path / "run/containers/auth.json"
    write(
        path,
        {
            "registry.example": auth("host"),
            "registry.example/team": auth("team"),
            "registry.example/te": auth("no"),
        },
    )
    assert find(tmp_path) == "team"
    assert find(tmp_path, Reference.parse("registry.example/other")) == "host"
    assert find(tmp_path, Reference.parse("registry.example.evil/team/app")) is None


def test_docker_hubs_old_name(tmp_path: Path) -> None:
    """Docker writes docker.io's under a URL of its own."""
    write(tmp_path / "home/.docker/config.json", {"https://index.docker.io/v1/": auth("hub")})
    assert find(tmp_path, Reference.parse("busybox")) == "hub"


def test_tokens_and_empty_entries(tmp_path: Path) -> None:
    """An identity token counts without user; an entry of a helper does not."""
    path = tmp_path / "run/containers/auth.json"
    write(path, {"registry.example": {"identitytoken": "t"}})
    assert find_credentials(APP, environment(tmp_path)) == Credentials("", "", "t")
    write(path, {"registry.example": {}})
    assert find(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"auths": {"registry.example": {"auth": "###"}}}',
        '{"auths": {"registry.example": {"auth": "dXNlcg=="}}}',
    ],
)
def test_malformed_files_are_named(tmp_path: Path, content: str) -> None:
    """One clear error instead of an anonymous try."""
    path = tmp_path / "run/containers/auth.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(CredentialsUnreadable) as caught:
        find(tmp_path)
    assert caught.value.path == str(path)


def test_secrets_are_not_shown() -> None:
    """A traceback or a log shows the user only."""
    assert "secret" not in repr(Credentials("user", "secret", "secret"))
