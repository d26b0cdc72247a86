"""What the host's own logs said in the time of each job: the journal and the audit log, read once at the end.

A process costs too much in an emulated guest to ask after every job. The agent noted when each job began and ended,
by the guest's clock, and it read the kernel's ring buffer itself.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import vms

READ_LIMIT_S: Final = 120.0
READ_BYTES: Final = 8_000_000
LINES_EACH: Final = 60
# A log line comes with a delay, and the job's interval is rounded.
SLACK_S: Final = 0.25
BOUNDARY: Final = "-- audit --"
# The journal of the run, then the audit log; a host without one or the other has no lines of it.
SCRIPT: Final = f"""
command -v journalctl >/dev/null 2>&1 && journalctl --quiet --no-pager --output=json \\
    --output-fields=MESSAGE,SYSLOG_IDENTIFIER,_TRANSPORT --since="@$1" 2>/dev/null | head -c {READ_BYTES}
printf '\\n{BOUNDARY}\\n'
[ ! -r /var/log/audit/audit.log ] || tail -c {READ_BYTES} /var/log/audit/audit.log
"""

_AUDIT: Final = re.compile(r"audit\((?P<time>\d+\.\d+):(?P<serial>\d+)\)")
_DENIED: Final = re.compile(r'avc: +denied|apparmor="DENIED"')


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log."""

    time: float  # seconds since 1970, the guest's clock
    source: Literal["journal", "audit"]
    text: str


def read_logs(guest: vms.Guest, since: float) -> list[Line]:
    """Return the journal's and the audit log's lines since then; an empty list where the guest keeps neither."""
    output = guest.run(
        ["/bin/sh", "-c", SCRIPT, "logs", str(int(since))],
        user="root",
        deadline=vms.Deadline.after(READ_LIMIT_S),
    )
    journal, _, audit = output.text.partition(f"\n{BOUNDARY}")
    return [*parse_journal(journal), *(line for line in parse_audit(audit) if line.time >= since - 1)]


def parse_journal(text: str) -> Iterator[Line]:
    """Yield the lines of `journalctl --output=json`, without the kernel's own: the agent has those."""
    for row in text.splitlines():
        try:
            entry = json.loads(row)
            time = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        # The last row may be cut off by the limit.
        except (ValueError, KeyError, TypeError):
            continue
        if entry.get("_TRANSPORT") == "kernel":
            continue
        message = entry.get("MESSAGE")
        # What is not UTF-8 comes as a list of numbers.
        shown = bytes(message).decode(errors="backslashreplace") if isinstance(message, list) else message
        yield Line(time, "journal", f"{entry.get('SYSLOG_IDENTIFIER', '?')}: {shown}")


def parse_audit(text: str) -> Iterator[Line]:
    """Yield the lines of auditd's log that carry a time."""
    for row in text.splitlines():
        if match := _AUDIT.search(row):
            yield Line(float(match["time"]), "audit", row)


def share_out(lines: list[Line], pieces: Iterable[dict[str, Any]]) -> None:
    """Put into each piece of evidence the lines of its time, and how many denials they and the kernel's tell."""
    ordered = sorted(lines, key=lambda line: line.time)
    for piece in pieces:
        if "started" not in piece or "ended" not in piece:
            continue
        begin, end = piece["started"] - SLACK_S, piece["ended"] + SLACK_S
        said = list(piece.get("kernel", ()))
        for source in ("journal", "audit"):
            found = [line.text for line in ordered if line.source == source and begin <= line.time <= end]
            said += found
            if found:
                left_out = len(found) - LINES_EACH
                piece[source] = found[:LINES_EACH] + ([f"and {left_out} more lines"] if left_out > 0 else [])
        # Of all lines, also of those that are left out.
        denied = count_denials(said)
        if denied:
            piece["denials"] = denied


def count_denials(lines: Iterable[str]) -> int:
    """Return how many denials of a security module `lines` tell; one that stands in two logs counts once."""
    seen = set()
    for number, line in enumerate(lines):
        if _DENIED.search(line):
            match = _AUDIT.search(line)
            seen.add(match["serial"] if match else f"line {number}")
    return len(seen)
