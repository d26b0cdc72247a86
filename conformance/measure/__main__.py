"""`python -m conformance.measure`: run the clauses on a measured build and say which lines nobody reached.

With `--tests FILE`, what the fast tests reached (coverage.py's data) stands beside it. A measured build is not the
product: its clauses run as on a planted machine, whose report is never green and never passes the gate.
"""

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import coverage

import vms
from conformance import clauses, inputs, install, preconditions, provenance
from conformance.equipment import equip
from conformance.measure import guest as measured
from conformance.measure import lines, shim
from conformance.measure.raw_profile import ProfileError, measure_counters
from conformance.planted import NoReport, Planted

ROOT: Final = Path(__file__).parent.parent.parent
RUN_LIMIT_S: Final = 3 * 3600
PAGES_LIMIT_S: Final = 300
PLANTED: Final = "coverage"


def parse_arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m conformance.measure", description=__doc__)
    parser.add_argument("--tests", type=Path, metavar="FILE", help="coverage.py's data of the fast tests")
    parser.add_argument("--profile", action="append", default=[], metavar="A,B", help="run the clauses there")
    parser.add_argument("--wheel", type=Path, help="of this very tree; needed with --profile")
    parser.add_argument("--clause", metavar="GLOB", help="only these clauses")
    parser.add_argument("--directory", type=Path, default=ROOT / "reports" / "coverage")
    parser.add_argument("--kit-cache", type=Path, default=Path("~/.cache/locald-kit").expanduser())
    parser.add_argument("--jobs", type=int, default=2, help="workers of each run")
    chosen = parser.parse_args()
    # As in `python -m conformance run`: several in one word, or the option again.
    chosen.profile = [name for word in chosen.profile for name in word.split(",")]
    if chosen.profile and chosen.wheel is None:
        parser.error("--profile needs --wheel")
    if chosen.wheel is not None and not chosen.wheel.is_file():
        parser.error(f"--wheel {chosen.wheel}: no such file")
    if not chosen.profile and chosen.tests is None:
        parser.error("nothing to measure: give --profile or --tests")
    return chosen


def main() -> int:
    """Measure, join, print; 1 if anything was not measured."""
    arguments = parse_arguments()
    directory = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)
    sources: dict[str, lines.Lines] = {}
    facts: dict[str, dict[str, Any]] = {}
    try:
        if arguments.tests is not None:
            trace = directory / f"{lines.TESTS}.info"
            data = coverage.CoverageData(str(arguments.tests))
            data.read()
            measured.write_trace(data, ROOT, trace)
            sources[lines.TESTS] = lines.parse_trace(name_from_root(trace))
        for profile in arguments.profile:
            trace = directory / f"{profile}.info"
            facts[profile] = measure_clauses(profile, trace, arguments)
            sources[profile] = lines.parse_trace(trace.read_text("utf-8"))
        document = lines.make_document(sources, facts, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        (directory / "coverage.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        write_pages(directory, list(sources))
    except (ProfileError, NoReport, inputs.InputError, vms.VmsError, coverage.CoverageException) as error:
        say(str(error))
        return 1
    tell(document, facts, directory)
    return 0


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


def measure_clauses(profile: str, trace: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the clauses on one profile's machine, write the trace of both halves; return what else is known.

    Raises:
        InputError: Something could not be made.
        NoReport: The clauses did not get that far.
        ProfileError: The shim did not count.
        VmsError: The machine failed, or is not what its profile says.
    """
    require_own_wheel(arguments.wheel)
    program = shim.build_counting_shim(arguments.kit_cache / "coverage")
    wanted = clauses.select(clauses.read_catalogue(), arguments.clause or "*")
    with vms.booted(profile, report=say) as guest:
        unproven = [proof for proof in preconditions.prove(guest) if not proof.proven]
        if unproven:
            raise inputs.InputError(f"{profile} is not proven: {unproven[0].name}: {unproven[0].observed}")
        python = install.ask_version(guest)
        wheels = arguments.kit_cache / f"coverage-{coverage.__version__}-{python}"
        if not any(wheels.glob("*.whl")):
            inputs.download(f"coverage=={coverage.__version__}", wheels, python)
        measured.prepare(guest, measure_counters(program.read_bytes()))
        product = install.Product(arguments.wheel, program)
        equip(guest, product, arguments.kit_cache, wanted, workers=arguments.jobs)
        measured.plant(guest, wheels)
        place = arguments.directory / f"clauses-{profile}"
        machine = Planted(profile, PLANTED, arguments.wheel, place, arguments.jobs, RUN_LIMIT_S)
        verdicts = machine.run(arguments.clause or "*").verdicts
        counted = measured.gather(guest)
    with tempfile.TemporaryDirectory() as work:
        rust = shim.read_lines(program, counted.shim, Path(work))
    told = measured.read_lines(counted, ROOT, trace)
    trace.write_text(name_from_root(trace) + rust, "utf-8")
    return {
        "clauses": len(verdicts),
        "red": sorted(name for name, verdict in verdicts.items() if verdict not in ("PASS", "WAIVED")),
        "pythons_began": counted.began,
        "pythons_told": told,
    }


def require_own_wheel(wheel: Path) -> None:
    """Raise InputError unless the wheel has this tree's locald, module by module: lines are counted by number."""
    packed = dict(provenance.read_members(wheel, "locald/*.py"))
    own = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "locald").rglob("*.py")}
    faults = [f"it lacks {name}" for name in sorted(own.keys() - packed.keys())]
    faults += [f"{name} is not in the tree" for name in sorted(packed.keys() - own.keys())]
    # In the order of a wheel, which is that of names.
    faults += [f"{name} differs" for name in packed if name in own and own[name].read_bytes() != packed[name]]
    if faults:
        raise inputs.InputError(f"{wheel.name} was not built from this tree: {faults[0]}")


def name_from_root(trace: Path) -> str:
    """Return a trace with its files named from the root of the tree, and write it so."""
    text = trace.read_text("utf-8").replace(f"SF:{ROOT}/", "SF:")
    trace.write_text(text, "utf-8")
    return text


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
    sys.exit(main())
