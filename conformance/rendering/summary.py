"""The report for a terminal: the matrix, what to look at and how to see it again, and where the time went."""

import shlex
from collections.abc import Iterator

from conformance.report import Json

SLOWEST = 5
QUIET = frozenset({"PASS", "INVALID"})  # a line for each INVALID clause would hide the one cause of all


def summarise(report: Json) -> list[str]:
    """Return the lines of the terminal summary: clauses down, profiles across, then what to look at."""
    profiles = report["profiles"]
    names = [profile["profile"] for profile in profiles]
    verdicts = {
        (clause["id"], profile["profile"]): clause["verdict"]
        for profile in profiles
        for clause in profile["clauses"]
    }
    ids = sorted({clause for clause, _ in verdicts})
    width = max((len(name) for name in names), default=0)
    lines = [f"{'':12} " + "  ".join(f"{name:{width}}" for name in names)]
    lines += [
        f"{clause:12} " + "  ".join(f"{verdicts.get((clause, name), '-'):{width}}" for name in names)
        for clause in ids
    ]
    for profile in profiles:
        lines += describe_profile(profile)
    return lines


def describe_profile(profile: Json) -> Iterator[str]:
    """Yield what a person should know of one profile."""
    totals = ", ".join(f"{count} {verdict}" for verdict, count in profile["totals"].items())
    state = "green" if profile["green"] else "NOT green"
    part = "" if profile["complete"] else " (a selection of clauses)"
    yield f"{profile['profile']}: {state}{part}: {sum(profile['totals'].values())} clauses: {totals}"
    for when in ("before", "after"):
        for proof in profile["preconditions"][when]:
            if not proof["proven"]:
                yield f"  precondition {when} not proven: {proof['name']}: {proof['observed']}"
    for error in profile["errors"]:
        yield f"  error: {error}"
    if denials := profile["logs"].get("denials"):
        yield f"  {denials} denials in the logs of the host; each is with the evidence of its clause"
    for clause in profile["clauses"]:
        if clause["verdict"] not in QUIET:
            yield f"  {clause['verdict']} {clause['id']} ({clause['level']}): {clause['reason']}"
            yield f"    again: {make_reproducer(profile, clause['id'])}"


def make_reproducer(profile: Json, clause: str) -> str:
    """Return the one command that judges `clause` again on the same host, in the same order."""
    words = ["--clause", clause, "--seed", str(profile["seed"])]
    if profile["runtime"] != "locald-shim":
        words += ["--runtime", profile["runtime"]]
    session = shlex.quote(f"conformance({profile['profile']})")
    return f"ci/nox -s {session} -- {shlex.join(words)}"


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
    return lines
