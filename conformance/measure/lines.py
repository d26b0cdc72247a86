"""Lines that were reached, by source: read from lcov traces, put beside each other, and listed where nobody came.

Pure. A source is the fast tests, or the clauses on one profile. Form of a trace: geninfo(1).
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, Final

SCHEMA: Final = "locald-coverage/2"
TESTS: Final = "tests"
# Where it is decided what a caller may do, and what of it a bundle says: every line of these is accounted for.
DECISIONS: Final = (
    "shim/src/policy.rs",
    "shim/src/policy/*.rs",
    "shim/src/plan.rs",
    "locald/spec.py",
)
# Compiled for `cargo test` alone.
UNIT_TESTS: Final = "*/tests.rs"

# By file and number: whether a line that can be reached was.
Lines = Mapping[str, Mapping[int, bool]]


def parse_trace(trace: str) -> dict[str, dict[int, bool]]:
    """Return what an lcov trace says of each file."""
    found: dict[str, dict[int, bool]] = {}
    name = ""
    for line in trace.splitlines():
        kind, _, value = line.partition(":")
        if kind == "SF":
            name = value
            found.setdefault(name, {})
        elif kind == "DA":
            number, count, *_ = value.split(",")
            found[name][int(number)] = found[name].get(int(number), False) or int(count) > 0
    return found


def join(parts: Iterable[Lines]) -> dict[str, dict[int, bool]]:
    """Return the lines that any of `parts` knows, reached if any reached them."""
    joined: dict[str, dict[int, bool]] = {}
    for part in parts:
        for name, lines in part.items():
            mine = joined.setdefault(name, {})
            for number, reached in lines.items():
                mine[number] = mine.get(number, False) or reached
    return joined


def is_decision(name: str) -> bool:
    """Say whether a file is one of those whose unreached lines are listed."""
    return any(fnmatch(name, pattern) for pattern in DECISIONS)


def find_lost(clauses: Mapping[str, Lines], tree: Iterable[str]) -> list[str]:
    """Return what the list of the decisions would leave out without a word, a line each.

    Args:
        clauses: What the clauses reached on each host.
        tree: The names of the source files.
    """
    decisions = [name for name in sorted(tree) if is_decision(name) and not fnmatch(name, UNIT_TESTS)]
    faults = [
        f"no file is called {pattern}, whose lines decide"
        for pattern in DECISIONS
        if not any(fnmatch(name, pattern) for name in decisions)
    ]
    faults += [
        f"{host}: nothing was counted of {name}, whose lines decide"
        for host, lines in clauses.items()
        for name in decisions
        if not lines.get(name)
    ]
    return faults if clauses else []


def make_document(
    sources: Mapping[str, Lines], facts: Mapping[str, Mapping[str, Any]], faults: Sequence[str], date: str
) -> dict[str, Any]:
    """Return the report for programs.

    Args:
        sources: What each source reached.
        facts: What else is known of a source: how many clauses ran, which were red, how many processes told.
        faults: What was not measured, and why.
        date: When.
    """
    everything = join(sources.values())
    clauses = join(lines for name, lines in sources.items() if name != TESTS)
    files = {}
    for name in sorted(everything):
        numbers = everything[name]
        files[name] = {
            "lines": len(numbers),
            "reached": sum(numbers.values()),
            "reached_by": {
                source: sum(lines[name].values()) for source, lines in sources.items() if name in lines
            },
            "unreached_by_clauses": find_unreached(clauses, everything, name) if clauses else None,
        }
    return {
        "schema": SCHEMA,
        "date": date,
        "says": "measured builds: no verdict on any product",
        "sources": {name: dict(facts.get(name, {})) for name in sources},
        "faults": list(faults),
        "files": files,
    }


def find_unreached(clauses: Lines, everything: Lines, name: str) -> list[int]:
    """Return the lines of a file that can be reached and that no clause reached."""
    reached = clauses.get(name, {})
    return [number for number in sorted(everything[name]) if not reached.get(number, False)]


def describe_files(document: Mapping[str, Any]) -> list[str]:
    """Return a line a file, the least reached last, where a terminal still shows it."""
    sources = list(document["sources"])
    rows = sorted(
        document["files"].items(), key=lambda item: (-item[1]["reached"] / max(1, item[1]["lines"]), item[0])
    )
    lines = [f"{'reached':>7} {'lines':>6}  {'  '.join(f'{source:>16}' for source in sources)}  file"]
    for name, file in rows:
        each = "  ".join(
            f"{_percent(file['reached_by'].get(source), file['lines']):>16}" for source in sources
        )
        lines.append(f"{_percent(file['reached'], file['lines']):>7} {file['lines']:>6}  {each}  {name}")
    return lines


def describe_decisions(document: Mapping[str, Any], texts: Mapping[str, list[str]]) -> list[str]:
    """Return the lines of the decisions that no clause reached, with their text, and how many there are in all.

    Args:
        document: See `make_document`.
        texts: The lines of each source file.
    """
    shown, summary, total, missing = [], [], 0, 0
    for name, file in document["files"].items():
        if not is_decision(name):
            continue
        unreached = file["unreached_by_clauses"]
        total, missing = total + file["lines"], missing + len(unreached)
        shown += [f"{name}:{number}: {texts[name][number - 1].strip()}" for number in unreached]
        summary.append(
            f"{name}: {file['lines'] - len(unreached)} of {file['lines']} lines reached by clauses"
        )
    return [*shown, *summary, f"decisions: {total - missing} of {total} lines reached by clauses"]


def _percent(reached: int | None, lines: int) -> str:
    return "-" if reached is None else f"{100 * reached / max(1, lines):.0f} %"
