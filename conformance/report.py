"""Turn what the tests said into one report, and join the reports of several hosts.

Pure. The form of a report is `report.schema.json`; every change of meaning gets a new number. Files, JUnit, the page
and the terminal are `report_files` and `rendering`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from conformance.clauses import Catalogue, Clause
from conformance.reason import tell_reason
from conformance.verdicts import Outcome, Verdict, is_green, reduce_attempts, reduce_clause
from conformance.waivers import Waiver, find_waiver

SCHEMA: Final = "locald-conformance-report/5"
GONE: Final = "the guest was gone before the end of the run"

Json = dict[str, Any]


class ReportError(Exception):
    """A report on disk is not one of ours, or does not belong to the others."""


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

    @property
    def passed(self) -> int:
        """Return how many of the attempts passed."""
        return sum(attempt.outcome is Outcome.PASSED for attempt in self.attempts)


@dataclass(frozen=True, slots=True)
class Proof:
    """One fact a profile claims about its host, and what the host showed."""

    name: str
    proven: bool
    observed: str
    says: str = ""
    command: tuple[str, ...] = ()
    user: str = ""
    expected: str = ""
    exit_code: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HostState:
    """What of a host must be the same after the clauses: looked at once before them and once after."""

    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    after: Mapping[str, Sequence[str]] = field(default_factory=dict)


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
    # Which kit judged: its commit, whether it was changed since, and the digest of its files.
    kit: Mapping[str, Any] = field(default_factory=dict)
    # What went wrong outside of any test, such as a wheel that does not install.
    errors: tuple[str, ...] = ()
    # Of the profile: what clauses are chosen by besides its name.
    traits: tuple[str, ...] = ()
    # Ids of the clauses the run was asked for; None for all that apply.
    selected: tuple[str, ...] | None = None
    # Whether cases of those clauses were left out.
    narrowed: bool = False
    # Whether the guest was gone at the end, so that nobody could look at the host again.
    lost: bool = False
    timing: Mapping[str, float] = field(default_factory=dict)
    host: HostState = field(default_factory=HostState)
    # How many lines the guest's logs had in the run, and how many of them are denials.
    logs: Mapping[str, int] = field(default_factory=dict)

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
    clauses = [
        _make_clause(clause, by_clause.get(clause.id, []), run, find_waiver(waivers, clause.id, run.profile))
        for clause in (catalogue[name] for name in wanted)
        if clause.applies_to(run.profile, run.traits)
    ]
    must = [Verdict(clause["verdict"]) for clause in clauses if clause["level"] == "MUST"]
    return {
        "profile": run.profile,
        "started": run.started,
        "finished": run.finished,
        "seed": run.seed,
        "runtime": run.runtime,
        "kit": dict(run.kit),
        "subject": dict(run.subject),
        "preconditions": {
            "proven": run.proven,
            "before": [_listed(proof) for proof in run.before],
            "after": [_listed(proof) for proof in run.after],
        },
        "host": {
            "before": {name: list(lines) for name, lines in run.host.before.items()},
            "changes": find_changes(run.host),
        },
        "logs": dict(run.logs),
        "errors": list(run.errors),
        "complete": run.selected is None and not run.narrowed,
        "green": is_green(must, preconditions_proven=run.proven) and not run.errors,
        "totals": count_verdicts(clause["verdict"] for clause in clauses),
        "timing": {name: round(seconds, 1) for name, seconds in run.timing.items()},
        "clauses": clauses,
    }


def _make_clause(
    clause: Clause, records: Sequence[TestRecord], run: ProfileRun, waiver: Waiver | None
) -> Json:
    if run.lost and clause.is_about(run.runtime):
        verdict = Verdict.ERROR
    elif clause.is_about(run.runtime):
        found = [record.verdict for record in records]
        verdict = reduce_clause(found, waived=waiver is not None, preconditions_proven=run.proven)
    else:
        verdict = Verdict.NOT_APPLICABLE
    made: Json = {
        "id": clause.id,
        "level": clause.level,
        "statement": clause.statement,
        "observable": clause.observable,
        "source": clause.source,
        "verdict": str(verdict),
        "reason": GONE if run.lost else _reason(verdict, records, run, waiver),
        "tests": [
            {
                "node": record.node,
                "verdict": str(record.verdict),
                "passed": record.passed,
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
    if verdict is Verdict.WAIVED and waiver is not None:
        made["waiver"] = waiver.describe()
    return made


def find_changes(host: HostState) -> list[str]:
    """Return what differs between before and after, a line each: `mounts + …` for what came, `-` for what went."""
    changes: list[str] = []
    for name in host.before:
        # Only before: the run ended before anybody looked again, which the errors say.
        if name not in host.after:
            continue
        old, new = host.before[name], host.after[name]
        changes += [f"{name} - {line}" for line in old if line not in set(new)]
        changes += [f"{name} + {line}" for line in new if line not in set(old)]
    return changes


def join_reports(reports: Sequence[Json], run_id: str, *, replace: bool = False) -> Json:
    """Return one report with the profiles of all.

    Args:
        reports: Reports of one wheel, made by one kit.
        run_id: The name of the joined run.
        replace: Let a later report's result of a profile stand in place of an earlier one's.

    Raises:
        ReportError: None at all, another schema, different wheels, kits or runtimes, a profile or an account twice.
    """
    if not reports:
        raise ReportError("there is nothing to join")
    profiles: dict[str, Json] = {}
    accounts: list[Json] = []
    for report in reports:
        if report.get("schema") != SCHEMA:
            raise ReportError(f"run {report.get('run')}: its schema is {report.get('schema')}, not {SCHEMA}")
        accounts += report.get("controls", ())
        for entry in report["profiles"]:
            name = entry["profile"]
            if name in profiles and not replace:
                raise ReportError(f"two results of the profile {name}; --replace lets the later one stand")
            profiles[name] = entry
    ordered = [profiles[name] for name in sorted(profiles)]
    joined: Json = {
        "schema": SCHEMA,
        "run": run_id,
        "green": all(entry["green"] for entry in ordered),
        "profiles": ordered,
    }
    return add_accounts(joined, accounts, replace=replace)


def add_accounts(report: Json, accounts: Sequence[Json], *, replace: bool = False) -> Json:
    """Return the report with what planted faults showed, an account a host; the same one again adds nothing.

    Args:
        report: Any report.
        accounts: Of the same wheel, made by the same kit.
        replace: Let a later account of a host stand in place of an earlier one.

    Raises:
        ReportError: Two accounts of one host that differ, or any of another wheel or kit.
    """
    found: dict[str, Json] = {}
    for account in (*report.get("controls", ()), *accounts):
        name = account["profile"]
        if found.get(name, account) != account and not replace:
            raise ReportError(
                f"two accounts of the faults planted on {name}; --replace lets the later one stand"
            )
        found[name] = account
    _refuse_a_mix(report["profiles"], found.values())
    return report | ({"controls": [found[name] for name in sorted(found)]} if found else {})


def _refuse_a_mix(profiles: Iterable[Json], accounts: Iterable[Json]) -> None:
    """Raise ReportError unless all results are about the same bytes, judged by the same kit."""
    seen: dict[str, dict[str, str]] = {"wheel": {}, "kit": {}, "runtime": {}}
    for entry in profiles:
        seen["runtime"].setdefault(entry["runtime"], entry["profile"])
        # A profile whose guest did not boot knows no wheel; its errors make the whole report red.
        if wheel := entry["subject"].get("wheel_sha256"):
            seen["wheel"].setdefault(wheel, entry["profile"])
        if kit := entry["kit"].get("sha256"):
            seen["kit"].setdefault(kit, entry["profile"])
    for account in accounts:
        name = f"the account of {account['profile']}"
        seen["wheel"].setdefault(account["wheel_sha256"], name)
        if kit := account["kit"].get("sha256"):
            seen["kit"].setdefault(kit, name)
    for what, found in seen.items():
        if len(found) > 1:
            parts = "; ".join(f"{profile} has {digest[:12]}" for digest, profile in found.items())
            raise ReportError(f"results of different {what}s cannot be joined: {parts}")


def merge_report(report: Json | None, run_id: str, profile: Json) -> Json:
    """Return `report` with `profile` put in, in place of an earlier result of that profile.

    Raises:
        ReportError: `report` has another schema, belongs to another run, or is about another wheel.
    """
    if report is not None and report.get("run") != run_id:
        raise ReportError(f"not a report of run {run_id}")
    addition = {"schema": SCHEMA, "run": run_id, "profiles": [profile]}
    return join_reports([report, addition] if report else [addition], run_id, replace=True)


def count_verdicts(verdicts: Iterable[str]) -> dict[str, int]:
    """Return how many there are of each verdict that occurs, in the order of gravity."""
    found = list(verdicts)
    return {str(verdict): found.count(verdict) for verdict in Verdict if verdict in found}


def _reason(verdict: Verdict, records: Sequence[TestRecord], run: ProfileRun, waiver: Waiver | None) -> str:
    match verdict:
        case Verdict.PASS:
            return ""
        case Verdict.NOT_APPLICABLE:
            return f"the catalogue: no clause about {run.runtime}"
        case Verdict.INVALID:
            faults = [proof.name for proof in (*run.before, *run.after) if not proof.proven]
            return f"not proven: {', '.join(dict.fromkeys(faults)) or 'no precondition was looked at'}"
        case Verdict.MISSING:
            return "no test of this clause ran"
        case Verdict.WAIVED if waiver is not None:
            return f"until {waiver.until} ({waiver.owner}): {waiver.reason}"
        case _:
            bad = next(record for record in records if record.verdict is verdict)
            odds = f"passed {bad.passed} of {len(bad.attempts)}: " if verdict is Verdict.FLAKY else ""
            message = next((attempt.message for attempt in bad.attempts if attempt.message), "")
            return odds + tell_reason(message)


def _listed(proof: Proof) -> Json:
    made = asdict(proof)
    return {**made, "command": list(proof.command)}
