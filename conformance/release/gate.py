"""Whether a wheel may be published: every reason why not, one line each. Pure but for `read_policy`.

The signature proves who vouches for the report; it does not make the report good. So nothing that the report
concludes is believed: verdicts are reduced again from their attempts, and completeness is measured with the
catalogue, the profiles, the waivers and the planted faults of this tree.
"""

import datetime
import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Key

import vms
from conformance.clauses import Catalogue
from conformance.controls import Control, claims
from conformance.release.statement import RENDERED, StatementError, make_statement, open_envelope
from conformance.report import Json, ReportError
from conformance.report_files import parse_report
from conformance.verdicts import GREEN, Outcome, Verdict, is_green, reduce_attempts, reduce_clause
from conformance.waivers import Waiver, find_waiver

POLICY: Final = Path(__file__).with_name("policy.toml")
RUNTIME: Final = "locald-shim"
SHOWN_CLAUSES: Final = 6
# Clocks of two machines differ a little.
SKEW: Final = datetime.timedelta(minutes=10)


class PolicyError(Exception):
    """The policy of releases is malformed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a report must show."""

    profiles: tuple[str, ...]
    max_age_days: int
    controls_required: bool


@dataclass(frozen=True, slots=True)
class Host:
    """What a profile of this tree asks of a machine that calls itself by its name."""

    traits: tuple[str, ...]
    # The names of the facts that are proven before and after.
    facts: frozenset[str]
    # Whether it boots from a box, which then has a digest.
    boxed: bool


@dataclass(frozen=True, slots=True)
class Case:
    """All that the gate looks at."""

    wheel: bytes
    # What the wheel installs; None if it holds no shim.
    wheel_shim_sha256: str | None
    report: bytes
    # Those of `RENDERED` that are beside the report.
    rendered: Mapping[str, bytes]
    envelope: bytes | None
    keys: tuple[Key, ...]
    catalogue: Catalogue
    waivers: tuple[Waiver, ...]
    controls: Mapping[str, Control]
    hosts: Mapping[str, Host]
    kit_sha256: str
    policy: Policy
    now: datetime.datetime


def read_policy(path: Path = POLICY) -> Policy:
    """Return the policy in a file.

    Raises:
        PolicyError: It cannot be read, or has not exactly the keys of `Policy` with their types.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: {error}") from error
    profiles, days, controls = (
        document.get(key) for key in ("profiles", "max_age_days", "controls_required")
    )
    if (
        set(document) != {"profiles", "max_age_days", "controls_required"}
        or not (isinstance(profiles, list) and profiles and all(isinstance(name, str) for name in profiles))
        or type(days) is not int
        or days < 1
        or not isinstance(controls, bool)
    ):
        raise PolicyError(f"{path}: needs profiles (names), max_age_days (a number), controls_required")
    return Policy(tuple(profiles), days, controls)


def read_hosts() -> dict[str, Host]:
    """Return the hosts of this tree by their names."""
    return {
        name: Host(
            profile.traits, frozenset(fact.id for fact in vms.list_facts(profile)), profile.kind == "vm"
        )
        for name, profile in ((name, vms.read(name)) for name in vms.names())
    }


def find_faults(case: Case) -> list[str]:
    """Return why the wheel may not be published; an empty list if it may."""
    try:
        report = parse_report(case.report, "report")
    except ReportError as error:
        return [str(error)]
    faults = list(_judge_signature(case, report))
    names = [entry["profile"] for entry in report["profiles"]]
    faults += [
        f"profile {name}: twice in the report" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    faults += [f"profile {name}: missing" for name in case.policy.profiles if name not in names]
    for entry in report["profiles"]:
        faults += [f"profile {entry['profile']}: {fault}" for fault in _judge_profile(case, entry)]
    faults += [f"planted faults: {fault}" for fault in _judge_controls(case, report.get("controls"))]
    return faults


def _judge_signature(case: Case, report: Json) -> Iterator[str]:
    if case.envelope is None:
        yield "unsigned: there is no envelope beside the report (python -m conformance sign)"
        return
    try:
        statement, why_not = open_envelope(case.envelope, list(case.keys))
    except StatementError as error:
        yield f"signature: {error}"
        return
    if why_not:
        yield f"signature: {why_not}"
    expires = _find_expiry(statement)
    until = _parse_time(expires)
    if until is None:
        yield "signature: the statement names no time at which it expires"
        return
    if until < case.now:
        yield f"expired: the statement counted until {expires}"
    signed = _find_rendered(statement)
    if _find_report_digest(statement) != hashlib.sha256(case.report).hexdigest():
        yield "signature: the statement is about another report.json, or this one was changed"
    elif statement != make_statement(report, case.report, expires=expires, rendered=signed):
        yield "signature: the statement does not say what the report says"
    for name, content in case.rendered.items():
        if signed.get(name) != hashlib.sha256(content).hexdigest():
            yield f"signature: {name} beside the report is not the one that was signed"


def _find_expiry(statement: Mapping[str, Any]) -> str:
    try:
        return str(statement["predicate"]["configuration"][0]["annotations"]["expires"])
    except (LookupError, TypeError):
        return ""


def _find_rendered(statement: Mapping[str, Any]) -> dict[str, str]:
    try:
        entries = [entry for entry in statement["predicate"]["configuration"] if entry["name"] in RENDERED]
        return {entry["name"]: str(entry["digest"]["sha256"]) for entry in entries}
    except (LookupError, TypeError):
        return {}


def _find_report_digest(statement: Mapping[str, Any]) -> object:
    try:
        return statement["predicate"]["configuration"][0]["digest"]["sha256"]
    except (LookupError, TypeError):
        return None


def _judge_profile(case: Case, entry: Json) -> Iterator[str]:
    yield from _judge_identity(case, entry)
    yield from _judge_age(case, entry)
    proofs, host = entry["preconditions"], case.hosts.get(entry["profile"])
    if host is None:
        yield "no host of this tree has this name"
    for when in ("before", "after"):
        if not proofs[when]:
            yield f"INVALID: nothing was proven of the host {when} the clauses"
        elif host is not None and (absent := host.facts - {proof["name"] for proof in proofs[when]}):
            yield f"INVALID: not looked at {when} the clauses: {_shorten(sorted(absent))}"
        for proof in proofs[when]:
            if not proof["proven"]:
                yield f"INVALID: not proven {when} the clauses: {proof['name']}"
    for error in entry["errors"]:
        yield f"an error of the run: {error.partition(chr(10))[0]}"
    if not entry["complete"]:
        yield "only a selection of the clauses was judged"
    yield from _judge_clauses(case, entry)
    proven = bool(proofs["before"] and proofs["after"]) and proofs["proven"]
    must = [Verdict(clause["verdict"]) for clause in entry["clauses"] if clause["level"] == "MUST"]
    if entry["green"] != (is_green(must, preconditions_proven=proven) and not entry["errors"]):
        yield "it calls itself green, or not, against its own verdicts"


def _judge_identity(case: Case, entry: Json) -> Iterator[str]:
    facts, kit = entry["subject"], entry["kit"]
    if entry["runtime"] != RUNTIME:
        yield f"it judged {entry['runtime']}, not {RUNTIME}"
    if facts.get("wheel_sha256") != hashlib.sha256(case.wheel).hexdigest():
        yield "it is about another wheel"
    if case.wheel_shim_sha256 is None or facts.get("installed_shim_sha256") != case.wheel_shim_sha256:
        yield "the shim that ran is not the one in the wheel"
    if "planted" in facts:
        yield f"a planted fault or a measured build: {facts['planted']}"
    for key in ("guest_kernel", "policy_version", "policy_sha256"):
        if not facts.get(key):
            yield f"it does not say its {key}"
    host = case.hosts.get(entry["profile"])
    boxed = "box" in facts or (host is not None and host.boxed)
    if boxed and not (facts.get("box") and facts.get("box_sha256")):
        yield "it does not say the digest of its box"
    if kit.get("sha256") != case.kit_sha256:
        yield "another kit judged: its files are not those of this tree"
    elif kit.get("dirty"):
        yield "the kit had changes that are in no commit"


def _judge_age(case: Case, entry: Json) -> Iterator[str]:
    finished = _parse_time(entry["finished"])
    if finished is None or finished > case.now + SKEW:
        yield f"it finished at no time in the past: {entry['finished']}"
    elif case.now - finished > datetime.timedelta(days=case.policy.max_age_days):
        yield f"expired: it finished on {entry['finished']}, more than {case.policy.max_age_days} days ago"


def _judge_clauses(case: Case, entry: Json) -> Iterator[str]:
    name, today = entry["profile"], case.now.date()
    found = {clause["id"]: clause for clause in entry["clauses"]}
    if len(found) != len(entry["clauses"]):
        yield "a clause stands there twice"
    # Not of the report, which could choose by them what it is judged by.
    traits = case.hosts[name].traits if name in case.hosts else ()
    wanted = {clause.id for clause in case.catalogue.values() if clause.applies_to(name, traits)}
    if missing := sorted(wanted - set(found)):
        yield f"{len(missing)} clauses are missing: {_shorten(missing)}"
    if unknown := sorted(set(found) - wanted):
        yield f"{len(unknown)} clauses are not this host's: {_shorten(unknown)}"
    for clause in found.values():
        known = case.catalogue.get(clause["id"])
        if known is not None and clause["level"] != known.level:
            yield f"{clause['id']} is a {known.level}, not a {clause['level']}"
        yield from _judge_verdict(clause, proven=entry["preconditions"]["proven"])
        yield from _judge_waiver(clause, find_waiver(case.waivers, clause["id"], name), today)


def _judge_verdict(clause: Json, *, proven: bool) -> Iterator[str]:
    name, verdict = clause["id"], Verdict(clause["verdict"])
    reduced = []
    for test in clause["tests"]:
        outcomes = [Outcome(attempt["outcome"]) for attempt in test["attempts"]]
        reduced.append(reduce_attempts(outcomes))
        if test["verdict"] != reduced[-1]:
            yield f"{name}: its test {test['node']} is {reduced[-1]}, not {test['verdict']}"
    if verdict is not reduce_clause(reduced, waived="waiver" in clause, preconditions_proven=proven):
        yield f"{name}: its verdict {verdict} does not follow from its attempts"
    # A SHOULD may fail, but neither the host nor the kit may.
    if verdict not in GREEN and (clause["level"] == "MUST" or verdict in {Verdict.INVALID, Verdict.ERROR}):
        yield f"{name}: {verdict}: {clause['reason']}"


def _judge_waiver(clause: Json, known: Waiver | None, today: datetime.date) -> Iterator[str]:
    told = clause.get("waiver")
    if told is None:
        return
    if known is None or told != known.describe():
        yield f"{clause['id']}: waived by what is not in this tree's waivers ({told['owner']}: {told['reason']})"
    elif known.until < today:
        yield f"{clause['id']}: its waiver expired on {known.until} ({known.owner}: {known.reason})"


def _judge_controls(case: Case, controls: Json | None) -> Iterator[str]:
    if controls is None:
        if case.policy.controls_required:
            yield "the report has no account of them (python -m conformance merge --controls)"
        return
    if controls.get("wheel_sha256") != hashlib.sha256(case.wheel).hexdigest():
        yield "planted in another wheel"
    host = case.hosts.get(controls["profile"])
    if host is None:
        yield f"planted on no host of this tree: {controls['profile']}"
        return
    verdicts = controls["verdicts"]
    red = {
        (fault, name) for fault, found in verdicts.items() for name, said in found.items() if said == "FAIL"
    }
    here = [
        clause for clause in case.catalogue.values() if clause.applies_to(controls["profile"], host.traits)
    ]
    for control in case.controls.values():
        for name in claims(case.catalogue, control, controls["profile"], host.traits):
            if (control.name, name) not in red:
                yield f"{control.name} did not turn {name} red"
    seen = {name for _, name in red}
    if unproven := [clause.id for clause in here if clause.id not in seen]:
        yield f"{len(unproven)} clauses unproven: {_shorten(unproven)}"


def _shorten(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN_CLAUSES
    return ", ".join(names[:SHOWN_CLAUSES]) + (f" and {rest} more" if rest > 0 else "")


def _parse_time(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
