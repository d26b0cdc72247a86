"""Planted faults: proof that a clause can turn red.

A clause counts only if a fault turned it red; the catalogue names which faults must. `python -m conformance.controls`
plants each in a guest that is thrown away, runs the clauses that claim it, and compares.
"""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conformance.clauses import Catalogue, CatalogueError, covers, matches
from conformance.controls.builds import Edit

DECLARED: Final = tuple(Path(__file__).with_name(f"{name}.toml") for name in ("controls", "rules", "edits"))
WRAPPER: Final = Path(__file__).with_name("wrapper.c")
# What a fault of a kind breaks by being there. wrapper.c is a second program in the shim's place, whose build is on no
# record, and which hands the caller's descriptors, environment and lack of privilege on; a script in the place of
# bin/locald calls the one beside it, wherever the tree of the script itself was copied to.
WRAPPED: Final = (
    *("ATK-001", "ATK-003", "BIND-005", "LEAF-001", "LEAF-002", "LEAF-003", "LEAF-007"),
    *("POLICY-004", "PRIV-003", "PRIV-008", "PROC-002"),
)
SCRIPTED: Final = (
    *("DISC-005", "DISC-006", "DISC-007", "DISC-008", "DISC-009", "DISC-010", "DISC-012"),
    *("LEAF-003", "POLICY-004", "PRIV-001", "PRIV-008"),
)
# Exactly one of these says what the fault is.
_KINDS: Final = ("define", "rules", "script", "package", "edit")


@dataclass(frozen=True, slots=True)
class Control:
    """One planted fault."""

    name: str
    says: str
    define: str = ""
    dynamic: bool = False
    rules: str = ""
    script: str = ""
    package: str = ""
    edit: Edit | None = None
    # Globs of clauses that the fault breaks beside those that claim it: each is told otherwise.
    also: tuple[str, ...] = ()
    # Where it can be seen, in patterns like those of `Clause.profiles`: elsewhere what it breaks is refused for
    # another reason.
    hosts: tuple[str, ...] = ("*",)


def parse_controls(text: str) -> dict[str, Control]:
    """Return the controls of a text, by name.

    Raises:
        CatalogueError: Malformed, or an entry that says not exactly one kind of fault.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"controls: {error}") from error
    controls = {}
    for name, entry in document.items():
        if (
            not isinstance(entry, dict)
            or set(entry) - {"says", "dynamic", "also", "hosts", *_KINDS}
            or not entry.get("says")
        ):
            raise CatalogueError(f"controls: {name}: unknown or missing keys")
        if sum(key in entry for key in _KINDS) != 1:
            raise CatalogueError(f"controls: {name}: needs exactly one of {', '.join(_KINDS)}")
        parsed: dict[str, object] = {key: tuple(entry[key]) for key in ("also", "hosts") if key in entry}
        if "edit" in entry:
            parsed["edit"] = _parse_edit(name, entry["edit"])
        controls[name] = Control(name=name, **entry | parsed)
    return controls


def _parse_edit(name: str, entry: object) -> Edit:
    if not isinstance(entry, dict) or set(entry) != {"file", "old", "new"}:
        raise CatalogueError(f"controls: {name}: an edit has file, old and new")
    if not entry["file"].startswith(("shim/src/", "locald/")) or entry["old"] == entry["new"]:
        raise CatalogueError(f"controls: {name}: an edit changes a file of shim/src or locald")
    return Edit(**entry)


def read_controls() -> dict[str, Control]:
    """Return the controls of the tree."""
    # One text, so that no name is declared in two files: TOML refuses it.
    return parse_controls("\n".join(path.read_text("utf-8") for path in DECLARED))


def claims(
    catalogue: Catalogue, control: Control, profile: str, traits: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the clauses that claim to see `control`, on `profile`, which has these traits."""
    if not covers(control.hosts, profile, traits):
        return ()
    return tuple(
        clause.id
        for clause in catalogue.values()
        if control.name in clause.controls and clause.applies_to(profile, traits)
    )


@dataclass(frozen=True, slots=True)
class Account:
    """What all controls together showed."""

    # (control, clause) that had to be red and was not.
    missed: tuple[tuple[str, str], ...]
    # (control, clause) that was red although the clause does not claim it and the control does not own up to it.
    beyond: tuple[tuple[str, str], ...]
    # Clauses that no control turned red: they may be true, but nothing shows that they can be false.
    unproven: tuple[str, ...]
    caught: Mapping[str, int]


def make_account(
    catalogue: Catalogue,
    profile: str,
    verdicts: Mapping[str, Mapping[str, str]],
    controls: Iterable[Control],
    *,
    traits: Collection[str] = (),
) -> Account:
    """Return the account of a run of controls.

    Args:
        catalogue: Every clause.
        profile: Where the controls were planted.
        verdicts: For each control that ran, the verdict of each clause it was judged by.
        controls: Those that were to run.
        traits: The profile's.
    """
    red: set[str] = set()
    missed, beyond, caught = [], [], {}
    for control in controls:
        name = control.name
        found = {clause for clause, verdict in verdicts.get(name, {}).items() if verdict == "FAIL"}
        red |= found
        claimed = claims(catalogue, control, profile, traits)
        missed += [(name, clause) for clause in claimed if clause not in found]
        by_kind = WRAPPED if control.define else SCRIPTED if control.script else ()
        accepted = ",".join((*control.also, *by_kind))
        beyond += [(name, clause) for clause in sorted(found - set(claimed)) if not matches(clause, accepted)]
        caught[name] = len(found)
    applicable = [clause.id for clause in catalogue.values() if clause.applies_to(profile, traits)]
    unproven = tuple(clause for clause in applicable if clause not in red)
    return Account(tuple(missed), tuple(beyond), unproven, caught)
