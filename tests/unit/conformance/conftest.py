"""What the tests of the release gate share."""

from pathlib import Path

import pytest

from tests.unit.conformance.release_keys import write_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The key pair that the gate trusts."""
    return write_keys(tmp_path_factory.mktemp("keys"), "good")
