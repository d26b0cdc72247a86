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


def load_cases() -> None:
    """Fill CASES: each chapter registers its own when it is imported."""
    for chapter in CHAPTERS:
        importlib.import_module(f"tests.shim.cases.{chapter}")


def make_table() -> str:
    """Return the table: rule, what it says, its case, what comes of the attack, whether a mutant shows it."""
    load_cases()
    lines = ["| rule | says | case in tests/shim/test_rules.py | outcome | mutant |", "|---|---|---|---|---|"]
    for rule, says in read_rules().items():
        # A case may name a number only, where it attacks all checks of that number at once.
        number = rule.split("-")[0]
        cases = [case for case in CASES if case.rule in {rule, number}]
        lines.extend(_line(rule, says, case) for case in cases)
        if not cases:
            lines.append(f"| {rule} | {says} | none | | |")
    return "\n".join(lines) + "\n"


def _line(rule: str, says: str, case: Case) -> str:
    outcome = f"`{case.code}`" if case.code else "as the case says"
    mutant = "red" if not case.unbreakable else f"none: {case.unbreakable}"
    return f"| {rule} | {says} | `{case.id}` ({', '.join(case.modes)}) | {outcome} | {mutant} |"


def write_page(text: str) -> str:
    """Return the page `text` with today's table between its marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + make_table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(write_page(PAGE.read_text("utf-8")), "utf-8")
