"""`python -m conformance.measure`: run the clauses on a measured build and say which lines nobody reached.

With `--tests FILE`, what the fast tests reached (coverage.py's data) stands beside it. A measured build is not the
product: its clauses run as on a planted machine, whose report is never green and never passes the gate.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import coverage

import vms
from conformance import clauses, inputs, install
from conformance.measure import guest as measured
from conformance.measure import hosts, lines
from conformance.measure.arguments import ROOT, parse_arguments
from conformance.measure.raw_profile import ProfileError
from conformance.planted import NoReport
from conformance.report_files import replace_file

PAGES_LIMIT_S: Final = 300
INTERRUPTED: Final = 130
# What a source may end with: the others are still worth theirs.
TROUBLE: Final = (
    ProfileError,
    NoReport,
    clauses.CatalogueError,
    inputs.InputError,
    vms.VmsError,
    coverage.CoverageException,
    OSError,
)


@dataclass(slots=True)
class Found:
    """What was measured so far, and what was not."""

    sources: dict[str, lines.Lines] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    interrupted: bool = False


def main(words: Sequence[str]) -> int:
    """Measure, join, print; 1 if anything was not measured, 2 for usage, 130 after Ctrl-C."""
    arguments = parse_arguments(words, __doc__)
    if arguments.check:
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="locald-coverage-") as own:
            if arguments.wheel is not None:
                # Compared with the tree now and installed later: another run builds its own where this one lies.
                arguments.wheel = install.Product(arguments.wheel, None).copy_to(Path(own)).wheel
            return measure_all(arguments)
    except KeyboardInterrupt:
        say("interrupted; there is no report")
        return INTERRUPTED


def measure_all(arguments: argparse.Namespace) -> int:
    """Measure every source, and write what came of it."""
    directory = arguments.directory
    # Of an earlier run: whatever this one comes to, they are not about it.
    (directory / "coverage.json").unlink(missing_ok=True)
    shutil.rmtree(directory / "html", ignore_errors=True)
    found = measure_sources(arguments)
    if found.sources:
        found.faults += find_lost(found)
        document = lines.make_document(
            found.sources, found.facts, found.faults, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        try:
            replace_file(directory / "coverage.json", (json.dumps(document, indent=1) + "\n").encode())
            write_pages(directory, list(found.sources))
        except (inputs.InputError, OSError) as error:
            found.faults.append(f"no report could be written: {error}")
        tell(document, found.facts, directory)
    for fault in found.faults:
        say(f"error: {fault}")
    if found.interrupted:
        return INTERRUPTED
    return 1 if found.faults else 0


def measure_sources(arguments: argparse.Namespace) -> Found:
    """Measure the tests and each host; one that fails, or is interrupted, costs its own lines only."""
    found = Found()
    for source in (*((lines.TESTS,) if arguments.tests else ()), *arguments.profile):
        trace = arguments.directory / f"{source}.info"
        try:
            trace.unlink(missing_ok=True)
            facts = None
            if source == lines.TESTS:
                measure_tests(arguments.tests, trace)
            else:
                wanted = clauses.select(clauses.read_catalogue(), arguments.clause or "*")
                facts = hosts.measure_clauses(source, trace, arguments, wanted, say)
            found.sources[source] = lines.parse_trace(trace.read_text("utf-8"))
        except TROUBLE as error:
            found.faults.append(f"{source} was not measured: {error}")
            say(found.faults[-1])
        except KeyboardInterrupt:
            found.interrupted = True
            found.faults.append(f"interrupted; {source} was not measured, nor what comes after it")
            break
        else:
            if facts is not None:
                found.facts[source] = facts
                found.faults += hosts.find_faults(source, facts)
    return found


def measure_tests(file: Path, trace: Path) -> None:
    """Write the trace of what the fast tests reached."""
    data = coverage.CoverageData(str(file))
    data.read()
    measured.write_trace(data, ROOT, trace)
    hosts.name_from_root(trace)


def find_lost(found: Found) -> list[str]:
    """Return which decisions are in the tree and not in the trace of a host, and which are nowhere."""
    tree = [
        path.relative_to(ROOT).as_posix()
        for place, pattern in ((ROOT / "locald", "*.py"), (ROOT / "shim" / "src", "*.rs"))
        for path in place.rglob(pattern)
    ]
    return lines.find_lost({name: found.sources[name] for name in found.facts}, tree)


def tell(document: dict[str, Any], facts: dict[str, dict[str, Any]], directory: Path) -> None:
    """Print the report; what matters stands at the end."""
    for line in lines.describe_files(document):
        say(line)
    if facts:
        texts = {
            name: (ROOT / name).read_text("utf-8").splitlines()
            for name in document["files"]
            if lines.is_decision(name)
        }
        for line in lines.describe_decisions(document, texts):
            say(line)
    for profile, known in facts.items():
        red = f": {', '.join(known['red'])}" if known["red"] else ""
        say(
            f"{profile}: {known['clauses']} clauses ran, {len(known['red'])} of them red on the measured build{red}"
        )
        lost = known["pythons_began"] - known["pythons_told"]
        say(
            f"{profile}: {known['pythons_told']} Pythons told what they reached, a signal ended {lost} before"
        )
    say(f"no verdict on any product; {directory}/html/index.html, {directory}/coverage.json")


def write_pages(directory: Path, sources: list[str]) -> None:
    """Write the page of all sources together, by lcov's genhtml: lines only, which both languages have."""
    traces = [str(directory / f"{source}.info") for source in sources]
    inputs.run_program(
        [
            *(
                "genhtml",
                "--quiet",
                "--no-branch-coverage",
                "--no-function-coverage",
                "--title",
                "locald",
                "--prefix",
                str(ROOT),
            ),
            *(f"--output-directory={directory}/html", *traces),
        ],
        limit_s=PAGES_LIMIT_S,
    )


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"coverage: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
