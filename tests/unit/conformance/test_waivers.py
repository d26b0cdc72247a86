"""Waivers: dated, owned, for a known clause, and a fault once they expire."""

import datetime

import pytest

from conformance.clauses import CatalogueError
from conformance.waivers import WAIVERS, describe_unneeded, find_waiver, parse_waivers

TODAY = datetime.date(2026, 11, 22)
GOOD = """
[[waiver]]
clause = "BUNDLE-001"
profile = "debian12-*"
reason = "being mended"
owner = "somebody"
until = 2026-11-22
"""


def test_a_waiver_counts_on_its_profiles_until_its_day() -> None:
    """The last day counts; other profiles and clauses are not covered."""
    waivers = parse_waivers(GOOD, today=TODAY, known=["BUNDLE-001"])

    assert find_waiver(waivers, "BUNDLE-001", "debian12-selinux") is not None
    assert find_waiver(waivers, "BUNDLE-001", "local") is None
    assert find_waiver(waivers, "BUNDLE-002", "debian12-selinux") is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GOOD.replace("2026-11-22", "2026-11-21"), "expired on 2026-11-21"),
        (GOOD.replace("2026-11-22", '"2026-12-01"'), "until is not a date"),
        (GOOD.replace("2026-11-22", "2026-12-01T00:00:00"), "until is not a date"),
        (GOOD.replace("BUNDLE-001", "BUNDLE-009"), "unknown clause"),
        (GOOD.replace('reason = "being mended"', ""), "exactly"),
        (GOOD.replace('"being mended"', '""'), "reason is not a text"),
        (GOOD + GOOD, "twice"),
        ("waiver = 1", "array"),
        ("other = 1", "unknown key"),
        ("[[", "waivers"),
    ],
)
def test_a_fault_is_refused(text: str, match: str) -> None:
    """Each fault stops the run."""
    with pytest.raises(CatalogueError, match=match):
        parse_waivers(text, today=TODAY, known=["BUNDLE-001"])


def test_the_shipped_file_parses() -> None:
    """The file in the tree is well-formed (expiry is judged by each run)."""
    parse_waivers(WAIVERS.read_text("utf-8"), today=datetime.date.min, known=[])


def test_a_waiver_is_needed_while_one_host_fails() -> None:
    """Hosts that it does not cover say nothing of it, nor does one that did not judge the clause."""

    def told(**verdicts: str) -> list[str]:
        profiles = [
            {"profile": name.replace("_", "-"), "clauses": [{"id": "BUNDLE-001", "verdict": verdict}]}
            for name, verdict in verdicts.items()
        ]
        return list(describe_unneeded(waivers, profiles))

    waivers = parse_waivers(GOOD, today=TODAY, known=["BUNDLE-001"])
    line = "waiver of BUNDLE-001 is not needed: it passed on "
    assert told(local="FAIL", debian12_a="PASS", debian12_b="PASS") == [f"{line}debian12-a, debian12-b"]
    assert told(debian12_a="PASS", debian12_b="WAIVED") == []
    assert told(debian12_a="ERROR") == []
    assert told(local="PASS") == []
