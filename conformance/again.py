"""After a red run: which clauses to judge again, and a shell on the host that turned them red."""

import json
import subprocess
import sys
from pathlib import Path

import vms
from conformance.clauses import OURS
from conformance.report import SCHEMA
from conformance.verdicts import GREEN, Verdict


class NothingRed(LookupError):
    """The newest report about a host is green."""


def find_last_failed(reports: Path, profile: str, runtime: str = OURS) -> tuple[str, ...]:
    """Return the clauses to judge again: what was red in the newest report below `reports` about `profile`.

    Every clause of that report, where it is not green and no MUST clause is why: its errors are.

    Raises:
        NothingRed: It was green.
        LookupError: No such report about this runtime.
    """
    found = []
    # A report that could not be joined to what lay in its directory is in one of its own, below.
    for path in reports.glob("**/report.json"):
        try:
            report = json.loads(path.read_text("utf-8"))
            if report["schema"] != SCHEMA:
                continue
            found += [
                (entry["finished"], str(path), entry)
                for entry in report["profiles"]
                if entry["profile"] == profile and entry["runtime"] == runtime
            ]
        # A report of a run that was cut off is none to go by.
        except (OSError, ValueError, KeyError, TypeError):
            continue
    # A run with a planted fault judged the kit.
    found = [row for row in found if "planted" not in row[2].get("subject", {})]
    if not found:
        raise LookupError(f"{reports} has no report about {profile} with {runtime}")
    _, newest, entry = max(found, key=lambda row: row[:2])
    fine = {*GREEN, Verdict.NOT_APPLICABLE}
    red = [clause for clause in entry["clauses"] if clause["verdict"] not in fine]
    if not entry["green"] and not any(clause["level"] == "MUST" for clause in red):
        # The host was changed, say: any clause may have done it, and a few that pass now would not show that none does.
        red = entry["clauses"]
    elif not red:
        raise NothingRed(f"no clause was red on {profile} in its newest report, {newest}")
    return tuple(clause["id"] for clause in red)


def open_shell(guest: vms.Guest) -> str:
    """Open root's shell on the machine at this terminal; return why not, where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "--shell-on-fail: no terminal, so no shell; --keep-on-fail keeps the machine"
    # No deadline: a person is at work in there.
    subprocess.run(list(guest.shell("root")), check=False)  # noqa: S603  # argv of vms
    return ""
