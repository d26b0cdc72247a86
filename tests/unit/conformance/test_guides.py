"""The guides name what there is: every option of the kit, and commands that work on a fresh machine."""

import dataclasses
import re
import sys
import tomllib
from pathlib import Path

import pytest

from conformance import conftest
from conformance.clauses import read_catalogue
from conformance.controls.__main__ import parse_arguments
from conformance.options import OPTIONS, Reader
from vms.boxes import Declaration

ROOT = Path(__file__).resolve().parents[3]
GUIDES = ROOT / "docs/manual/guides"
TEXTS = [ROOT / "README.md", *sorted(GUIDES.glob("*.md"))]
ROW = re.compile(r"^\| `(--[a-z-]+)", re.MULTILINE)


def test_every_option_of_a_run_is_in_the_guide() -> None:
    """In its table, once, and no other."""
    rows = ROW.findall((GUIDES / "reports.md").read_text("utf-8"))
    assert sorted(rows) == sorted(option.name for option in OPTIONS if option.reader is not Reader.INNER)


def test_every_option_of_the_controls_is_in_a_guide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its own help names them."""
    monkeypatch.setattr(sys, "argv", ["controls", "--help"])
    with pytest.raises(SystemExit):
        parse_arguments()
    names = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {"--exact", "--only"} <= names
    text = "".join(path.read_text("utf-8") for path in TEXTS)
    assert {name for name in names if not re.search(rf"{name}\b", text)} == set()


def test_the_table_is_all_that_pytest_is_told() -> None:
    """An option that is declared beside it would be in no help and no guide."""
    parser = pytest.Parser(_ispytest=True)
    conftest.pytest_addoption(parser)
    declared = [name for option in parser.getgroup("conformance").options for name in option.names()]
    wanted = {option.name for option in OPTIONS if option.reader not in {Reader.RUN, Reader.PYTEST}}
    assert sorted(declared) == sorted(wanted)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_no_command_needs_a_program_that_debian_has_not(path: Path) -> None:
    """Debian has `python3` and no `python`; that of an environment has a path."""
    assert re.findall(r"(?<![\w./-])python -m \S+", path.read_text("utf-8")) == []


def test_the_sample_of_a_clause_is_the_clause() -> None:
    """Whatever more faults turn it red by now."""
    (block,) = re.findall(
        r"^```toml\n(\[\"SIG-002\"\]\n.*?)^```",
        (GUIDES / "writing-a-clause.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    (shown,) = tomllib.loads(block).values()
    clause = read_catalogue()["SIG-002"]
    assert {name: value for name, value in shown.items() if name != "controls"} == {
        "level": clause.level,
        "statement": clause.statement,
        "observable": clause.observable,
        "source": clause.source,
        "profiles": list(clause.profiles),
    }


def test_every_key_of_a_recipe_is_explained() -> None:
    """`name` is the file's; `base` stands for the other keys."""
    keys = {field.name for field in dataclasses.fields(Declaration)} - {"name"} | {"base"}
    text = (GUIDES / "adding-a-host.md").read_text("utf-8").partition("\n## Boxes")[2]
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == keys
