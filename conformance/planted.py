"""Run the clauses against a machine that is up and holds what is not the product: a fault, or a measured build.

What comes out says nothing about a product: session.py and the gate see to that.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import vms
from vms import process

ROOT: Final = Path(__file__).parent.parent


def make_error(name: str) -> str:
    """Return what stands among the errors of each report of a machine with `name` planted."""
    return f"a planted fault or a measured build ({name}): no verdict on a product"


class NoReport(Exception):
    """The clauses did not get as far as a report; the message has where they said why."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the clauses said, and what went wrong around them."""

    verdicts: Mapping[str, str]
    # Without the one that every such report has.
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planted:
    """A machine with something planted, and how its clauses are run."""

    profile: str
    # The name of what was planted, which stands in the report.
    name: str
    wheel: Path
    # Where report and output go.
    place: Path
    jobs: int
    limit_s: float

    def run(self, glob: str) -> Judged:
        """Run the clauses that match, once each, and return what they said.

        Raises:
            NoReport: There is none.
        """
        command = [
            *(sys.executable, "-m", "pytest", str(ROOT / "conformance"), "-q", "-p", "no:cacheprovider"),
            *(f"--profile={self.profile}", "--reuse", f"--planted={self.name}", "--attempts=1"),
            *(f"--report-dir={self.place}", f"--wheel={self.wheel}", f"--clause={glob}"),
            *((f"--numprocesses={self.jobs}", "--dist=load") if self.jobs > 1 else ()),
        ]
        self.place.mkdir(parents=True, exist_ok=True)
        report, log = self.place / "report.json", self.place / "pytest.log"
        # Of an earlier run in the same place.
        report.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
        try:
            # With its workers, which would judge the next fault by this one's clauses.
            process.run(command, deadline=vms.Deadline.after(self.limit_s), cwd=ROOT, log=log)
        except vms.CommandTimedOut as error:
            raise NoReport(f"{self.name}: not done after {self.limit_s:.0f} s; see {log}") from error
        if not report.exists():
            raise NoReport(f"{self.name}: no report; see {log}")
        (part,) = json.loads(report.read_text("utf-8"))["profiles"]
        return Judged(
            {clause["id"]: clause["verdict"] for clause in part["clauses"]},
            tuple(error for error in part["errors"] if error != make_error(self.name)),
        )
