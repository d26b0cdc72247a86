"""Runtimes side by side: each difference has its reason, each reason its difference."""

from pathlib import Path
from typing import Any

import pytest

from conformance.clauses import Clause, read_catalogue
from conformance.compare import make_page, read_reasons
from conformance.report import Json, ReportError, join_reports, make_profile
from conformance.runtimes import RUNTIMES
from conformance.verdicts import Outcome
from tests.manual import ROOT
from tests.unit.conformance.samples import record, run

PAGE = ROOT / "docs" / "manual" / "reference" / "runtimes-compared.md"
P, F = Outcome.PASSED, Outcome.FAILED
WHY = "because it is so"
KERNEL = {"guest_kernel": "6.1.0"}


def clause(name: str, *runtimes: str) -> Clause:
    """Return a clause about `runtimes`."""
    return Clause(name, "MUST", f"{name} holds.", "seen", "design", ("*",), ("x",), runtimes)


CATALOGUE = {
    "AB-001": clause("AB-001", "*"),
    "AB-002": clause("AB-002", "*"),
    "CD-003": clause("CD-003", "locald-shim"),
    "EF-004": clause("EF-004", "locald-shim", "twin"),
}


def report(runtime: str, *attempts: Outcome, **more: Any) -> Json:
    """Return a report about `runtime` in which all holds, but for these attempts at the first clause."""
    first = record("AB-001", *(attempts or (P,)))
    records = (first, *(record(name, P) for name in ("AB-002", "CD-003", "EF-004")))
    made = make_profile(run(*records, runtime=runtime, **more), CATALOGUE, ())
    return join_reports([{"schema": "locald-conformance-report/5", "profiles": [made]}], runtime)


def without(whole: Json, name: str) -> Json:
    """Return a report that lacks a clause and does not say so."""
    (entry,) = whole["profiles"]
    entry["clauses"] = [each for each in entry["clauses"] if each["id"] != name]
    return whole


def test_the_page_has_each_difference_with_its_reason() -> None:
    """And what holds for all; a clause about the shim alone is in neither."""
    page = make_page([report("locald-shim"), report("crun", F)], {"AB-001": {"crun": WHY}})

    assert "| crun | does not hold | because it is so |" in page
    assert "## 1 clauses that differ" in page
    assert "- AB-002: AB-002 holds." in page
    assert "CD-003" not in page
    assert "| crun |  | 2 | 1 |" in page


def test_what_holds_is_said_of_those_that_were_asked() -> None:
    """A clause about the twin and not about crun is in a list of its own, and counted for the twin alone."""
    page = make_page([report("locald-shim"), report("crun"), report("twin")], {})

    both, _, twin = page.partition("## 1 clauses that hold for locald-shim and twin\n")
    assert "## 2 clauses that hold for all\n" in both
    assert "EF-004" not in both
    assert twin == "\n- EF-004: EF-004 holds.\n"
    assert "| crun |  | 2 | 2 |" in both
    assert "| twin |  | 3 | 3 |" in both


def test_a_clause_that_the_shim_does_not_hold_is_no_measure() -> None:
    """Both fail it alike, and what is alike is listed as what holds."""
    with pytest.raises(ReportError, match="AB-001: locald-shim does not hold, so that crun cannot"):
        make_page([report("locald-shim", F), report("crun", F)], {})


@pytest.mark.parametrize(
    ("peers", "reasons", "fault"),
    [
        ((report("crun", F),), {}, "AB-001: crun does not hold, and no reason is given"),
        ((report("crun", F, P),), {}, "AB-001: crun holds at times, and no reason"),
        ((report("crun"),), {"AB-001": {"crun": WHY}}, "AB-001: crun is like locald-shim, and a reason"),
        ((report("crun"),), {"CD-003": {"crun": WHY}}, "CD-003: a reason for crun, of which it says nothing"),
        ((report("crun"),), {"ZZ-009": {"crun": WHY}}, "ZZ-009: a reason for crun, and no such clause"),
        ((report("crun"),), {"AB-001": {"runc": WHY}}, "AB-001: a reason for runc, which has no report"),
        ((report("crun", Outcome.BROKEN),), {}, "AB-001: ERROR can be compared with nothing"),
        ((report("crun"), report("crun")), {}, "two reports about crun"),
        ((), {}, "one about a peer are needed"),
        ((report("crun", profile="other"),), {}, "more than one host"),
        ((report("crun", kit={"sha256": "e" * 64}),), {}, "more than one kit"),
        ((report("crun", proven=False),), {}, "the host was not proven: crun"),
        ((report("crun", selected=("AB-001",)),), {}, "not every clause was judged: crun"),
        ((report("crun", narrowed=True),), {}, "not every clause was judged: crun"),
        ((report("crun", errors=("3 of 9 cases …",)),), {}, "around the clauses: crun: 3 of 9 cases …"),
        ((report("crun", subject=KERNEL | {"planted": "coverage"}),), {}, "what was planted: crun"),
        ((report("crun", subject={"guest_kernel": "5.10.0"}),), {}, "more than one kernel"),
        ((without(report("crun"), "AB-002"),), {}, "AB-002: the report about crun does not have it"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    peers: tuple[Json, ...], reasons: dict[str, dict[str, str]], fault: str
) -> None:
    """Each with the words that say which."""
    with pytest.raises(ReportError, match=fault):
        make_page([report("locald-shim"), *peers], reasons)


def test_a_clause_that_the_shims_report_lacks_is_named() -> None:
    """Nothing is compared with what nobody judged."""
    with pytest.raises(ReportError, match=r"^AB-002: the report about locald-shim does not have it$"):
        make_page([without(report("locald-shim"), "AB-002"), report("crun")], {})


def test_a_reason_is_a_sentence(tmp_path: Path) -> None:
    """An empty one is none."""
    file = tmp_path / "reasons.toml"
    for text in ('["AB-001"]\ncrun = " "\n', '"AB-001" = "so"\n', "no toml"):
        file.write_text(text)
        with pytest.raises(ReportError):
            read_reasons(file)


def test_the_page_of_the_manual_has_the_reasons_of_the_tree() -> None:
    """Each once, word for word, of clauses and runtimes that there are; else `python -m conformance compare`."""
    page, catalogue = PAGE.read_text("utf-8"), read_catalogue()
    reasons = read_reasons()

    for name, entry in reasons.items():
        section = page.partition(f"### {name}\n")[2].partition("\n#")[0]
        assert catalogue[name].statement in section, name
        for runtime, why in entry.items():
            assert runtime in RUNTIMES
            assert catalogue[name].is_about(runtime), (name, runtime)
            rows = [f"| {runtime} | {shown} | {why} |" for shown in ("does not hold", "holds at times")]
            assert any(row in section for row in rows), (name, runtime)
    assert page.count("\n### ") == len(reasons)
