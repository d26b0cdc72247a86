"""Dated exceptions: which clause may fail on which profile, why, who answers for it, and until when.

Pure but for reading the file. An expired waiver stops the collection: it is a debt that fell due.
"""

import datetime
import fnmatch
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conformance.clauses import CatalogueError
from conformance.verdicts import Verdict

WAIVERS: Final = Path(__file__).parent / "waivers.toml"
_KEYS: Final = frozenset({"clause", "profile", "reason", "owner", "until"})


@dataclass(frozen=True, slots=True)
class Waiver:
    """One clause that may be FAIL or FLAKY on the profiles that match, up to and including `until`."""

    clause: str
    profile: str
    reason: str
    owner: str
    until: datetime.date

    def describe(self) -> dict[str, str]:
        """Return what a report says of it."""
        return {"owner": self.owner, "reason": self.reason, "until": self.until.isoformat()}


def parse_waivers(text: str, *, today: datetime.date | None, known: Iterable[str]) -> tuple[Waiver, ...]:
    """Return the waivers in force.

    Args:
        text: A TOML document of `[[waiver]]` tables with exactly the keys of `Waiver`.
        today: The day of the run; None to return those that expired, too.
        known: The ids of the catalogue.

    Raises:
        CatalogueError: Malformed, for an unknown clause, double, or expired.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"waivers: {error}") from error
    if set(document) - {"waiver"}:
        raise CatalogueError(f"waivers: unknown key {min(set(document) - {'waiver'})}")
    entries = document.get("waiver", [])
    if not isinstance(entries, list):
        raise CatalogueError("waivers: waiver is not an array of tables")
    waivers = tuple(_parse_waiver(entry) for entry in entries)
    ids = set(known)
    for waiver in waivers:
        if waiver.clause not in ids:
            raise CatalogueError(f"waiver for the unknown clause {waiver.clause}")
        if today is not None and waiver.until < today:
            raise CatalogueError(
                f"the waiver for {waiver.clause} on {waiver.profile} expired on {waiver.until} ({waiver.owner})"
            )
    pairs = [(waiver.clause, waiver.profile) for waiver in waivers]
    if len(set(pairs)) != len(pairs):
        raise CatalogueError("waivers: the same clause and profile twice")
    return waivers


def find_waiver(waivers: Sequence[Waiver], clause: str, profile: str) -> Waiver | None:
    """Return the waiver of `clause` on `profile`, if there is one."""
    for waiver in waivers:
        if waiver.clause == clause and fnmatch.fnmatchcase(profile, waiver.profile):
            return waiver
    return None


def describe_unneeded(waivers: Sequence[Waiver], profiles: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each waiver whose clause passed wherever `profiles`, parts of a report, judged it."""
    for waiver in waivers:
        verdicts = {
            entry["profile"]: clause["verdict"]
            for entry in profiles
            if fnmatch.fnmatchcase(entry["profile"], waiver.profile)
            for clause in entry["clauses"]
            if clause["id"] == waiver.clause
        }
        if verdicts and set(verdicts.values()) == {Verdict.PASS}:
            yield f"waiver of {waiver.clause} is not needed: it passed on {', '.join(verdicts)}"


def _parse_waiver(entry: object) -> Waiver:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise CatalogueError(f"waivers: an entry needs exactly {', '.join(sorted(_KEYS))}")
    for key in _KEYS - {"until"}:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise CatalogueError(f"waivers: {key} is not a text")
    # TOML has dates; a date and time is a datetime, which is a date to isinstance.
    if type(entry["until"]) is not datetime.date:
        raise CatalogueError("waivers: until is not a date (YYYY-MM-DD, without quotes)")
    return Waiver(**entry)
