"""The manual's page of the kit's clauses, made from the catalogue: every rule, and which answer which attack."""

import re
from collections import defaultdict
from itertools import groupby

from conformance.clauses import Catalogue, Clause, read_catalogue

# Numbers of the attack catalogue; the one that is missing names verbs which no program of ours has.
ATTACKS = tuple(number for number in range(1, 55) if number != 46)
_CITED = re.compile(r"attacks ((?:\d+(?:, )?)+)")


def find_attacks(clause: Clause) -> set[int]:
    """Return the attacks that a clause answers, as its source says."""
    return {int(word) for found in _CITED.findall(clause.source) for word in re.findall(r"\d+", found)}


def find_answers(catalogue: Catalogue) -> dict[int, list[str]]:
    """Return the clauses that answer each attack."""
    answers = defaultdict(list)
    for clause in catalogue.values():
        for number in find_attacks(clause):
            answers[number].append(clause.id)
    return answers


def clause_page() -> str:
    """Return the page."""
    catalogue = read_catalogue()
    lines = [
        "# Clauses",
        "",
        "Made from `conformance/catalogue/` by `python -m tests.manual`. What the conformance kit judges on every",
        "host; how one is written: [writing a clause](../guides/writing-a-clause.md). The last column counts the",
        "planted faults that must turn the clause red.",
        "",
        f"{len(catalogue)} clauses.",
        "",
    ]
    for family, clauses in groupby(catalogue.values(), key=lambda clause: clause.family):
        lines += [
            f"## {family}",
            "",
            "| clause | level | rule | seen by | hosts | controls |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(clause) for clause in clauses]
        lines += [""]
    return "\n".join([*lines, *_attack_lines(catalogue)])


def _row(clause: Clause) -> str:
    cells = (
        f"`{clause.id}`",
        clause.level,
        clause.statement,
        clause.observable,
        " ".join(clause.profiles).replace("*", "\\*"),
        str(len(clause.controls)),
    )
    return f"| {' | '.join(cells)} |"


def _attack_lines(catalogue: Catalogue) -> list[str]:
    answers = find_answers(catalogue)
    lines = [
        "## Attacks",
        "",
        "Numbers are those of the attack catalogue that the project keeps",
        "([security](../architecture/security.md#the-rules)). Each `ATK` clause makes the attack and a benign twin of",
        "it in every mode where it applies, as a user with subordinate ids and as one without, and compares the",
        "machine before and after: canaries of root's, mounts, settings, names, processes, cgroups. 46 names verbs",
        "that do not exist.",
        "",
        "| attack | answered by |",
        "|---|---|",
    ]
    lines += [f"| {number} | {', '.join(f'`{name}`' for name in answers[number])} |" for number in ATTACKS]
    return [*lines, ""]
