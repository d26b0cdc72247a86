"""Lines are counted by number, so that a measured wheel has to be the tree's own, module by module."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import hatch_build
from conformance import provenance
from conformance.inputs import InputError
from conformance.measure import hosts

MODULES = {"locald/__init__.py": "", "locald/cli/run.py": "x = 1\n", "locald/py.typed": ""}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with `MODULES`."""
    for name, text in MODULES.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    monkeypatch.setattr(hosts, "ROOT", tmp_path / "tree")
    return tmp_path / "tree"


def make_wheel(place: Path, members: Mapping[str, str]) -> Path:
    """Return a wheel with these members, and others that every wheel has."""
    with zipfile.ZipFile(place / "locald.whl", "w") as archive:
        others = {"locald-1.dist-info/METADATA": "x", "locald-1.data/scripts/locald-shim": "y"}
        for name, text in {"locald/py.typed": "", **members, **others}.items():
            archive.writestr(name, text)
    return place / "locald.whl"


def test_the_trees_own_wheel_is_taken(tree: Path) -> None:
    """Whoever ran it from there has left Python's own files."""
    (tree / "locald" / "__pycache__").mkdir()
    (tree / "locald" / "__pycache__" / "x.pyc").write_text("of nobody's concern")

    hosts.require_own_wheel(make_wheel(tree, MODULES))


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        (MODULES | {"locald/cli/run.py": "x = 2\n"}, "locald/cli/run.py differs"),
        (MODULES | {"locald/gone.py": ""}, "locald/gone.py is not in the tree"),
        ({"locald/__init__.py": ""}, "it lacks locald/cli/run.py"),
        (MODULES | {"locald/py.typed": "x"}, "locald/py.typed differs"),
        (MODULES | {"other.pth": "import os"}, "other.pth is not in the tree"),
    ],
)
def test_a_wheel_of_another_tree_is_refused(tree: Path, members: Mapping[str, str], fault: str) -> None:
    """With a module changed, taken away since, or new since."""
    with pytest.raises(InputError, match=f"locald.whl was not built from this tree: {fault}"):
        hosts.require_own_wheel(make_wheel(tree, members))


def test_the_build_of_this_trees_shim_is_known() -> None:
    """Under the name that whoever builds the wheel gives it: the gate compares it with what the shim said of itself."""
    assert provenance.digest_shim_sources() == hatch_build.source_digest(provenance.ROOT / "shim")


def test_what_is_no_wheel_is_refused(tree: Path) -> None:
    """In one line, as everything that a person can give it."""
    (tree / "locald.whl").write_text("no archive")
    for name in ("locald.whl", "absent.whl"):
        with pytest.raises(InputError, match=name):
            hosts.require_own_wheel(tree / name)
