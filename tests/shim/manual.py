"""The table of rules in the security manual: `python -m tests.shim.manual` writes it into the page.

Made from shim/src/rules.rs (what a rule says) and from the cases (what attacks it), so neither can be forgotten.
"""

import importlib
import re
from pathlib import Path

from tests.shim.cases import CASES, CHAPTERS, Case

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "manual" / "architecture" / "security.md"
BEGIN, END = "<!-- rules: begin -->\n", "<!-- rules: end -->"


def read_rules() -> dict[str, str]:
    """Return what each rule says, by its name, in the order of rules.rs."""
    source = (ROOT / "shim" / "src" / "rules.rs").read_text("utf-8")
    return dict(re.findall(r'^    \w+ = "([^"]+)", "([^"]+)";$', source, re.MULTILINE))


def read_places() -> dict[str, list[str]]:
    """Return where the shim asks for each rule, by its name: `file.rs` and the function, without plants and tests."""
    source = (ROOT / "shim" / "src" / "rules.rs").read_text("utf-8")
    names = dict(re.findall(r'^    (\w+) = "([^"]+)", "[^"]+";$', source, re.MULTILINE))
    places: dict[str, list[str]] = {name: [] for name in names.values()}
    for path in sorted((ROOT / "shim" / "src").rglob("*.rs")):
        if path.name in {"rules.rs", "plants.rs", "tests.rs"}:
            continue
        function = ""
        for line in path.read_text("utf-8").split("#[cfg(test)]\nmod tests", 1)[0].splitlines():
            found = re.match(r"\s*(?:pub(?:\(\w+\))? )?(?:const )?fn (\w+)", line)
            function = found[1] if found else function
            for rule in re.findall(r"\bRule::(\w+)", line):
                place = f"`{path.relative_to(ROOT / 'shim' / 'src')}` {function}".rstrip()
                if place not in places[names[rule]]:
                    places[names[rule]].append(place)
    return places


def load_cases() -> None:
    """Fill CASES: each chapter registers its own when it is imported."""
    for chapter in CHAPTERS:
        importlib.import_module(f"tests.shim.cases.{chapter}")


def make_table() -> str:
    """Return the table: rule, what it says, where, its case, what comes of the attack, whether a mutant shows it."""
    load_cases()
    lines = [
        "| rule | says | where in shim/src | case in tests/shim/test_rules.py | outcome | mutant |",
        "|---|---|---|---|---|---|",
    ]
    places = read_places()
    for rule, says in read_rules().items():
        # A case may name a number only, where it attacks all checks of that number at once.
        number = rule.split("-")[0]
        cases = [case for case in CASES if case.rule in {rule, number}]
        where = "; ".join(places[rule]) or "by a fault planted in `plants.rs` only"
        lines.extend(_line(rule, says, where, case) for case in cases)
        if not cases:
            lines.append(f"| {rule} | {says} | {where} | none | | |")
    numbers = {rule.split("-")[0] for rule in places}
    known = {*places, *numbers}
    unknown = sorted((case for case in CASES if case.rule not in known), key=lambda case: case.rule)
    lines.extend(_line(case.rule, "There is no such verb.", "nowhere", case) for case in unknown)
    return "\n".join(lines) + "\n"


def _line(rule: str, says: str, where: str, case: Case) -> str:
    outcome = f"`{case.code}`" if case.code else "as the case says"
    mutant = "red" if not case.unbreakable else f"none: {case.unbreakable}"
    return f"| {rule} | {says} | {where} | `{case.id}` ({', '.join(case.modes)}) | {outcome} | {mutant} |"


def write_page(text: str) -> str:
    """Return the page `text` with today's table between its marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + make_table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(write_page(PAGE.read_text("utf-8")), "utf-8")
