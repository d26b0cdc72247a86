"""Two builds from the same sources give the same bytes, wherever, whenever and by whom they are made."""

import hashlib
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from ci.hardening import find_weaknesses
from hatch_build import MUTANT_SWITCH
from tests.integration.installed import PYTHON, ROOT

BUILD_LIMIT_S = 900
# What the sdist holds, which is what the wheel is made from.
SOURCES = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "hatch_build.py",
    "locald",
    "pyproject.toml",
    "shim/.cargo",
    "shim/Cargo.lock",
    "shim/Cargo.toml",
    "shim/build.rs",
    "shim/src",
)
CARGO_HOME = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
# What cargo needs of a home to build without the network.
REGISTRY = ("registry", "config.toml", "config")


def copy_sources(target: Path) -> Path:
    """Copy what a wheel is built from."""
    for name in SOURCES:
        source = ROOT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


def build(tree: Path, pip: Path, cargo_home: Path, umask: int) -> Path:
    """Build the wheel of `tree`; return it."""
    environment = {
        **os.environ,
        "CARGO_HOME": str(cargo_home),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup")),
    }
    environment.pop("SOURCE_DATE_EPOCH", None)
    command = [str(pip), "wheel", "--quiet", "--no-deps", f"--wheel-dir={tree / 'out'}", str(tree)]
    subprocess.run(
        command,
        env=environment,
        cwd=tree,
        umask=umask,
        stdin=subprocess.DEVNULL,
        timeout=BUILD_LIMIT_S,
        check=True,
    )
    (wheel,) = (tree / "out").glob("*.whl")
    return wheel


def find_differences(first: Path, second: Path) -> list[str]:
    """Return the names of what differs between two wheels: entries, their times, modes or content."""
    facts = []
    for wheel in (first, second):
        with zipfile.ZipFile(wheel) as archive:
            facts.append(
                {
                    entry.filename: (
                        entry.date_time,
                        entry.external_attr,
                        hashlib.sha256(archive.read(entry)).hexdigest(),
                    )
                    for entry in archive.infolist()
                }
            )
    return sorted(
        name for name in facts[0].keys() | facts[1].keys() if facts[0].get(name) != facts[1].get(name)
    )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two wheels: another directory with a space in its name, another CARGO_HOME, umask and time."""
    place = tmp_path_factory.mktemp("reproducible")
    subprocess.run([PYTHON, "-m", "venv", place / "venv"], check=True, timeout=BUILD_LIMIT_S)
    pip = place / "venv" / "bin" / "pip"
    first = build(copy_sources(place / "a"), pip, CARGO_HOME, 0o022)
    other_home = place / "cargo home"
    for name in REGISTRY:
        source = CARGO_HOME / name
        if source.is_dir():
            shutil.copytree(source, other_home / name, symlinks=True)
        elif source.is_file():
            shutil.copy(source, other_home / name)
    second_tree = copy_sources(place / "b" / "deeper and longer")
    old = time.time() - 86_400 * 400
    for path in second_tree.rglob("*"):
        os.utime(path, (old, old))
    return first, build(second_tree, pip, other_home, 0o077)


def test_the_shim_is_reproducible(wheels: tuple[Path, Path]) -> None:
    """The program that gets the set-user-id bit, byte for byte."""
    programs = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/scripts/locald-shim"))
            programs.append(archive.read(name))
    assert hashlib.sha256(programs[0]).hexdigest() == hashlib.sha256(programs[1]).hexdigest()
    # And what a user gets is hard, and has no switch.
    assert find_weaknesses(programs[0]) == []
    assert MUTANT_SWITCH not in programs[0]


def test_the_wheel_is_reproducible(wheels: tuple[Path, Path]) -> None:
    """The whole wheel, its archive's own fields among it."""
    assert find_differences(*wheels) == []
    assert wheels[0].name == wheels[1].name
    assert wheels[0].read_bytes() == wheels[1].read_bytes()


def test_a_difference_is_seen(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    """A byte more in one file shows, so the tests above can fail."""
    changed = tmp_path / "changed.whl"
    with zipfile.ZipFile(wheels[0]) as source, zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry, content + b"\n" if entry.filename == "locald/oci.py" else content)
    assert find_differences(wheels[0], changed) == ["locald/oci.py"]
