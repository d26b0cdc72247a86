"""The clauses on a measured build, on one host: what they reached, as a trace, and what else is known."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import coverage

import vms
from conformance import inputs, install, preconditions, provenance
from conformance.equipment import equip
from conformance.measure import guest as measured
from conformance.measure import shim
from conformance.measure.arguments import ROOT
from conformance.measure.raw_profile import measure_counters
from conformance.planted import Judged, Planted
from conformance.verdicts import Verdict

RUN_LIMIT_S: Final = 3 * 3600
PLANTED: Final = "coverage"
# A clause that ran to its end reached what it reaches; of the others nobody knows what they would have.
RED: Final = frozenset({Verdict.FAIL, Verdict.FLAKY})
RAN: Final = RED | {Verdict.PASS, Verdict.WAIVED}


def measure_clauses(
    profile: str,
    trace: Path,
    arguments: argparse.Namespace,
    wanted: tuple[str, ...],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Run the clauses on one profile's machine, write the trace of both halves; return what else is known.

    Raises:
        InputError: Something could not be made.
        NoReport: The clauses did not get that far.
        ProfileError: The shim did not count.
        VmsError: The machine failed, or is not what its profile says.
    """
    require_own_wheel(arguments.wheel)
    program = shim.build_counting_shim(arguments.kit_cache / "coverage")
    with vms.booted(profile, report=report) as guest:
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
        judged = machine.run(arguments.clause or "*")
        counted = measured.gather(guest)
    with tempfile.TemporaryDirectory() as work:
        rust = shim.read_lines(program, counted.shim, Path(work))
    told = measured.read_lines(counted, ROOT, trace)
    trace.write_text(name_from_root(trace) + rust, "utf-8")
    return describe_judged(judged) | {"pythons_began": counted.began, "pythons_told": told}


def describe_judged(judged: Judged) -> dict[str, Any]:
    """Return how many clauses ran, which of them were red, which did not run, and what went wrong around them."""
    verdicts = judged.verdicts
    return {
        "clauses": sum(verdict in RAN for verdict in verdicts.values()),
        "red": sorted(name for name, verdict in verdicts.items() if verdict in RED),
        "not_run": {
            name: verdict
            for name, verdict in sorted(verdicts.items())
            if verdict not in RAN | {Verdict.NOT_APPLICABLE}
        },
        "errors": list(judged.errors),
    }


def find_faults(profile: str, known: Mapping[str, Any]) -> list[str]:
    """Return what keeps a host's lines from being those that its clauses reach, by `describe_judged`."""
    faults = [f"{profile}: {error}" for error in known["errors"]]
    if known["not_run"]:
        named = ", ".join(f"{name} ({verdict})" for name, verdict in known["not_run"].items())
        faults.append(f"{profile}: {len(known['not_run'])} clauses did not run: {named}")
    if not known["clauses"]:
        faults.append(f"{profile}: no clause ran")
    return faults


def require_own_wheel(wheel: Path) -> None:
    """Raise InputError unless the wheel has this tree's locald, file by file: lines are counted by number."""
    if foreign := provenance.find_foreign(wheel, ROOT):
        raise inputs.InputError(f"{wheel.name} was not built from this tree: {foreign[0]}")


def name_from_root(trace: Path) -> str:
    """Return a trace with its files named from the root of the tree, and write it so."""
    text = trace.read_text("utf-8").replace(f"SF:{ROOT}/", "SF:")
    trace.write_text(text, "utf-8")
    return text
