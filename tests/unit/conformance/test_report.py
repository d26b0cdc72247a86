"""The report: its schema, its merging, JUnit, and the summary that a person reads."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from conformance.clauses import Clause
from conformance.report import (
    SCHEMA,
    Attempt,
    ProfileRun,
    Proof,
    ReportError,
    TestRecord,
    make_junit,
    make_profile,
    merge_report,
    summarise,
    write_report,
)
from conformance.verdicts import Outcome


def clause(name: str, level: Any = "MUST") -> Clause:
    """Return a clause that applies everywhere."""
    return Clause(name, level, f"{name} holds.", "seen", "design", ("*",), ("always-fails",))


CATALOGUE = {name: clause(name) for name in ("A-001", "A-002")} | {"A-003": clause("A-003", "SHOULD")}


def record(name: str, *outcomes: Outcome, message: str = "") -> TestRecord:
    """Return a test of a clause with these attempts."""
    attempts = tuple(
        Attempt(outcome, 0.5, message if outcome is not Outcome.PASSED else "") for outcome in outcomes
    )
    return TestRecord(name, f"test_a.py::test_{name}", attempts)


def run(*records: TestRecord, proven: bool = True, profile: str = "local", **changes: Any) -> ProfileRun:
    """Return what a profile's process learnt."""
    proof = (Proof("fact", proven=proven, observed="so it is"),)
    values: dict[str, Any] = {
        "subject": {"wheel": "x.whl"},
        "before": proof,
        "after": proof,
        "records": records,
    }
    return ProfileRun(
        profile, "2026-11-22T00:00:00Z", "2026-11-22T00:01:00Z", 7, "locald-shim", **values | changes
    )


GREEN = (record("A-001", Outcome.PASSED), record("A-002", Outcome.PASSED), record("A-003", Outcome.FAILED))


def test_green_needs_every_must() -> None:
    """A SHOULD may fail; a MUST that fails or is missing may not."""
    assert make_profile(run(*GREEN), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN[:1], *GREEN[2:]), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, record("A-001", Outcome.FAILED)), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, proven=False), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, after=()), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, errors=("broken",)), CATALOGUE, ())["green"]


def test_verdicts_carry_their_reasons() -> None:
    """What is not a pass says why in one line."""
    tests = (
        record("A-001", Outcome.FAILED, Outcome.PASSED, message="boom\nmore"),
        record("A-003", Outcome.BROKEN, message="lost"),
    )
    made = make_profile(run(*tests), CATALOGUE, ())
    reasons = {entry["id"]: (entry["verdict"], entry["reason"]) for entry in made["clauses"]}

    assert reasons == {
        "A-001": ("FLAKY", "passed 1 of 2: boom"),
        "A-002": ("MISSING", "no test of this clause ran"),
        "A-003": ("ERROR", "lost"),
    }
    assert made["totals"] == {"FLAKY": 1, "MISSING": 1, "ERROR": 1}


def test_a_selection_is_marked_incomplete() -> None:
    """A run of some clauses reports those and says that it is not everything."""
    made = make_profile(run(GREEN[0], selected=("A-001",)), CATALOGUE, ())

    assert [entry["id"] for entry in made["clauses"]] == ["A-001"]
    assert not made["complete"]
    assert made["green"]


def test_profiles_are_merged_by_run(tmp_path: Path) -> None:
    """A second profile joins the report of the same run; a repeated one replaces its earlier result."""
    directory = tmp_path / "run-1"
    write_report(directory, make_profile(run(*GREEN), CATALOGUE, ()))
    write_report(directory, make_profile(run(profile="debian12-selinux"), CATALOGUE, ()))
    report = json.loads((directory / "report.json").read_text())

    assert (report["schema"], report["run"], report["green"]) == (SCHEMA, "run-1", False)
    assert [entry["profile"] for entry in report["profiles"]] == ["debian12-selinux", "local"]

    report = write_report(directory, make_profile(run(*GREEN, profile="debian12-selinux"), CATALOGUE, ()))
    assert report["green"]
    with pytest.raises(ReportError):
        merge_report(report, "another-run", report["profiles"][0])
    with pytest.raises(ReportError):
        merge_report({"schema": "other"}, "run-1", report["profiles"][0])


def test_junit_is_well_formed_whatever_a_payload_printed() -> None:
    """Control characters do not break the XML; failures and errors are told apart."""
    tests = (
        record("A-001", Outcome.FAILED, message="a\x00b\x1b[31m"),
        record("A-002", Outcome.BROKEN, message="c"),
    )
    report = merge_report(None, "r", make_profile(run(*tests), CATALOGUE, ()))
    root = ET.fromstring(make_junit(report))

    (suite,) = root.findall("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "2")


def test_the_summary_shows_matrix_and_reproducer() -> None:
    """A line a clause, a column a profile, and for each red one how to see it again."""
    report = merge_report(
        None, "r", make_profile(run(GREEN[0], record("A-002", Outcome.FAILED, message="no")), CATALOGUE, ())
    )
    text = "\n".join(summarise(report))

    assert "A-001        PASS" in text
    assert "FAIL A-002 (MUST): no" in text
    assert "pytest conformance --profile=local --clause=A-002" in text
    assert "NOT green" in text
