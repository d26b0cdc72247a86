"""After a red run: which clauses to judge again, and a shell on the host that turned them red."""

import json
import subprocess
import sys
from pathlib import Path

import vms
from conformance.verdicts import GREEN, Verdict


class NothingRed(LookupError):
    """The newest report about a host is green."""


def find_last_failed(reports: Path, profile: str) -> tuple[str, ...]:
    """Return the clauses that were not green in the newest report below `reports` about `profile`.

    Raises:
        NothingRed: It was green.
        LookupError: No such report.
    """
    found = []
    for path in reports.glob("*/report.json"):
        try:
            profiles = json.loads(path.read_text("utf-8"))["profiles"]
            found += [
                (entry["finished"], str(path), entry) for entry in profiles if entry["profile"] == profile
            ]
        # A report of another schema, or of a run that was cut off, is none to go by.
        except (OSError, ValueError, KeyError, TypeError):
            continue
    # A run with a planted fault judged the kit.
    found = [row for row in found if "planted" not in row[2].get("subject", {})]
    if not found:
        raise LookupError(f"{reports} has no report about {profile}")
    _, newest, entry = max(found, key=lambda row: row[:2])
    fine = {*GREEN, Verdict.NOT_APPLICABLE}
    red = tuple(clause["id"] for clause in entry["clauses"] if clause["verdict"] not in fine)
    if not red:
        raise NothingRed(f"no clause was red on {profile} in its newest report, {newest}")
    return red


def open_shell(guest: vms.Guest) -> str:
    """Open root's shell on the machine at this terminal; return why not, where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "--shell-on-fail: no terminal, so no shell; --keep-on-fail keeps the machine"
    # No deadline: a person is at work in there.
    subprocess.run(list(guest.shell("root")), check=False)  # noqa: S603  # argv of vms
    return ""
