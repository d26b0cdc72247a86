"""Turn what the tests said into one report: JSON for programs, JUnit for CI, a matrix for a person.

Pure but for `write_report`. The schema is `SCHEMA`; every change of meaning gets a new number.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET  # writes only

from conformance.clauses import Catalogue
from conformance.verdicts import Outcome, Verdict, is_green, reduce_attempts, reduce_clause
from conformance.waivers import Waiver, find_waiver

SCHEMA: Final = "locald-conformance-report/1"

Json = dict[str, Any]


class ReportError(Exception):
    """A report on disk is not one of ours, or of another run."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of one test."""

    outcome: Outcome
    duration_s: float
    # Why it did not pass, in a line or a few; empty when it passed.
    message: str = ""
    # What was asked of the host and what it said, in the order it happened.
    evidence: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class TestRecord:
    """One test of a clause with its attempts."""

    __test__ = False

    clause: str
    node: str
    attempts: tuple[Attempt, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the one reduction of the attempts."""
        return reduce_attempts([attempt.outcome for attempt in self.attempts])


@dataclass(frozen=True, slots=True)
class Proof:
    """One fact a profile claims about its host, and what the host showed."""

    name: str
    proven: bool
    observed: str


@dataclass(frozen=True, slots=True)
class ProfileRun:
    """Everything one process learnt on one host."""

    profile: str
    started: str  # ISO 8601, UTC
    finished: str
    seed: int
    runtime: str
    # File names with digests, versions, kernel: what the verdicts hold for.
    subject: Mapping[str, str]
    before: tuple[Proof, ...]
    after: tuple[Proof, ...]
    records: tuple[TestRecord, ...]
    # What went wrong outside of any test, such as a wheel that does not install.
    errors: tuple[str, ...] = ()
    # Ids of the clauses the run was asked for; None for all that apply.
    selected: tuple[str, ...] | None = None
    timing: Mapping[str, float] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Say whether the host was proven to be what the profile says, before and after."""
        return (
            bool(self.before)
            and bool(self.after)
            and all(proof.proven for proof in (*self.before, *self.after))
        )


def make_profile(run: ProfileRun, catalogue: Catalogue, waivers: Sequence[Waiver]) -> Json:
    """Return the part of the report that is about one profile."""
    by_clause: dict[str, list[TestRecord]] = {}
    for record in run.records:
        by_clause.setdefault(record.clause, []).append(record)
    wanted = catalogue if run.selected is None else run.selected
    clauses: list[Json] = []
    for clause in (catalogue[name] for name in wanted):
        if not clause.applies_to(run.profile):
            continue
        records = by_clause.get(clause.id, [])
        waiver = find_waiver(waivers, clause.id, run.profile)
        verdict = reduce_clause(
            [record.verdict for record in records], waived=waiver is not None, preconditions_proven=run.proven
        )
        clauses.append(
            {
                "id": clause.id,
                "level": clause.level,
                "statement": clause.statement,
                "source": clause.source,
                "verdict": str(verdict),
                "reason": _reason(verdict, records, run, waiver),
                "tests": [
                    {
                        "node": record.node,
                        "verdict": str(record.verdict),
                        "passed": sum(attempt.outcome is Outcome.PASSED for attempt in record.attempts),
                        "attempts": [
                            {
                                "outcome": str(attempt.outcome),
                                "duration_s": round(attempt.duration_s, 3),
                                "message": attempt.message,
                                "evidence": list(attempt.evidence),
                            }
                            for attempt in record.attempts
                        ],
                    }
                    for record in records
                ],
            }
        )
    must = [Verdict(clause["verdict"]) for clause in clauses if clause["level"] == "MUST"]
    return {
        "profile": run.profile,
        "started": run.started,
        "finished": run.finished,
        "seed": run.seed,
        "runtime": run.runtime,
        "subject": dict(run.subject),
        "preconditions": {
            "proven": run.proven,
            "before": [asdict(proof) for proof in run.before],
            "after": [asdict(proof) for proof in run.after],
        },
        "errors": list(run.errors),
        "complete": run.selected is None,
        "green": is_green(must, preconditions_proven=run.proven) and not run.errors,
        "totals": count_verdicts(clause["verdict"] for clause in clauses),
        "timing": {name: round(seconds, 1) for name, seconds in run.timing.items()},
        "clauses": clauses,
    }


def merge_report(report: Json | None, run_id: str, profile: Json) -> Json:
    """Return `report` with `profile` put in, in place of an earlier result of that profile.

    Raises:
        ReportError: `report` has another schema or belongs to another run.
    """
    if report is None:
        report = {"schema": SCHEMA, "run": run_id, "green": False, "profiles": []}
    if report.get("schema") != SCHEMA or report.get("run") != run_id:
        message = f"not a report of run {run_id} with schema {SCHEMA}"
        raise ReportError(message)
    others = [other for other in report["profiles"] if other["profile"] != profile["profile"]]
    profiles = sorted([*others, profile], key=lambda entry: str(entry["profile"]))
    return {**report, "profiles": profiles, "green": all(entry["green"] for entry in profiles)}


def make_junit(report: Json) -> bytes:
    """Return the report in JUnit's XML: a suite a profile, a case a clause."""
    root = ET.Element("testsuites", name=f"conformance {report['run']}")
    for profile in report["profiles"]:
        cases = profile["clauses"]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=profile["profile"],
            timestamp=profile["started"],
            tests=str(len(cases)),
            failures=str(sum(case["verdict"] in {"FAIL", "FLAKY"} for case in cases)),
            errors=str(sum(case["verdict"] in {"ERROR", "MISSING", "INVALID"} for case in cases)),
        )
        for case in cases:
            seconds = sum(attempt["duration_s"] for test in case["tests"] for attempt in test["attempts"])
            element = ET.SubElement(
                suite,
                "testcase",
                classname=f"{profile['profile']}.{case['id'].partition('-')[0]}",
                name=f"{case['id']} {case['statement']}",
                time=f"{seconds:.3f}",
            )
            if case["verdict"] in {"PASS", "WAIVED"}:
                continue
            kind = "failure" if case["verdict"] in {"FAIL", "FLAKY"} else "error"
            mark = ET.SubElement(element, kind, type=case["verdict"], message=_printable(case["reason"]))
            mark.text = _printable("\n".join(_messages(case)))
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def write_report(directory: Path, profile: Json) -> Json:
    """Put `profile` into `directory`/report.json and junit.xml, and return the whole report.

    Safe against processes of other profiles that write the same run: one lock, each file renamed into place.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        path = directory / "report.json"
        earlier = json.loads(path.read_text("utf-8")) if path.exists() else None
        report = merge_report(earlier, directory.name, profile)
        _replace(
            path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        )
        _replace(directory / "junit.xml", make_junit(report))
    return report


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
        totals = ", ".join(f"{count} {verdict}" for verdict, count in profile["totals"].items())
        state = "green" if profile["green"] else "NOT green"
        part = "" if profile["complete"] else " (a selection of clauses)"
        lines.append(
            f"{profile['profile']}: {state}{part}: {sum(profile['totals'].values())} clauses: {totals}"
        )
        lines += [
            f"  precondition {when} not proven: {proof['name']}: {proof['observed']}"
            for when in ("before", "after")
            for proof in profile["preconditions"][when]
            if not proof["proven"]
        ]
        lines += [f"  error: {error}" for error in profile["errors"]]
        lines += [
            f"  {clause['verdict']} {clause['id']} ({clause['level']}): {clause['reason']}\n"
            f"    again: pytest conformance --profile={profile['profile']} --clause={clause['id']}"
            + (f" --runtime={profile['runtime']}" if profile["runtime"] != "locald-shim" else "")
            for clause in profile["clauses"]
            if clause["verdict"] not in {"PASS", "INVALID"}
        ]
    return lines


def count_verdicts(verdicts: Iterable[str]) -> dict[str, int]:
    """Return how many there are of each verdict that occurs, in the order of gravity."""
    found = list(verdicts)
    return {str(verdict): found.count(verdict) for verdict in Verdict if verdict in found}


def _reason(verdict: Verdict, records: Sequence[TestRecord], run: ProfileRun, waiver: Waiver | None) -> str:
    match verdict:
        case Verdict.PASS:
            return ""
        case Verdict.INVALID:
            faults = [proof.name for proof in (*run.before, *run.after) if not proof.proven]
            return f"not proven: {', '.join(dict.fromkeys(faults)) or 'no precondition was looked at'}"
        case Verdict.MISSING:
            return "no test of this clause ran"
        case Verdict.WAIVED if waiver is not None:
            return f"until {waiver.until} ({waiver.owner}): {waiver.reason}"
        case _:
            bad = next(record for record in records if record.verdict is verdict)
            passed = sum(attempt.outcome is Outcome.PASSED for attempt in bad.attempts)
            odds = f"passed {passed} of {len(bad.attempts)}: " if verdict is Verdict.FLAKY else ""
            message = next((attempt.message for attempt in bad.attempts if attempt.message), "")
            return odds + message.strip().partition("\n")[0]


def _messages(case: Json) -> Iterator[str]:
    for test in case["tests"]:
        for attempt in test["attempts"]:
            if attempt["message"]:
                yield f"{test['node']}\n{attempt['message']}"


def _printable(text: str) -> str:
    """Replace what XML 1.0 cannot hold; a payload may print anything."""
    shown = text.encode(errors="backslashreplace").decode()
    return "".join(char if char >= " " or char in "\t\n" else "\N{REPLACEMENT CHARACTER}" for char in shown)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
