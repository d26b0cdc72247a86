"""The report for a terminal: the matrix, what to look at and how to see it again, and where the time went."""

import shlex
from collections.abc import Iterator

from conformance.rendering.lines import count_things, make_line
from conformance.report import Json
from conformance.verdicts import GREEN, Verdict

SLOWEST = 5
NAMES_CHARS = 90
# A line for each INVALID clause would hide the one cause of all.
QUIET = frozenset({"PASS", "NOT-APPLICABLE", "INVALID"})


def summarise(report: Json) -> list[str]:
    """Return the lines of the terminal summary: families of clauses down, profiles across, then what to look at."""
    profiles = report["profiles"]
    names = [profile["profile"] for profile in profiles]
    # Numbers stand for names where a terminal is too narrow for a row of them.
    short = len("  ".join(names)) > NAMES_CHARS
    heads = [f"[{number}]" for number, _ in enumerate(names, 1)] if short else names
    counts = [count_families(profile) for profile in profiles]
    families = sorted({family for counted in counts for family in counted})
    rows = [["", *heads]]
    rows += [[family, *(describe_count(counted.get(family)) for counted in counts)] for family in families]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) + 1)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    for head, profile in zip(heads, profiles, strict=True):
        first, *rest = describe_profile(profile)
        lines += [f"{head} {first}" if short else first, *rest]
    lines += [line for account in report.get("controls", ()) for line in describe_account(account)]
    return [make_line(line) for line in lines]


def describe_account(account: Json) -> Iterator[str]:
    """Yield what the faults planted on one host showed of the clauses themselves."""
    missed, unproven = account["missed"], account["unproven"]
    yield (
        f"planted faults: {len(account['verdicts'])} on {account['profile']}, {len(missed)} missed, "
        f"{count_things(len(unproven), 'clause')} unproven"
    )
    for claim in missed:
        yield f"  missed: {claim['control']} did not turn {claim['clause']} red"
    if unproven:
        yield f"  unproven: {', '.join(unproven)}"


def count_families(profile: Json) -> dict[str, tuple[int, int]]:
    """Return for each family of clauses how many are green and how many there are."""
    found: dict[str, tuple[int, int]] = {}
    for clause in profile["clauses"]:
        if clause["verdict"] == Verdict.NOT_APPLICABLE:
            continue
        family = clause["id"].rpartition("-")[0]
        green, total = found.get(family, (0, 0))
        found[family] = green + (clause["verdict"] in GREEN), total + 1
    return found


def describe_count(counted: tuple[int, int] | None) -> str:
    """Return a cell: what is green of what there is, which stands out where the two differ."""
    if counted is None:
        return "-"
    green, total = counted
    return str(total) if green == total else f"{green} of {total}"


def describe_profile(profile: Json) -> Iterator[str]:
    """Yield what a person should know of one profile."""
    yield from map(make_line, _describe_profile(profile))


def _describe_profile(profile: Json) -> Iterator[str]:
    totals = ", ".join(f"{count} {verdict}" for verdict, count in profile["totals"].items())
    state = "green" if profile["green"] else "NOT green"
    part = "" if profile["complete"] else " (a selection of clauses)"
    clauses = count_things(sum(profile["totals"].values()), "clause")
    yield f"{profile['profile']}: {state}{part}: {clauses}: {totals}"
    for when in ("before", "after"):
        for proof in profile["preconditions"][when]:
            if not proof["proven"]:
                yield f"  precondition {when} not proven: {proof['name']}: {proof['observed']}"
    if (boots := profile["subject"].get("boots", "1")) != "1":
        yield f"  booted {boots} times: the one before did not reach ssh"
    for error in profile["errors"]:
        yield f"  error: {error}"
    if denials := profile["logs"].get("denials"):
        told = count_things(denials, "denial")
        yield f"  {told} in the logs of the host; each is with the evidence of its clause"
    for clause in profile["clauses"]:
        if clause["verdict"] not in QUIET:
            yield f"  {clause['verdict']} {clause['id']} ({clause['level']}): {clause['reason']}"
            yield f"    again: {make_reproducer(profile, clause['id'])}"


def make_reproducer(profile: Json, clause: str) -> str:
    """Return the one command that judges `clause` again on the same host, in the same order."""
    words = ["--profile", profile["profile"], "--clause", clause, "--seed", str(profile["seed"])]
    if profile["runtime"] != "locald-shim":
        words += ["--runtime", profile["runtime"]]
    return f"ci/nox -s conformance -- {shlex.join(words)}"


def describe_time(profile: Json) -> list[str]:
    """Return where the time of a profile went: its phases, and the clauses that took longest."""
    timing = profile["timing"]
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timing.items() if name != "all")
    lines = [f"time: {timing['all']:.0f} s: {phases}" if "all" in timing else f"time: {phases}"]
    spent = sorted(
        (
            (
                sum(attempt["duration_s"] for test in clause["tests"] for attempt in test["attempts"]),
                clause["id"],
            )
            for clause in profile["clauses"]
        ),
        reverse=True,
    )[:SLOWEST]
    if spent:
        lines.append("slowest clauses: " + ", ".join(f"{name} {seconds:.1f} s" for seconds, name in spent))
    return [make_line(line) for line in lines]
