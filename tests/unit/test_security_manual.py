"""The security manual lists every rule with its case, as they are today."""

import re
import tomllib
from pathlib import Path

import pytest

from ci.fuzz import PLANTS, TARGETS
from tests.shim.cases import CASES
from tests.shim.manual import PAGE, load_cases, make_table, read_rules, write_page

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "docs" / "manual"
PAST = MANUAL / "reference" / "past-vulnerabilities.md"
LEAST_PAST = 60
PROGRAMS = {
    "runc",
    "crun",
    "bubblewrap",
    "Apptainer",
    "firejail",
    "sudo",
    "polkit",
    "snap-confine",
    "util-linux",
    "shadow",
}
SHIM = ROOT / "shim" / "src"
# What the fuzzer can reach: parsers and decisions that make no system call.
PURE = ("accounts", "config", "json", "policy", "policy_file", "request", "subids")
ROW = re.compile(r"^\| (CVE-\d{4}-\d{4,}) \| ([^|]+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def test_the_table_is_todays() -> None:
    """Else: `python -m tests.shim.manual`."""
    page = PAGE.read_text("utf-8")
    assert page == write_page(page)


def test_every_rule_has_a_case() -> None:
    """A rule that nothing attacks is a claim without evidence."""
    assert "| none |" not in make_table()


def find_clauses() -> set[str]:
    """Return the ids of all clauses of the kit's catalogue."""
    pages = (ROOT / "conformance" / "catalogue").glob("*.toml")
    return {clause for page in pages for clause in tomllib.loads(page.read_text("utf-8"))}


def find_unknown(text: str) -> list[str]:
    """Return the names between backquotes that are no case, rule, clause, target of the fuzzer or file of tests."""
    load_cases()
    known = {case.id for case in CASES} | set(read_rules()) | {case.rule for case in CASES}
    known |= find_clauses() | {f"fuzz:{target}" for target in TARGETS}
    known |= {path.stem for path in (ROOT / "tests" / "shim").glob("test_*.py")}
    return [name for name in re.findall(r"`([^`]+)`", text) if name not in known]


def test_every_past_vulnerability_is_covered_by_what_exists() -> None:
    """Of each of the programs that are like this one; each once, with what covers it, else with why it is not here."""
    page = PAST.read_text("utf-8")
    rows, others = (ROW.findall(part) for part in page.split("\n## What does not apply\n"))
    assert len(rows) + len(others) == page.count("\n| CVE-")
    assert len(rows) >= LEAST_PAST
    assert len({row[0] for row in rows + others}) == len(rows + others)
    assert {row[1].split(" (")[0] for row in rows} >= PROGRAMS
    for cve, _, covered in rows:
        assert "`" in covered, cve
    for cve, _, why in rows + others:
        assert find_unknown(why) == [], cve


@pytest.mark.parametrize("text", ["`99`", "`BUNDLE-999`", "`fuzz:nothing`", "`16`, `23-nowhere`"])
def test_what_does_not_exist_is_seen(text: str) -> None:
    """The check above can fail."""
    assert find_unknown(text) != []


def test_each_guarantee_names_its_clauses() -> None:
    """Numbered guarantees of the security page end with clauses that exist."""
    page = PAGE.read_text("utf-8").split("## What is guaranteed", 1)[1].split("## What is not", 1)[0]
    guarantees = re.split(r"^\d+\. ", page, flags=re.MULTILINE)[1:]
    assert guarantees
    for guarantee in guarantees:
        named = re.findall(r"`([A-Z]+-\d{3})`", guarantee)
        assert named, guarantee
        assert set(named) <= find_clauses(), guarantee


def test_the_planted_defects_are_rules() -> None:
    """What the fuzzer must find is named as the shim names it."""
    names = set(read_rules())
    assert set(PLANTS) == set(TARGETS)
    assert {rule for rules in PLANTS.values() for rule in rules} <= names


def find_pure_rules() -> set[str]:
    """Return the names of the rules that a pure module of the shim enforces."""
    names = dict(re.findall(r'^ +(\w+) = "([^"]+)", "', (SHIM / "rules.rs").read_text("utf-8"), re.MULTILINE))
    sources = [path for module in PURE for path in (SHIM / f"{module}.rs", *SHIM.glob(f"{module}/**/*.rs"))]
    text = "\n".join(path.read_text("utf-8") for path in sources if path.name != "tests.rs")
    return {names[rule] for rule in re.findall(r"\bRule::(\w+)", text)}


def test_every_rule_of_a_pure_module_is_planted() -> None:
    """A rule that the fuzzer could miss without anybody's noticing is not fuzzed."""
    assert find_pure_rules() == {rule for rules in PLANTS.values() for rule in rules}


def test_every_number_has_a_benign_twin() -> None:
    """Else a rule could be kept by refusing whatever comes near it."""
    load_cases()
    numbers = {case.rule.partition("-")[0] for case in CASES}
    assert numbers - {case.rule.partition("-")[0] for case in CASES if case.twin} == set()
