"""The twin is for the kit's guests: no wheel and no source distribution holds it."""

import tarfile
from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]
TWIN = "shim/twin"


def test_no_source_distribution_has_it(tmp_path: Path) -> None:
    """Built as a release is; the shim's own sources are there, so that the look is one."""
    (made,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(made) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]

    assert "shim/src/main.rs" in names
    assert [name for name in names if name.startswith(TWIN)] == []


def test_no_wheel_has_it() -> None:
    """Of the tree a wheel takes locald alone; what its hook adds is the shim (tests/integration/test_install.py)."""
    names = [entry.distribution_path for entry in WheelBuilder(str(ROOT)).recurse_included_files()]

    assert "locald/__init__.py" in names
    assert [name for name in names if "twin" in name or not name.startswith("locald/")] == []


def test_the_hook_builds_the_shim_and_nothing_below_it() -> None:
    """One program for the wheel's bin directory, from the shim's own manifest."""
    hook = (ROOT / "hatch_build.py").read_text("utf-8")

    assert "twin" not in hook
    assert (ROOT / TWIN / "Cargo.toml").read_text("utf-8").count("[workspace]") == 1
    assert "twin" not in (ROOT / "shim" / "Cargo.toml").read_text("utf-8")
