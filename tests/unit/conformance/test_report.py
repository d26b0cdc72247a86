"""The report: what follows from the attempts, its form, its joining, JUnit, and the summary that a person reads."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from conformance.rendering.junit import make_junit
from conformance.rendering.page import make_page
from conformance.rendering.summary import describe_time, summarise
from conformance.report import (
    SCHEMA,
    HostState,
    ReportError,
    add_accounts,
    join_reports,
    make_profile,
    merge_report,
)
from conformance.report_files import SCHEMA_FILE, parse_report, read_report, write_profile
from conformance.verdicts import Outcome
from conformance.waivers import Waiver
from tests.unit.conformance.samples import (
    CATALOGUE,
    GREEN,
    account,
    as_bytes,
    make_report,
    piece,
    record,
    run,
)


def test_green_needs_every_must() -> None:
    """A SHOULD may fail; a MUST that fails or is missing may not."""
    assert make_profile(run(*GREEN), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN[:1], *GREEN[2:]), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, record("AB-001", Outcome.FAILED)), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, proven=False), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, after=()), CATALOGUE, ())["green"]
    assert not make_profile(run(*GREEN, errors=("broken",)), CATALOGUE, ())["green"]


def test_a_flaky_clause_is_never_green() -> None:
    """Passed at the second try is FLAKY with its odds; only a waiver, which is shown, makes the run green."""
    flaky = (record("AB-001", Outcome.FAILED, Outcome.PASSED, Outcome.PASSED, message="boom"), *GREEN[1:])
    made = make_profile(run(*flaky), CATALOGUE, ())
    waiver = Waiver("AB-001", "local", "known", "somebody", datetime.date(2026, 12, 1))
    waived = make_profile(run(*flaky), CATALOGUE, (waiver,))

    assert (made["green"], made["clauses"][0]["verdict"]) == (False, "FLAKY")
    assert made["clauses"][0]["reason"] == "passed 2 of 3: boom"
    assert (waived["green"], waived["clauses"][0]["verdict"]) == (True, "WAIVED")
    assert waived["clauses"][0]["waiver"] == {"owner": "somebody", "reason": "known", "until": "2026-12-01"}


def test_verdicts_carry_their_reasons() -> None:
    """What is not a pass says why in one line."""
    tests = (
        record("AB-001", Outcome.FAILED, Outcome.PASSED, message="boom\nmore"),
        record("CD-003", Outcome.BROKEN, message="lost"),
    )
    made = make_profile(run(*tests), CATALOGUE, ())
    reasons = {entry["id"]: (entry["verdict"], entry["reason"]) for entry in made["clauses"]}

    assert reasons == {
        "AB-001": ("FLAKY", "passed 1 of 2: boom"),
        "AB-002": ("MISSING", "no test of this clause ran"),
        "CD-003": ("ERROR", "lost"),
    }
    assert made["totals"] == {"FLAKY": 1, "MISSING": 1, "ERROR": 1}


def test_a_selection_is_marked_incomplete() -> None:
    """A run of some clauses reports those and says that it is not everything."""
    made = make_profile(run(GREEN[0], selected=("AB-001",)), CATALOGUE, ())

    assert [entry["id"] for entry in made["clauses"]] == ["AB-001"]
    assert not made["complete"]
    assert made["green"]


def test_what_a_run_changed_is_told() -> None:
    """Before and after are compared line by line; a host that was not looked at again has no changes to tell."""
    state = HostState({"mounts": ["a", "b"], "taint": ["0"]}, {"mounts": ["b", "c"], "taint": ["0"]})

    assert make_profile(run(*GREEN, host=state), CATALOGUE, ())["host"]["changes"] == [
        "mounts - a",
        "mounts + c",
    ]
    assert make_profile(run(*GREEN, host=HostState({"taint": ["0"]})), CATALOGUE, ())["host"]["changes"] == []


def test_profiles_are_merged_by_run(tmp_path: Path) -> None:
    """A second profile joins the report of the same run; a repeated one replaces its earlier result."""
    directory = tmp_path / "run-1"
    write_profile(directory, make_profile(run(*GREEN), CATALOGUE, ()))
    write_profile(directory, make_profile(run(profile="debian12-selinux"), CATALOGUE, ()))
    report = read_report(directory / "report.json")

    assert (report["schema"], report["run"], report["green"]) == (SCHEMA, "run-1", False)
    assert [entry["profile"] for entry in report["profiles"]] == ["debian12-selinux", "local"]
    assert {path.name for path in directory.iterdir()} == {
        ".lock",
        "report.json",
        "junit.xml",
        "index.html",
    }

    report = write_profile(directory, make_profile(run(*GREEN, profile="debian12-selinux"), CATALOGUE, ()))
    assert report["green"]
    with pytest.raises(ReportError, match="not a report of run"):
        merge_report(report, "another-run", report["profiles"][0])
    with pytest.raises(ReportError, match="schema"):
        merge_report({"schema": "other", "run": "run-1"}, "run-1", report["profiles"][0])


def test_reports_of_several_machines_are_joined() -> None:
    """Each brings its profiles; the join is as green as all of them; the account of the controls comes along."""
    local = make_report(run(*GREEN), controls=[account()])
    other = make_report(run(*GREEN[:1], profile="debian12-selinux"))
    joined = join_reports([local, other], "joined")

    assert [entry["profile"] for entry in joined["profiles"]] == ["debian12-selinux", "local"]
    assert (joined["run"], joined["green"], joined["controls"]) == ("joined", False, [account()])


def test_accounts_of_several_hosts_are_joined() -> None:
    """One a host, by name; the same again is none more, and another of the same host is refused."""
    first, second = make_report(controls=[account(profile="vm")]), account()
    assert add_accounts(first, [second, account(profile="vm")])["controls"] == [second, account(profile="vm")]
    with pytest.raises(ReportError, match="two accounts of the faults planted on vm"):
        add_accounts(first, [account(profile="vm", unproven=["AB-001"])])
    later = account(profile="vm", unproven=["AB-001"])
    assert add_accounts(first, [later], replace=True)["controls"] == [later]
    with pytest.raises(ReportError, match="different wheels cannot be joined: local has"):
        add_accounts(make_report(), [account(profile="vm", wheel_sha256="0" * 64)])
    with pytest.raises(ReportError, match="different kits cannot be joined"):
        add_accounts(make_report(), [account(kit={"sha256": "0" * 64})])


def test_what_does_not_belong_together_is_not_joined() -> None:
    """Another wheel, another kit, a profile twice unless told, another schema, nothing at all."""
    local = make_report()

    def changed(part: str, key: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(json.dumps(make_report(run(*GREEN, profile="other"))))
        report["profiles"][0][part][key] = "e" * 64
        return report

    for broken, match in (
        (changed("subject", "wheel_sha256"), "different wheels cannot be joined: local has .*; other has e"),
        (changed("kit", "sha256"), "different kits"),
        (make_report(), "two results of the profile local"),
        ({**local, "schema": "locald-conformance-report/1"}, "its schema is"),
    ):
        with pytest.raises(ReportError, match=match):
            join_reports([local, broken], "x")
    with pytest.raises(ReportError, match="nothing"):
        join_reports([], "x")
    later = make_report(run(*GREEN[:1]))
    assert not join_reports([local, later], "x", replace=True)["green"]


def test_the_schema_holds_what_is_written_and_nothing_else() -> None:
    """A report with everything in it passes; a member too many, too few or of another type does not."""
    waiver = Waiver("AB-002", "*", "known", "somebody", datetime.date(2026, 12, 1))
    tests = (record("AB-001", Outcome.PASSED, evidence=(piece(kernel=["a"], denials=1),)), *GREEN[2:])
    flaky = record("AB-002", Outcome.PASSED, Outcome.FAILED, message="x")
    report = make_report(run(*tests, flaky), run(proven=False, profile="other"), waivers=(waiver,))
    content = as_bytes(report)

    assert parse_report(content, "x") == report
    for old, new, match in (
        (b'"seed": 7', b'"seed": "7"', "seed"),
        (b'"seed": 7', b'"seed": NaN', "not JSON"),
        (b'"seed": 7', b'"seed": 7, "seed": 8', "twice"),
        (b'"seed": 7', b'"sown": 7', "sown|seed"),
        (b'"verdict": "WAIVED"', b'"verdict": "FINE"', "FINE"),
        (b'"waiver": {', b'"favour": {', "favour|waiver"),
        (b'"denials": 1', b'"denials": -1', "denials"),
        (SCHEMA.encode(), b"of/another", "schema"),
        (content[-20:], b"", "not JSON"),
    ):
        assert old in content
        with pytest.raises(ReportError, match=match):
            parse_report(content.replace(old, new, 1), "x")


def test_the_schema_is_a_schema() -> None:
    """It is valid by its own standard, and its name is the code's."""
    import jsonschema  # noqa: PLC0415

    document = json.loads(SCHEMA_FILE.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["title"] == SCHEMA


def test_junit_has_what_no_clause_is_to_blame_for() -> None:
    """A host that was changed makes the run red; so does a fault that was not seen."""
    controls = [account(missed=[{"control": "always-fails", "clause": "AB-001"}])]
    made = make_report(
        run(*GREEN[:2], record("CD-003", Outcome.PASSED), errors=("it changed: \x1b",)), controls=controls
    )
    suites = list(ET.fromstring(make_junit(made)))

    assert [suite.attrib.get("errors") for suite in suites] == ["1", None]
    assert [suite.attrib["failures"] for suite in suites] == ["0", "1"]
    assert [suite.attrib["tests"] for suite in suites] == [str(len(suite)) for suite in suites] == ["4", "2"]
    assert [
        mark.attrib["message"] for mark in ET.fromstring(make_junit(made)).iter() if "message" in mark.attrib
    ] == [
        "it changed: \N{REPLACEMENT CHARACTER}",
        "always-fails did not turn AB-001 red",
    ]


def test_junit_is_well_formed_whatever_a_payload_printed() -> None:
    """Control characters do not break the XML; failures and errors are told apart."""
    tests = (
        record("AB-001", Outcome.FAILED, message="a\x00b\x1b[31m\udc80"),
        record("AB-002", Outcome.BROKEN, message="c"),
    )
    root = ET.fromstring(make_junit(make_report(run(*tests))))

    (suite,) = root.findall("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "2")


def test_junit_shows_a_waiver_as_skipped_with_its_reason() -> None:
    """Neither a failure, which blocks a CI, nor a pass, which hides it."""
    waiver = Waiver("AB-001", "local", "being mended", "somebody", datetime.date(2026, 12, 31))
    made = make_report(run(record("AB-001", Outcome.FAILED), *GREEN[1:]), waivers=(waiver,))
    (suite,) = ET.fromstring(make_junit(made)).findall("testsuite")

    assert (suite.get("failures"), suite.get("skipped")) == ("1", "1")
    (skipped,) = suite.iter("skipped")
    assert skipped.get("message") == "until 2026-12-31 (somebody): being mended"


def test_the_summary_shows_matrix_and_reproducer() -> None:
    """A line a family of clauses, a column a profile, and for each red clause the command that shows it again."""
    text = "\n".join(summarise(make_report(run(GREEN[0], record("AB-002", Outcome.FAILED, message="no")))))

    assert "AB  1 of 2" in text
    assert "CD  0 of 1" in text
    assert "FAIL AB-002 (MUST): no" in text
    assert "again: ci/nox -s conformance -- --profile local --clause AB-002 --seed 7" in text
    assert "NOT green" in text


def test_the_summary_and_the_page_name_what_is_unproven() -> None:
    """A clause that no planted fault turned red is named in both, and a fault that was missed with its claim."""
    told = account(
        missed=[{"control": "always-fails", "clause": "AB-001"}],
        unproven=["AB-002", "CD-001"],
        verdicts={"always-fails": {"AB-001": "PASS"}},
    )
    report = make_report(run(*GREEN), controls=[told])

    assert summarise(report)[-3:] == [
        "planted faults: 1 on local, 1 missed, 2 clauses unproven",
        "  missed: always-fails did not turn AB-001 red",
        "  unproven: AB-002, CD-001",
    ]
    page = make_page(report)
    assert "<summary>1 missed</summary>AB-001 by always-fails</details>" in page
    assert "<summary>2 clauses unproven</summary>AB-002, CD-001</details>" in page
    others = [account(), account(profile="vm")]
    page = make_page(make_report(run(*GREEN), controls=others))
    for name in ("local", "vm"):
        good = f"<dt>Planted faults on {name}</dt><dd>1 planted, none missed, no clause unproven"
        assert good in page


def test_a_second_boot_is_told() -> None:
    """It is allowed, but nobody may overlook it."""
    once, twice = (replace(run(*GREEN), subject={"boots": boots}) for boots in ("1", "2"))
    line = "  booted 2 times: the one before did not reach ssh"
    assert line not in summarise(make_report(once))
    assert line in summarise(make_report(twice))


def test_the_summary_says_where_the_time_went() -> None:
    """The phases with their seconds, and the clauses that took longest."""
    profile = make_profile(run(*GREEN, record("AB-002", Outcome.PASSED)), CATALOGUE, ())

    assert describe_time(profile) == [
        "time: 4 s: boot 1.0 s, clauses 2.5 s",
        "slowest clauses: AB-002 1.0 s, CD-003 0.5 s, AB-001 0.5 s",
    ]


def test_the_catalogue_decides_what_is_not_about_a_peer() -> None:
    """A clause about the shim alone says nothing of crun, whatever a test recorded; junit calls it skipped."""
    made = make_report(run(record("AB-001", Outcome.FAILED), runtime="crun"))
    (profile,) = made["profiles"]

    assert profile["totals"] == {"NOT-APPLICABLE": 3}
    assert not profile["green"]
    assert {clause["reason"] for clause in profile["clauses"]} == {"the catalogue: no clause about crun"}
    assert make_junit(made).count(b"<skipped") == 3
    assert parse_report(as_bytes(made), "crun") == made


def test_reports_of_two_runtimes_are_not_joined() -> None:
    """Two hosts of one run have one subject."""
    parts = [make_report(run(*GREEN)), make_report(run(*GREEN, profile="other", runtime="crun"))]

    with pytest.raises(ReportError, match="different runtimes"):
        join_reports(parts, "run-2")
