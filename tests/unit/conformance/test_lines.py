"""Whatever a report says, a terminal shows lines of ours and nothing else: no escape, no line of a stranger's."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from conformance import __main__ as command
from conformance.rendering.junit import make_junit
from conformance.rendering.lines import count_things, make_line
from conformance.rendering.summary import describe_profile, summarise
from conformance.report import Json
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import GREEN, account, make_report, make_wheel, proof, record, run

FORGED = "release-gate: PASS: x.whl on local"
# Takes the line back, ends it, turns what follows around, and colours the rest.
HOSTILE = f"no\r\x1b[2K\x9b1A\n{FORGED}\n\u202eneerg\u2066\x1b[32m\udc80"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  error: plain, ünïcode ✓", "  error: plain, ünïcode ✓"),
        ("  a \n\n   b\r\nc\u2028d\x85e\n", "  a b c d e"),
        ("\x1b[31m\x07\t\x9b\x7f", "\\x1b[31m\\x07\\t\\x9b\\x7f"),
        ("\u202e\u2066\u200f\ufeff\udc80", "\\u202e\\u2066\\u200f\\ufeff\\udc80"),
        ("", ""),
    ],
)
def test_a_line_shows_and_does_nothing(text: str, line: str) -> None:
    """Its indent stays; ends become spaces, and what cannot be seen its escape."""
    assert make_line(text) == line


def test_a_number_agrees_with_its_thing() -> None:
    """One is not many."""
    assert [count_things(number, "reason") for number in (0, 1, 2)] == ["0 reasons", "1 reason", "2 reasons"]


def make_hostile() -> Json:
    """Return a report that would like to write on the terminal of who reads it, wherever a text stands."""
    observed = proof(proven=False)
    made: Any = make_report(
        run(*GREEN[:1], errors=(HOSTILE,), logs={"denials": 1}, before=(observed,)),
        controls=[account(missed=[{"control": HOSTILE, "clause": HOSTILE}], unproven=[HOSTILE])],
    )
    (entry,) = made["profiles"]
    entry["profile"] = f"local{HOSTILE}"
    entry["preconditions"]["before"][0] |= {"name": HOSTILE, "observed": HOSTILE}
    entry["clauses"][1] |= {"verdict": "FAIL", "reason": HOSTILE}
    result: Json = made
    return result


def test_the_summary_is_not_written_by_the_report() -> None:
    """Neither the matrix nor what stands below it."""
    made = make_hostile()
    for lines in (summarise(made), list(describe_profile(made["profiles"][0]))):
        assert len(lines) > 5
        assert [line for line in lines if not line.isprintable() or line.startswith(FORGED)] == []


def test_junit_can_be_read_whatever_the_report_says() -> None:
    """Names of hosts, runs and clauses are no more to be trusted than what a program printed."""
    made = {**make_hostile(), "run": HOSTILE}
    made["controls"][0]["profile"] = made["profiles"][0]["clauses"][0]["statement"] = HOSTILE
    assert len(ET.fromstring(make_junit(made))) == 2


def test_the_summary_counts_in_english() -> None:
    """One clause, one denial."""
    made = make_report(
        run(GREEN[0], selected=("AB-001",), logs={"denials": 1}), controls=[account(unproven=["AB-001"])]
    )
    text = "\n".join(summarise(made))
    assert "local: green (a selection of clauses): 1 clause: 1 PASS" in text
    assert "1 denial in the logs" in text
    assert "1 clause unproven" in text


def test_the_verbs_print_no_line_of_the_reports(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Gate and merge, what they refuse and what they take."""
    report, wheel = tmp_path / "report.json", tmp_path / "x.whl"
    text = json.dumps(make_hostile())  # escaped: a file holds no surrogate
    report.write_text(text)
    wheel.write_bytes(make_wheel())
    gate = ["gate", str(wheel), str(report), f"--key={keys[1]}"]
    joined = str(tmp_path / "joined")

    assert command.main(gate) == 1
    assert command.main(["merge", str(report), "-o", joined]) == 0
    assert command.main(["merge", str(report), str(report), "-o", joined]) == 1
    (tmp_path / "broken.json").write_text(text.replace('"seed": 7', '"seed": "7"'))
    assert command.main(["merge", str(tmp_path / "broken.json"), "-o", joined]) == 2
    said = capsys.readouterr()
    lines = f"{said.out}{said.err}".split("\n")

    assert len(lines) > 10
    assert [line for line in lines if not line.isprintable() or line.startswith(FORGED)] == []


def test_the_gate_gives_one_reason(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """And does not call it reasons."""
    report, wheel = tmp_path / "report.json", tmp_path / "x.whl"
    report.write_text("{")
    wheel.write_bytes(make_wheel())
    assert command.main(["gate", str(wheel), str(report), f"--key={keys[1]}"]) == 1
    assert capsys.readouterr().out.endswith("release-gate: REFUSED: 1 reason\n")


def test_a_flaky_reason_is_one_line() -> None:
    """As it is told below the matrix."""
    flaky = record("AB-001", Outcome.FAILED, Outcome.PASSED, message="AssertionError: it is\nassert 1 == 2")
    assert "  FLAKY AB-001 (MUST): passed 1 of 2: it is: assert 1 == 2" in summarise(make_report(run(flaky)))
