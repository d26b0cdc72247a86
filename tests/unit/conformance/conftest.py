"""What the tests of the kit share: a key pair for the gate, and the marks of clauses whose files they look into."""

from pathlib import Path

import pytest

from tests.unit.conformance.release_keys import write_keys


def pytest_configure(config: pytest.Config) -> None:
    """Let files of clauses be imported: their marks are known to the kit's own pytest alone."""
    for mark in ("clause(*ids)", "alone(name)"):
        config.addinivalue_line("markers", f"{mark}: see conformance/conftest.py")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The key pair that the gate trusts."""
    return write_keys(tmp_path_factory.mktemp("keys"), "good")
