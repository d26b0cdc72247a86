"""The account of planted faults: what was missed, what turned red without claiming it, what nobody showed."""

import json
import re
from pathlib import Path

import pytest

from conformance.clauses import CatalogueError, parse_catalogue, read_catalogue
from conformance.controls import claims, make_account, parse_controls, read_controls
from conformance.controls.builds import Edit, write_rules
from conformance.inputs import InputError
from tests.shim.manual import read_rules

ROOT = Path(__file__).resolve().parents[3]
REASONS = ROOT / "docs/decisions/0041-what-proves-a-clause.md"

CATALOGUE = parse_catalogue(
    "\n".join(
        f'["AB-00{number}"]\nlevel = "MUST"\nstatement = "s"\nobservable = "o"\nsource = "s"\nprofiles = ["*"]\n'
        f'controls = ["{control}"]'
        for number, control in ((1, "one"), (2, "two"), (3, "two"))
    ),
    family="AB",
)
CONTROLS = parse_controls(
    '[one]\nsays = "s"\nrules = "1"\n[two]\nsays = "s"\nrules = "2"\nalso = ["AB-001"]\n'
)


def test_each_turns_exactly_its_clauses_red() -> None:
    """Then there is nothing to tell."""
    verdicts = {
        "one": {"AB-001": "FAIL", "AB-002": "PASS"},
        "two": {"AB-001": "FAIL", "AB-002": "FAIL", "AB-003": "FAIL"},
    }
    account = make_account(CATALOGUE, "local", verdicts, CONTROLS.values())
    assert (account.missed, account.beyond, account.unproven) == ((), (), ())
    assert account.caught == {"one": 1, "two": 3}


@pytest.mark.parametrize("kind", ["define", "script"])
def test_what_a_fault_breaks_by_being_there_is_no_news(kind: str) -> None:
    """A wrapper is a second program in the shim's place, a script one in locald's; a build is neither."""
    (wrapper,) = parse_controls(f'[one]\nsays = "s"\n{kind} = "FAULT"\n').values()
    keys = ("statement", "observable", "source")
    words = "".join(f'{key} = "s"\n' for key in keys)
    text = f'["LEAF-003"]\nlevel = "MUST"\n{words}profiles = ["*"]\ncontrols = ["x"]'
    catalogue = parse_catalogue(text, family="LEAF")
    red = {"one": {"LEAF-003": "FAIL"}}
    assert make_account(catalogue, "local", red, [wrapper]).beyond == ()
    assert make_account(catalogue, "local", red, CONTROLS.values()).beyond == (("one", "LEAF-003"),)


def test_a_clause_that_does_not_claim_a_fault_is_told() -> None:
    """AB-003 is red without rule 1 and does not say so."""
    verdicts = {"one": {"AB-001": "FAIL", "AB-003": "FAIL"}, "two": {"AB-002": "FAIL", "AB-003": "FAIL"}}
    account = make_account(CATALOGUE, "local", verdicts, CONTROLS.values())
    assert (account.missed, account.beyond) == ((), (("one", "AB-003"),))


def test_only_a_failure_catches() -> None:
    """A clause that the fault breaks (ERROR) has not shown that it sees it, and is unproven."""
    account = make_account(CATALOGUE, "local", {"one": {"AB-001": "ERROR"}}, [CONTROLS["one"]])
    assert account.missed == (("one", "AB-001"),)
    assert account.unproven == ("AB-001", "AB-002", "AB-003")


def test_an_unknown_key_is_refused() -> None:
    """A typo would accept nothing, silently."""
    with pytest.raises(CatalogueError):
        parse_controls('[one]\nsays = "s"\nrules = "1"\nalsoo = ["*"]\n')


def test_a_fault_is_planted_only_where_it_can_be_seen() -> None:
    """Elsewhere no clause claims it, so none misses it."""
    (control,) = parse_controls('[one]\nsays = "s"\nrules = "1"\nhosts = ["vm-*"]\n').values()

    assert claims(CATALOGUE, control, "vm-1") == ("AB-001",)
    assert claims(CATALOGUE, control, "local") == ()
    (by_trait,) = parse_controls('[one]\nsays = "s"\nrules = "1"\nhosts = ["*", "!@cgroup2"]\n').values()
    assert claims(CATALOGUE, by_trait, "vm-1", ["cgroup2"]) == ()
    assert claims(CATALOGUE, by_trait, "vm-1") == ("AB-001",)
    assert make_account(CATALOGUE, "local", {"one": {}}, [control]).missed == ()


def edit(**change: str) -> str:
    """Return a control that is an edit of spec.py, with something of it changed."""
    entry = {"file": "locald/spec.py", "old": "import posixpath\n", "new": "import os\n"} | change
    words = ", ".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
    return f'[one]\nsays = "s"\nedit = {{ {words} }}\n'


def test_an_edit_changes_what_stands_in_its_file_once() -> None:
    """The rest of the file stays."""
    (control,) = parse_controls(edit()).values()
    assert control.edit is not None
    assert not control.edit.is_of_shim
    before = (ROOT / "locald/spec.py").read_text("utf-8")
    assert control.edit.apply() == before.replace("import posixpath\n", "import os\n")


@pytest.mark.parametrize(
    "change", [{"old": "no such words"}, {"old": "import "}, {"file": "locald/no-file.py"}]
)
def test_an_edit_without_its_place_is_refused(change: dict[str, str]) -> None:
    """It would plant nothing, or more than it says."""
    (control,) = parse_controls(edit(**change)).values()
    assert control.edit is not None
    with pytest.raises(CatalogueError):
        control.edit.apply()


@pytest.mark.parametrize(
    "change", [{"file": "conformance/clauses.py"}, {"new": "import posixpath\n"}, {"line": "1"}]
)
def test_what_is_no_edit_of_the_product_is_refused(change: dict[str, str]) -> None:
    """The kit itself, no change at all, an unknown member."""
    with pytest.raises(CatalogueError):
        parse_controls(edit(**change))


PLACE = b"x\0LOCALD_SHIM_DISABLE_RULE=" + b"," * 48 + b"\0x"


def test_rules_are_named_in_a_copy_of_the_program() -> None:
    """As many bytes as before; what is left of the place stays empty names."""
    written = write_rules(PLACE, "3-close,38-close")
    assert written == PLACE.replace(b"=" + b"," * 16, b"=3-close,38-close", 1)


@pytest.mark.parametrize("program", [b"", PLACE + PLACE, PLACE.replace(b",\0", b"\0")])
def test_a_program_without_one_place_for_rules_is_refused(program: bytes) -> None:
    """It would be planted with every rule in force."""
    with pytest.raises(InputError):
        write_rules(program, "3-close")


def test_every_control_of_a_rule_fits_into_the_place() -> None:
    """A name of two rules too."""
    for control in read_controls().values():
        assert len(write_rules(PLACE, control.rules)) == len(PLACE)


EDITS = {name: control.edit for name, control in read_controls().items() if control.edit}


@pytest.mark.parametrize("changed", EDITS.values(), ids=EDITS)
def test_every_edit_finds_its_place_and_is_a_program(changed: Edit) -> None:
    """The source moves on; a fault that is no longer one would prove nothing. Rust is compiled when it is planted."""
    text = changed.apply()
    if not changed.is_of_shim:
        compile(text, changed.file, "exec")


def test_every_control_is_claimed() -> None:
    """What no clause claims is planted for nothing."""
    claimed = {name for clause in read_catalogue().values() for name in clause.controls}
    assert set(read_controls()) - claimed == set()


def test_every_rule_is_planted_and_claimed_or_the_reason_is_told() -> None:
    """In decision 0041, in a list of rules; none stands there that is planted."""
    catalogue, controls = read_catalogue(), read_controls()
    claimed = {name for clause in catalogue.values() for name in clause.controls}
    planted = {
        rule for control in controls.values() if control.name in claimed for rule in control.rules.split(",")
    }
    told = REASONS.read_text("utf-8").split("\n## Not claimed\n")[1].split("\n## ")[0]

    assert set(read_rules()) - planted == set(re.findall(r"^- `([^`]+)`: ", told, re.MULTILINE))
