"""A store and a layout, both empty."""

from pathlib import Path

import pytest

from locald.images import Store
from tests.unit.images.layouts import LayoutMaker


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store that does not exist yet."""
    return Store(tmp_path / "store")


@pytest.fixture
def layout(tmp_path: Path) -> LayoutMaker:
    """Return an empty layout."""
    return LayoutMaker(tmp_path / "layout")
