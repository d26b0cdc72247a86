"""Whether a wheel may be published: every reason why not, one line each. Pure.

The signature proves who vouches for the report; it does not make the report good. So nothing that the report
concludes is believed: verdicts are reduced again from their attempts, and completeness is measured with the
catalogue, the profiles, the waivers and the planted faults of this tree.
"""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import PurePath
from typing import Any, Final

from conformance.clauses import Clause
from conformance.release.case import Case, Host, judge_age, judge_kit, judge_wheel, parse_time, shorten
from conformance.release.planted import judge_accounts
from conformance.release.statement import RENDERED, StatementError, make_statement, open_envelope
from conformance.report import Json, ReportError
from conformance.report_files import parse_report
from conformance.runtimes import MODES
from conformance.snapshot import JUDGED, is_judged
from conformance.verdicts import GREEN, Outcome, Verdict, is_green, reduce_attempts, reduce_clause
from conformance.waivers import Waiver, find_waiver

RUNTIME: Final = "locald-shim"
NO_ANSWER: Final = frozenset({Verdict.INVALID, Verdict.ERROR, Verdict.MISSING})


def find_faults(case: Case) -> list[str]:
    """Return why the wheel may not be published; an empty list if it may."""
    try:
        report = parse_report(case.report, "report")
    except ReportError as error:
        return [str(error)]
    # The kit and the faults are this tree's: what they judged of another one says nothing.
    faults = []
    if case.wheel_foreign:
        faults.append(f"the wheel was not built from this tree: {shorten(case.wheel_foreign)}")
    faults += _judge_signature(case, report)
    names = [entry["profile"] for entry in report["profiles"]]
    faults += [
        f"profile {name}: twice in the report" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    faults += [f"profile {name}: missing" for name in case.policy.profiles if name not in names]
    for entry in report["profiles"]:
        faults += [f"profile {entry['profile']}: {fault}" for fault in _judge_profile(case, entry)]
    if report["green"] != all(entry["green"] for entry in report["profiles"]):
        faults.append("it calls itself green, or not, against its own profiles")
    faults += [
        f"planted faults: {fault}" for fault in judge_accounts(case, report.get("controls", ()), names)
    ]
    return faults


def _judge_signature(case: Case, report: Json) -> Iterator[str]:
    if case.envelope is None:
        yield "unsigned: there is no envelope beside the report (ci/nox -s report -- sign REPORT --key KEY)"
        return
    try:
        statement, why_not = open_envelope(case.envelope, list(case.keys))
    except StatementError as error:
        yield f"signature: {error}"
        return
    if why_not:
        yield f"signature: {why_not}"
    expires = _find_expiry(statement)
    until = parse_time(expires)
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
    host = case.hosts.get(entry["profile"])
    yield from _judge_identity(case, entry, host)
    yield from judge_kit(case, entry["kit"])
    yield from judge_age(case, entry["finished"])
    if host is None:
        yield "no host of this tree has this name"
    proofs = entry["preconditions"]
    for when in ("before", "after"):
        yield from _judge_proofs(host, when, proofs[when])
    for error in entry["errors"]:
        yield f"an error of the run: {error.partition(chr(10))[0]}"
    if unseen := [name for name in JUDGED if name not in entry["host"]["before"]]:
        yield f"nobody looked at the host's {', '.join(unseen)}"
    for change in entry["host"]["changes"]:
        # As the run itself has to say.
        if is_judged(change) and not any(error.endswith(change) for error in entry["errors"]):
            yield f"the host was changed: {change}"
    if not entry["complete"]:
        yield "only a selection of the clauses was judged"
    yield from _judge_clauses(case, entry, host)
    proven = bool(proofs["before"] and proofs["after"]) and proofs["proven"]
    must = [Verdict(clause["verdict"]) for clause in entry["clauses"] if clause["level"] == "MUST"]
    if entry["green"] != (is_green(must, preconditions_proven=proven) and not entry["errors"]):
        yield "it calls itself green, or not, against its own verdicts"


def _judge_identity(case: Case, entry: Json, host: Host | None) -> Iterator[str]:
    facts = entry["subject"]
    if entry["runtime"] != RUNTIME:
        yield f"it judged {entry['runtime']}, not {RUNTIME}"
    yield from judge_wheel(case, facts.get("wheel_sha256"))
    if case.wheel_shim_sha256 is None or facts.get("installed_shim_sha256") != case.wheel_shim_sha256:
        yield "the shim that ran is not the one in the wheel"
    if facts.get("shim_build") != case.shim_build:
        yield "the shim that ran was built from other sources than this tree's"
    if "planted" in facts:
        yield f"a planted fault or a measured build: {facts['planted']}"
    if "reused" in facts:
        yield "its machine was up before the run: nobody knows what was done to it"
    for key in ("guest_kernel", "policy_version", "policy_sha256"):
        if not facts.get(key):
            yield f"it does not say its {key}"
    boxed = "box" in facts or (host is not None and host.boxed)
    if boxed and not (facts.get("box") and facts.get("box_sha256")):
        yield "it does not say the digest of its box"


def _judge_proofs(host: Host | None, when: str, proofs: list[Json]) -> Iterator[str]:
    if not proofs:
        yield f"INVALID: nothing was proven of the host {when} the clauses"
        return
    facts = {} if host is None else host.facts
    if absent := sorted(set(facts) - {proof["name"] for proof in proofs}):
        yield f"INVALID: not looked at {when} the clauses: {shorten(absent)}"
    for proof in proofs:
        fact, code = facts.get(proof["name"]), proof["exit_code"]
        if not proof["proven"]:
            yield f"INVALID: not proven {when} the clauses: {proof['name']}"
        elif fact is None:
            continue
        elif not (code if fact.exit_code is None else code == fact.exit_code):
            yield f"INVALID: proven {when} the clauses by an exit code {code}: {proof['name']}"
        elif (proof["user"], tuple(proof["command"])) != (fact.user, fact.command):
            yield f"INVALID: proven {when} the clauses by another command: {proof['name']}"


def _judge_clauses(case: Case, entry: Json, host: Host | None) -> Iterator[str]:
    name, today = entry["profile"], case.now.date()
    found = {clause["id"]: clause for clause in entry["clauses"]}
    if len(found) != len(entry["clauses"]):
        yield "a clause stands there twice"
    # Not of the report, which could choose by them what it is judged by.
    traits = () if host is None else host.traits
    wanted = {clause.id for clause in case.catalogue.values() if clause.applies_to(name, traits)}
    if missing := sorted(wanted - set(found)):
        yield f"{len(missing)} clauses are missing: {shorten(missing)}"
    if unknown := sorted(set(found) - wanted):
        yield f"{len(unknown)} clauses are not this host's: {shorten(unknown)}"
    for clause in found.values():
        known = case.catalogue.get(clause["id"])
        if known is not None and clause["level"] != known.level:
            yield f"{clause['id']} is a {known.level}, not a {clause['level']}"
        yield from _judge_verdict(clause, proven=entry["preconditions"]["proven"])
        yield from _judge_waiver(clause, find_waiver(case.waivers, clause["id"], name), today)
        if known is not None and host is not None:
            yield from _judge_tests(case, known, host, clause["tests"])


def _judge_tests(case: Case, clause: Clause, host: Host, tests: list[Json]) -> Iterator[str]:
    """Yield what was not judged by this tree's tests, each in the modes of the host and with evidence."""
    # For each test its cases, and the modes that each was in.
    cases: dict[str, dict[frozenset[str], set[str]]] = {}
    for test in tests:
        path, _, rest = test["node"].partition("::")
        function, _, text = rest.partition("[")
        words = frozenset(text.rstrip("]").split("-"))
        found = cases.setdefault(f"{PurePath(path).name}::{function}", {})
        found.setdefault(words - set(MODES), set()).update(words & set(MODES))
    wanted = {test for test, named in case.tests.items() if clause.id in named}
    if strange := sorted(set(cases) - wanted):
        yield f"{clause.id}: judged by what is no test of it: {shorten(strange)}"
    if absent := sorted(wanted - set(cases)):
        yield f"{clause.id}: not judged by {shorten(absent)}"
    for name in sorted(wanted & case.modal & set(cases)):
        if modes := sorted({mode for found in cases[name].values() for mode in host.modes - found}):
            yield f"{clause.id}: {name} did not run in the mode {shorten(modes)}"
    for test in tests:
        if any(
            attempt["outcome"] == "passed" and not any(attempt["evidence"]) for attempt in test["attempts"]
        ):
            yield f"{clause.id}: passed without evidence: {test['node']}"


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
    if verdict not in GREEN and (clause["level"] == "MUST" or verdict in NO_ANSWER):
        yield f"{name}: {verdict}: {clause['reason']}"


def _judge_waiver(clause: Json, known: Waiver | None, today: date) -> Iterator[str]:
    told = clause.get("waiver")
    if told is None:
        return
    if known is None or told != known.describe():
        yield f"{clause['id']}: waived by what is not in this tree's waivers ({told['owner']}: {told['reason']})"
    elif known.until < today:
        yield f"{clause['id']}: its waiver expired on {known.until} ({known.owner}: {known.reason})"
