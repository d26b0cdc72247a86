"""The account of planted faults: what was missed, what turned red without claiming it, what nobody showed."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from conformance.clauses import Catalogue, parse_catalogue
from conformance.controls import Control, parse_controls
from conformance.controls.account import (
    Account,
    Place,
    Verdicts,
    choose_claims,
    choose_clauses,
    describe,
    make_account,
    make_document,
)
from conformance.report_files import parse_report
from tests.unit.conformance import samples

CATALOGUE = parse_catalogue(
    "\n".join(
        f'["AB-00{number}"]\nlevel = "MUST"\nstatement = "s"\nobservable = "o"\nsource = "s"\nprofiles = ["*"]\n'
        f'controls = ["{control}"]'
        for number, control in ((1, "one"), (2, "two"), (3, "two"))
    ),
    family="AB",
)
CONTROLS = parse_controls(
    '[one]\nsays = "s"\nrules = "1"\n[two]\nsays = "s"\nrules = "2"\nalso = ["AB-001"]\n'
)


LOCAL = Place("local")


def account_of(catalogue: Catalogue, verdicts: Verdicts, controls: Iterable[Control]) -> Account:
    """Return the account of a run on `local`."""
    chosen = tuple(controls)
    claimed = choose_claims(catalogue, chosen, LOCAL)
    return make_account(catalogue, claimed, choose_clauses(catalogue, LOCAL), verdicts, chosen)


def test_each_turns_exactly_its_clauses_red() -> None:
    """Then there is nothing to tell."""
    verdicts = {
        "one": {"AB-001": "FAIL", "AB-002": "PASS"},
        "two": {"AB-001": "FAIL", "AB-002": "FAIL", "AB-003": "FAIL"},
    }
    account = account_of(CATALOGUE, verdicts, CONTROLS.values())
    assert (account.missed, account.beyond, account.unproven) == ((), (), ())
    assert account.caught == {"one": 1, "two": 3}


@pytest.mark.parametrize("kind", ["define", "script"])
def test_what_a_fault_breaks_by_being_there_is_no_news(kind: str) -> None:
    """A wrapper is a second program in the shim's place, a script one in locald's; a build is neither."""
    (wrapper,) = parse_controls(f'[one]\nsays = "s"\n{kind} = "FAULT"\n').values()
    keys = ("statement", "observable", "source")
    words = "".join(f'{key} = "s"\n' for key in keys)
    text = f'["LEAF-003"]\nlevel = "MUST"\n{words}profiles = ["*"]\ncontrols = ["x"]'
    catalogue = parse_catalogue(text, family="LEAF")
    red = {"one": {"LEAF-003": "FAIL"}}
    assert account_of(catalogue, red, [wrapper]).beyond == ()
    assert account_of(catalogue, red, CONTROLS.values()).beyond == (("one", "LEAF-003"),)


def test_a_clause_that_does_not_claim_a_fault_is_told() -> None:
    """AB-003 is red without rule 1 and does not say so."""
    verdicts = {"one": {"AB-001": "FAIL", "AB-003": "FAIL"}, "two": {"AB-002": "FAIL", "AB-003": "FAIL"}}
    account = account_of(CATALOGUE, verdicts, CONTROLS.values())
    assert (account.missed, account.beyond) == ((), (("one", "AB-003"),))


def test_only_a_failure_catches() -> None:
    """A clause that the fault breaks (ERROR) has not shown that it sees it, and is unproven."""
    account = account_of(CATALOGUE, {"one": {"AB-001": "ERROR"}}, [CONTROLS["one"]])
    assert account.missed == (("one", "AB-001"),)
    assert account.unproven == ("AB-001", "AB-002", "AB-003")


def test_what_can_be_shown_elsewhere_is_left_out() -> None:
    """Neither planted nor missed, and no clause of the other host's has to be proven here."""
    only_vm = {**CATALOGUE, "AB-002": replace(CATALOGUE["AB-002"], profiles=("vm",))}
    here = Place("vm")
    assert choose_claims(only_vm, CONTROLS.values(), here) == {
        "one": ("AB-001",),
        "two": ("AB-002", "AB-003"),
    }
    assert choose_claims(only_vm, CONTROLS.values(), here, LOCAL) == {"one": (), "two": ("AB-002",)}
    assert choose_clauses(only_vm, here, LOCAL) == ("AB-002",)


def test_a_claim_of_another_hosts_is_no_news() -> None:
    """The clause names the fault; that it was not asked to see it here is no reason to tell."""
    verdicts = {"two": {"AB-002": "FAIL", "AB-003": "FAIL"}}
    account = make_account(CATALOGUE, {"two": ("AB-002",)}, ("AB-002",), verdicts, [CONTROLS["two"]])
    assert (account.missed, account.beyond, account.unproven) == ((), (), ())


def test_the_account_is_a_part_of_a_report() -> None:
    """By the schema, with when it was made, by which kit and of which wheel; and as lines for a person."""
    account = account_of(CATALOGUE, {"one": {"AB-001": "PASS"}}, [CONTROLS["one"]])
    names = ("started", "finished", "kit", "planted_sha256", "wheel_sha256")
    about = {key: samples.account()[key] for key in names}
    document = make_document(account, LOCAL, {"one": {"AB-001": "PASS"}}, about)
    assert document["missed"] == [{"control": "one", "clause": "AB-001"}]
    parse_report(samples.as_bytes(samples.make_report(controls=[document])), "report")

    assert describe(account, ("AB-001", "AB-002", "AB-003"), 2, complete=True) == [
        "missed: one did not turn AB-001 red",
        "unproven: AB-001, AB-002, AB-003",
        "2 clauses of the catalogue are not judged by this run: other hosts', or not asked for",
        "1 controls, 1 of them missed by a clause that claims it",
        "0 of 3 clauses proven, 3 unproven",
    ]
    assert describe(account, ("AB-001",), 0, complete=False) == [
        "missed: one did not turn AB-001 red",
        "1 controls, 1 of them missed by a clause that claims it",
    ]
