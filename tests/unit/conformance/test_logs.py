"""The logs of a host: what belongs to which job, and how many denials they tell."""

import json
from typing import Any

from conformance.logs import LINES_EACH, Line, count_denials, parse_audit, parse_journal, share_out

AVC = 'type=AVC msg=audit(1000.300:77): avc:  denied  { read } for  pid=9 comm="head"'


def entry(time: float, message: Any, **more: str) -> str:
    """Return a row of `journalctl --output=json`."""
    return json.dumps({"__REALTIME_TIMESTAMP": str(int(time * 1e6)), "MESSAGE": message, **more})


def test_the_journal_is_read_whatever_it_holds() -> None:
    """Bytes that are no text come as numbers; the kernel's lines are the agent's; a cut row is left out."""
    rows = [
        entry(1000.25, "session opened", SYSLOG_IDENTIFIER="sudo", _TRANSPORT="syslog"),
        entry(1000.5, [104, 105, 255]),
        entry(1000.5, "loud", _TRANSPORT="kernel"),
        entry(1000.5, "cut")[:-5],
    ]
    assert list(parse_journal("\n".join(rows))) == [
        Line(1000.25, "journal", "sudo: session opened"),
        Line(1000.5, "journal", "?: hi\\xff"),
    ]


def test_lines_go_to_the_job_of_their_time() -> None:
    """Inside the interval, with a little slack; a job of another moment gets none."""
    lines = [
        Line(1000.2, "journal", "sudo: a"),
        *parse_audit(f"{AVC}\nnonsense"),
        Line(2000, "audit", "late"),
    ]
    jobs: list[dict[str, Any]] = [
        {"started": 1000.0, "ended": 1000.5, "kernel": ["audit: type=1400 audit(1000.300:77): avc:  denied"]},
        {"started": 1500.0, "ended": 1501.0},
        {"note": "no program ran"},
    ]
    share_out(lines, jobs)

    assert (jobs[0]["journal"], jobs[0]["audit"], jobs[0]["denials"]) == (["sudo: a"], [AVC], 1)
    assert jobs[1:] == [{"started": 1500.0, "ended": 1501.0}, {"note": "no program ran"}]


def test_a_denial_counts_though_its_line_is_left_out() -> None:
    """A log of many lines is cut, and says so; what it tells of denials is not."""
    many = [Line(1000.1, "audit", f"quiet {number}") for number in range(LINES_EACH + 5)]
    jobs: list[dict[str, Any]] = [{"started": 1000.0, "ended": 1000.5}]
    share_out([*many, *parse_audit(AVC)], jobs)

    assert jobs[0]["audit"][-2:] == [f"quiet {LINES_EACH - 1}", "and 6 more lines"]
    assert jobs[0]["denials"] == 1


def test_a_denial_that_stands_in_two_logs_counts_once() -> None:
    """The serial number of the audit event tells; AppArmor's denials count too."""
    again = "audit: type=1400 audit(1000.300:77): avc:  denied  { read }"
    other = 'audit: type=1400 audit(1000.300:78): apparmor="DENIED" operation="userns_create"'
    assert count_denials([AVC, again, other, "avc:  granted", 'apparmor="ALLOWED"']) == 2
