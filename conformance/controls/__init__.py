"""Planted faults: proof that a clause can turn red.

A clause counts only if a fault turned it red; the catalogue names which faults must. `python -m conformance.controls`
plants each in a guest that is thrown away, runs the clauses that claim it, and compares.
"""

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conformance.clauses import Catalogue, CatalogueError, covers, is_text, parse_names
from conformance.controls.builds import Edit

DECLARED: Final = tuple(sorted(Path(__file__).parent.glob("*.toml")))
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
_TEXTS: Final = ("says", *(kind for kind in _KINDS if kind != "edit"))
_LISTS: Final = ("also", "hosts")


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
        CatalogueError: Not TOML, an unknown or missing key, a wrong type, an empty text or list, or an entry that says
            not exactly one kind of fault.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"controls: {error}") from error
    return {name: _parse_control(name, entry) for name, entry in document.items()}


def _parse_control(name: str, entry: object) -> Control:
    where = f"controls: {name}"
    if (
        not isinstance(entry, dict)
        or set(entry) - {"dynamic", *_LISTS, *_TEXTS, *_KINDS}
        or "says" not in entry
    ):
        raise CatalogueError(f"{where}: unknown or missing keys")
    if sum(key in entry for key in _KINDS) != 1:
        raise CatalogueError(f"{where}: needs exactly one of {', '.join(_KINDS)}")
    for key in _TEXTS:
        if key in entry and not is_text(entry[key]):
            raise CatalogueError(f"{where}: {key} is not a text")
    if not isinstance(entry.get("dynamic", False), bool):
        raise CatalogueError(f"{where}: dynamic is neither true nor false")
    # A text in the place of a list would be one pattern a letter: it covers no host, and nothing would be planted.
    parsed: dict[str, object] = {key: parse_names(where, key, entry[key]) for key in _LISTS if key in entry}
    if "edit" in entry:
        parsed["edit"] = _parse_edit(name, entry["edit"])
    return Control(name=name, **entry | parsed)


def _parse_edit(name: str, entry: object) -> Edit:
    if not isinstance(entry, dict) or set(entry) != {"file", "old", "new"}:
        raise CatalogueError(f"controls: {name}: an edit has file, old and new")
    if not all(isinstance(text, str) for text in entry.values()):
        raise CatalogueError(f"controls: {name}: file, old and new of an edit are texts")
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
