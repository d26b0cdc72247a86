"""Whether planted faults showed that the clauses can be red: every claim of this tree, on the hosts of a release."""

from collections.abc import Collection, Iterator, Sequence

from conformance.controls import claims
from conformance.release.case import Case, judge_age, judge_kit, judge_wheel, shorten
from conformance.report import Json


def judge_accounts(case: Case, accounts: Sequence[Json], hosts: Collection[str]) -> Iterator[str]:
    """Yield what the accounts lack, or show that must not be; each is about one host, together they are about all.

    Args:
        case: What is asked of them.
        accounts: As the report has them.
        hosts: What the report judged without a fault: a clause that is red on any other says nothing of the fault.
    """
    if not accounts:
        yield "the report has no account of them (ci/nox -s report -- merge REPORT --controls CONTROLS -o DIRECTORY)"
        return
    red: set[tuple[str, str]] = set()
    for account in accounts:
        red |= {
            (fault, name)
            for fault, found in account["verdicts"].items()
            for name, verdict in found.items()
            if verdict == "FAIL"
        }
    missed: set[tuple[str, str]] = set()
    for account in accounts:
        yield from (f"{account['profile']}: {fault}" for fault in _judge_origin(case, account))
        if account["profile"] not in hosts:
            yield f"{account['profile']}: the report does not judge this host, and so nothing that is red there"
        for fault, name in _find_missed(case, account):
            missed.add((fault, name))
            yield f"{account['profile']}: {fault} did not turn {name} red"
    wanted, judged = _find_claims(case)
    if untried := sorted(wanted - red - missed):
        yield f"{len(untried)} claims untried: {shorten([f'{name} of {fault}' for fault, name in untried])}"
    if unproven := sorted(judged - {name for _, name in red}):
        yield f"{len(unproven)} clauses unproven: {shorten(unproven)}"


def _judge_origin(case: Case, account: Json) -> Iterator[str]:
    yield from judge_wheel(case, account["wheel_sha256"])
    yield from judge_kit(case, account["kit"])
    if account["planted_sha256"] != case.planted_sha256:
        yield "its faults were planted into another package or shim than this tree's"
    yield from judge_age(case, account["finished"])
    if account["profile"] not in case.hosts:
        yield "no host of this tree has this name"
    if unknown := sorted(set(account["verdicts"]) - set(case.controls)):
        yield f"{len(unknown)} faults are not this tree's: {shorten(unknown)}"


def _find_missed(case: Case, account: Json) -> Iterator[tuple[str, str]]:
    """Yield what was planted and not seen by a clause that claims it."""
    host = case.hosts.get(account["profile"])
    for fault, found in account["verdicts"].items():
        if host is None or fault not in case.controls:
            continue
        for name in claims(case.catalogue, case.controls[fault], account["profile"], host.traits):
            if found.get(name, "FAIL") != "FAIL":
                yield fault, name


def _find_claims(case: Case) -> tuple[set[tuple[str, str]], set[str]]:
    """Return every claim that a host of the policy can show, and every clause that one judges."""
    wanted: set[tuple[str, str]] = set()
    judged: set[str] = set()
    for name in case.policy.profiles:
        if host := case.hosts.get(name):
            judged |= {
                clause.id for clause in case.catalogue.values() if clause.applies_to(name, host.traits)
            }
            for control in case.controls.values():
                wanted |= {
                    (control.name, clause) for clause in claims(case.catalogue, control, name, host.traits)
                }
    return wanted, judged
