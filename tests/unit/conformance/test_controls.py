"""Planted faults: what an entry may say, where each can be seen, and what an edit is."""

import argparse
import contextlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import vms
from conformance import inputs, preconditions, provenance
from conformance.clauses import CatalogueError, read_catalogue
from conformance.controls import SCRIPTED, WRAPPED, claims, parse_controls, read_controls
from conformance.controls import __main__ as planting
from conformance.controls.account import Place
from conformance.controls.builds import Edit, find_edited, write_rules
from conformance.inputs import InputError
from conformance.planted import NoReport
from tests.shim.manual import read_rules
from tests.unit.conformance.samples import CATALOGUE, make_wheel

ROOT = Path(__file__).resolve().parents[3]
IDLE = {"always-succeeds", "always-fails", "locald-succeeds"}
REASONS = ROOT / "docs/decisions/0041-what-proves-a-clause.md"


def test_an_unknown_key_is_refused() -> None:
    """A typo would accept nothing, silently."""
    with pytest.raises(CatalogueError):
        parse_controls('[one]\nsays = "s"\nrules = "1"\nalsoo = ["*"]\n')


@pytest.mark.parametrize(
    "entry",
    [
        'hosts = "local"',
        "hosts = 3",
        "hosts = []",
        'hosts = ["local", 3]',
        'also = "AB-001"',
        'also = ["AB-001", "AB-001"]',
        'dynamic = "false"',
        "dynamic = 1",
    ],
)
def test_what_is_no_list_of_names_and_no_switch_is_refused(entry: str) -> None:
    """A text read as a list is a name for each of its letters: it covers no host, and nothing would be planted."""
    with pytest.raises(CatalogueError, match="controls: one: "):
        parse_controls(f'[one]\nsays = "s"\nrules = "1"\n{entry}\n')


@pytest.mark.parametrize(
    "text",
    [
        "one = 1\n",
        "[one]\nsays = 3\nrules = '1'\n",
        "[one]\nsays = ' '\nrules = '1'\n",
        "[one]\nrules = '1'\n",
        "[one]\nsays = 's'\n",
        "[one]\nsays = 's'\nrules = ''\n",
        "[one]\nsays = 's'\nscript = ['x']\n",
        "[one]\nsays = 's'\npackage = true\n",
        "[one]\nsays = 's'\ndefine = 3\n",
        "[one]\nsays = 's'\nedit = 'x'\n",
    ],
)
def test_what_does_not_say_its_fault_is_refused(text: str) -> None:
    """By the name of the entry, whatever TOML has in the place of a text."""
    with pytest.raises(CatalogueError, match="controls: one: "):
        parse_controls(text)


def test_a_fault_is_planted_only_where_it_can_be_seen() -> None:
    """Elsewhere no clause claims it, so none misses it."""
    (control,) = parse_controls('[always-fails]\nsays = "s"\nrules = "1"\nhosts = ["vm-*"]\n').values()

    assert claims(CATALOGUE, control, "vm-1") == tuple(CATALOGUE)
    assert claims(CATALOGUE, control, "local") == ()
    (by_trait,) = parse_controls(
        '[always-fails]\nsays = "s"\nrules = "1"\nhosts = ["*", "!@cgroup2"]\n'
    ).values()
    assert claims(CATALOGUE, by_trait, "vm-1", ["cgroup2"]) == ()
    assert claims(CATALOGUE, by_trait, "vm-1") == tuple(CATALOGUE)


def edit(**change: object) -> str:
    """Return a control that is an edit of spec.py, with something of it changed."""
    good: dict[str, object] = {"file": "locald/spec.py", "old": "import posixpath\n", "new": "import os\n"}
    entry = good | change
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
    "change",
    [
        {"file": "conformance/clauses.py"},
        {"new": "import posixpath\n"},
        {"line": "1"},
        {"file": 3},
        {"old": ["x"]},
        {"new": False},
    ],
)
def test_what_is_no_edit_of_the_product_is_refused(change: Mapping[str, object]) -> None:
    """The kit itself, no change at all, an unknown member, one that is no text."""
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


def test_a_build_that_is_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else half a shim would be planted from then on, which turns clauses red as if it were the fault."""
    whole, copy = b"a whole shim", shutil.copy

    def build(crate: Path, target: Path, *_: str) -> None:
        del crate
        (target / "release").mkdir(parents=True, exist_ok=True)
        (target / "release" / "locald-shim").write_bytes(whole)

    def cut_off(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "build_crate", build)
    name, changed = next((name, edit) for name, edit in EDITS.items() if edit.is_of_shim)
    monkeypatch.setattr(shutil, "copy", cut_off)
    with pytest.raises(KeyboardInterrupt):
        find_edited(name, changed, tmp_path)
    monkeypatch.setattr(shutil, "copy", copy)

    assert find_edited(name, changed, tmp_path).read_bytes() == whole


def test_a_fault_that_was_cut_off_is_not_called_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is of what was planted: one without a verdict is missed, the one that Ctrl-C ended is not in it."""
    first, second, third = list(read_controls().values())[:3]
    claimed = {control.name: ("AB-001",) for control in (first, second, third)}
    plan = planting.Plan(Place("local", ()), {}, (first, second, third), claimed, ())
    said: dict[str, BaseException | None] = {
        first.name: None,
        second.name: NoReport("it ended early"),
        third.name: KeyboardInterrupt(),
    }

    def judge(control: str, *_: object) -> dict[str, str]:
        if error := said[control]:
            raise error
        return {"AB-001": "FAIL"}

    for name in ("equip", "root", "require_good"):
        monkeypatch.setattr(planting, name, lambda *_, **__: None)
    monkeypatch.setattr(preconditions, "prove", lambda _: [])
    monkeypatch.setattr(vms, "booted", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(planting, "planted", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(planting, "judge", judge)
    arguments = argparse.Namespace(wheel=tmp_path / "x.whl", kit_cache=tmp_path, jobs=1, exact=False)
    verdicts: dict[str, dict[str, str]] = {}
    with pytest.raises(KeyboardInterrupt):
        planting.run(plan, tmp_path, arguments, verdicts)

    assert verdicts == {first.name: {"AB-001": "FAIL"}, second.name: {}}


@pytest.mark.parametrize("tree", ["kit", "planted"])
def test_an_account_of_an_edited_tree_is_good_for_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tree: str
) -> None:
    """Each fault starts the kit anew and is made of the source as it is then: what judged has no name."""
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(make_wheel())
    words = ["controls", f"--wheel={wheel}", f"--report-dir={tmp_path}", "--only=always-fails"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(
        provenance, "describe_kit", lambda: {"sha256": "kit", "revision": "f", "dirty": False}
    )
    digests = {"kit": "kit", "planted": "planted"}
    monkeypatch.setattr(
        provenance,
        "digest_files",
        lambda trees=provenance.TREES: digests["kit" if trees == provenance.TREES else "planted"],
    )

    def run(
        plan: planting.Plan, _place: Path, _arguments: argparse.Namespace, verdicts: dict[str, dict[str, str]]
    ) -> None:
        verdicts |= {name: dict.fromkeys(claimed, "FAIL") for name, claimed in plan.claimed.items()}
        digests[tree] = "edited"

    monkeypatch.setattr(planting, "run", run)

    assert planting.main() == 1
    assert "the tree was changed while faults were planted" in capsys.readouterr().out
    assert json.loads((tmp_path / "controls.json").read_text("utf-8"))["kit"]["dirty"] is True
    digests[tree] = tree
    monkeypatch.setattr(planting, "run", lambda *_: None)
    assert planting.main() == 0
    assert "the tree was changed" not in capsys.readouterr().out


def test_every_control_is_claimed() -> None:
    """What no clause claims is planted for nothing."""
    claimed = {name for clause in read_catalogue().values() for name in clause.controls}
    assert set(read_controls()) - claimed == set()


def test_every_clause_has_a_fault_of_its_own() -> None:
    """Beside programs that do nothing, which are red for a test that looks at an exit code alone."""
    told = REASONS.read_text("utf-8").split("\n## Shown by what does nothing only\n")[1].split("\n## ")[0]
    controls = read_controls()

    def is_idle(name: str, clause: str) -> bool:
        # Red by being there, as every fault of its kind.
        by_kind = WRAPPED if controls[name].define else SCRIPTED if controls[name].script else ()
        return name in IDLE or clause in by_kind

    weak = {
        clause.id
        for clause in read_catalogue().values()
        if all(is_idle(name, clause.id) for name in clause.controls)
    }

    assert weak == set(re.findall(r"^- `([^`]+)`: ", told, re.MULTILINE))


def test_every_rule_is_planted_and_claimed_or_the_reason_is_told() -> None:
    """In decision 0041, in a list of rules; none stands there that is planted."""
    catalogue, controls = read_catalogue(), read_controls()
    claimed = {name for clause in catalogue.values() for name in clause.controls}
    planted = {
        rule for control in controls.values() if control.name in claimed for rule in control.rules.split(",")
    }
    told = REASONS.read_text("utf-8").split("\n## Not claimed\n")[1].split("\n## ")[0]

    assert set(read_rules()) - planted == set(re.findall(r"^- `([^`]+)`: ", told, re.MULTILINE))
