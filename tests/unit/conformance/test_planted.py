"""A planted run: its verdicts come from its own report, never from an earlier one's, and no report is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

import vms
from conformance import planted
from conformance.planted import NoReport, Planted

ERRORS = [planted.make_error("a-fault"), "1 of 2 cases have no outcome"]
CLAUSES = [{"id": "AB-001", "verdict": "FAIL"}, {"id": "AB-002", "verdict": "PASS"}]
REPORT = {"profiles": [{"clauses": CLAUSES, "errors": ERRORS}]}


def machine(place: Path, jobs: int = 2) -> Planted:
    """Return a machine that is not there: pytest is not started."""
    return Planted("local", "a-fault", Path("a.whl"), place, jobs, 60)


def instead(
    monkeypatch: pytest.MonkeyPatch, *, leaves: Path | None, end: Exception | None = None
) -> list[list[str]]:
    """Let no pytest be started; one may leave a report. Return the command lines."""
    called = []

    def run(command: list[str], **_: Any) -> None:
        if isinstance(end, Exception):
            raise end
        called.append(command)
        if leaves is not None:
            leaves.write_text(json.dumps(REPORT))

    monkeypatch.setattr("vms.process.run", run)
    return called


def test_the_verdicts_are_the_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run once each, on the machine that is up, under the name that keeps the report from being green."""
    called = instead(monkeypatch, leaves=tmp_path / "report.json")
    judged = machine(tmp_path).run("AB-*")
    assert judged.verdicts == {"AB-001": "FAIL", "AB-002": "PASS"}
    assert judged.errors == ("1 of 2 cases have no outcome",)
    assert set(called[0]) >= {
        "--planted=a-fault",
        "--reuse",
        "--attempts=1",
        "--clause=AB-*",
        "--numprocesses=2",
    }
    assert machine(tmp_path, jobs=1).run("AB-001").verdicts
    assert not [word for word in called[1] if "numprocesses" in word]


def test_an_earlier_report_is_not_taken_for_this_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else a pytest that does not start would look like the run before."""
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    instead(monkeypatch, leaves=None)
    with pytest.raises(NoReport, match=r"a-fault: no report; see .*pytest\.log"):
        machine(tmp_path).run("*")


def test_one_that_hangs_gives_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ended with all its workers (vms.process), and told by what was planted."""
    instead(monkeypatch, leaves=None, end=vms.CommandTimedOut(["pytest"], 60))
    with pytest.raises(NoReport, match=r"a-fault: not done after 60 s; see .*pytest\.log"):
        machine(tmp_path).run("*")


def test_it_runs_in_this_tree() -> None:
    """The clauses that are run are those beside the module."""
    assert (planted.ROOT / "conformance" / "planted.py").is_file()
