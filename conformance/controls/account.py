"""What the faults planted on one host showed together: a document for the report, lines for a person. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from conformance.clauses import Catalogue, matches
from conformance.controls import SCRIPTED, WRAPPED, Control, claims

SCHEMA: Final = "locald-conformance-controls/3"
Verdicts = Mapping[str, Mapping[str, str]]
Claims = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """A host, as far as clauses and faults are chosen by it."""

    profile: str
    traits: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """What all faults together showed."""

    # (control, clause) that had to be red and was not.
    missed: tuple[tuple[str, str], ...]
    # (control, clause) that was red although the clause does not claim it and the control does not own up to it.
    beyond: tuple[tuple[str, str], ...]
    # Clauses that no control turned red: they may be true, but nothing shows that they can be false.
    unproven: tuple[str, ...]
    caught: Mapping[str, int]


def choose_claims(
    catalogue: Catalogue, controls: Iterable[Control], here: Place, elsewhere: Place | None = None
) -> Claims:
    """Return for each control the clauses that claim to see it here, but for what can be shown elsewhere."""
    return {
        control.name: tuple(
            clause
            for clause in claims(catalogue, control, here.profile, here.traits)
            if elsewhere is None
            or clause not in claims(catalogue, control, elsewhere.profile, elsewhere.traits)
        )
        for control in controls
    }


def choose_clauses(catalogue: Catalogue, here: Place, elsewhere: Place | None = None) -> tuple[str, ...]:
    """Return the clauses that have to be proven here, which are not those that can be proven elsewhere."""
    return tuple(
        clause.id
        for clause in catalogue.values()
        if clause.applies_to(here.profile, here.traits)
        and not (elsewhere and clause.applies_to(elsewhere.profile, elsewhere.traits))
    )


def make_account(
    catalogue: Catalogue,
    claimed: Claims,
    judged: Iterable[str],
    verdicts: Verdicts,
    controls: Iterable[Control],
) -> Account:
    """Return the account of a run of controls.

    Args:
        catalogue: Every clause.
        claimed: For each control the clauses that it has to turn red.
        judged: The clauses that something has to turn red.
        verdicts: For each control that ran, the verdict of each clause it was judged by.
        controls: Those that were to run.
    """
    red: set[str] = set()
    missed, beyond, caught = [], [], {}
    for control in controls:
        name = control.name
        found = {clause for clause, verdict in verdicts.get(name, {}).items() if verdict == "FAIL"}
        red |= found
        missed += [(name, clause) for clause in claimed[name] if clause not in found]
        by_kind = WRAPPED if control.define else SCRIPTED if control.script else ()
        accepted = ",".join((*control.also, *by_kind))
        beyond += [
            (name, clause)
            for clause in sorted(found)
            if name not in catalogue[clause].controls and not matches(clause, accepted)
        ]
        caught[name] = len(found)
    unproven = tuple(clause for clause in judged if clause not in red)
    return Account(tuple(missed), tuple(beyond), unproven, caught)


def make_document(
    account: Account, place: Place, verdicts: Verdicts, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the account as the report has it; `about` is when it was made, by which kit, of which wheel."""
    return {
        "schema": SCHEMA,
        "profile": place.profile,
        **about,
        "missed": [{"control": control, "clause": clause} for control, clause in account.missed],
        "beyond": [{"control": control, "clause": clause} for control, clause in account.beyond],
        "unproven": list(account.unproven),
        "verdicts": verdicts,
    }


def describe(account: Account, judged: Collection[str], others: int, *, complete: bool) -> list[str]:
    """Return the account for a person; of a selection it does not say what is unproven, which is nearly all.

    Args:
        account: What was shown.
        judged: The clauses that something had to turn red.
        others: How many clauses of the catalogue this run says nothing of.
        complete: Whether all faults and all clauses were asked for.
    """
    lines = [f"missed: {control} did not turn {clause} red" for control, clause in account.missed]
    lines += [
        f"beyond: {control} turned {clause} red, which does not claim it"
        for control, clause in account.beyond
    ]
    if complete and account.unproven:
        lines.append(f"unproven: {', '.join(account.unproven)}")
    if others:
        lines.append(
            f"{others} clauses of the catalogue are not judged by this run: other hosts', or not asked for"
        )
    missed = len({control for control, _ in account.missed})
    lines.append(f"{len(account.caught)} controls, {missed} of them missed by a clause that claims it")
    if complete:
        proven = len(judged) - len(account.unproven)
        lines.append(f"{proven} of {len(judged)} clauses proven, {len(account.unproven)} unproven")
    return lines
