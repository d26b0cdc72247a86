"""What a person asks `python -m conformance.measure` for; whatever cannot be is refused before anything is done."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import vms
from conformance import clauses
from conformance.report_files import make_place

ROOT: Final = Path(__file__).parent.parent.parent


def parse_arguments(words: Sequence[str], about: str | None) -> argparse.Namespace:
    """Return the parsed command line; ends with 2 and one line where it asks for what cannot be."""
    parser = argparse.ArgumentParser(prog="python -m conformance.measure", description=about)
    parser.add_argument("--tests", type=Path, metavar="FILE", help="coverage.py's data of the fast tests")
    parser.add_argument("--profile", action="append", default=[], metavar="A,B", help="run the clauses there")
    parser.add_argument("--wheel", type=Path, help="of this very tree; needed with --profile")
    parser.add_argument("--clause", metavar="GLOB", help="only these clauses; needs --profile")
    parser.add_argument("--directory", type=Path, default=ROOT / "reports" / "coverage")
    parser.add_argument("--kit-cache", type=Path, default=Path("~/.cache/locald-kit").expanduser())
    parser.add_argument("--jobs", type=int, default=2, help="workers of each run")
    parser.add_argument(
        "--check",
        action="store_true",
        help="judge these words and do nothing: tests and wheel may come later",
    )
    chosen = parser.parse_args(words)
    # As in `python -m conformance run`: several in one word, or the option again; each once.
    chosen.profile = list(dict.fromkeys(name for word in chosen.profile for name in word.split(",")))
    if fault := _find_fault(chosen):
        parser.error(fault)
    try:
        # Last: where anything else is wrong, nothing is made.
        make_place(chosen.directory)
    except OSError as error:
        parser.error(f"--directory {chosen.directory}: {error.strerror or error}")
    return chosen


def _find_fault(chosen: argparse.Namespace) -> str:
    """Return what is wrong, or nothing."""
    for option, path in (("--wheel", chosen.wheel), ("--tests", chosen.tests)):
        # coverage.py would make a data file of whatever it is told to read.
        if path is not None and not path.is_file():
            return f"{option} {path}: no such file"
    if chosen.clause is not None and not chosen.profile:
        return "--clause needs --profile: the clauses run on a host"
    if not chosen.check and chosen.profile and chosen.wheel is None:
        return "--profile needs --wheel"
    if not (chosen.check or chosen.profile or chosen.tests):
        return "nothing to measure: give --profile or --tests"
    return _find_fault_of_hosts(chosen.profile, chosen.clause)


def _find_fault_of_hosts(names: Sequence[str], glob: str | None) -> str:
    try:
        catalogue = clauses.read_catalogue()
        profiles = [vms.read(name) for name in names]
    except (clauses.CatalogueError, vms.ProfileError) as error:
        return " ".join(str(error).split())
    wanted = clauses.select(catalogue, "*" if glob is None else glob)
    if not wanted:
        return f"--clause {glob}: no clause matches"
    for profile in profiles:
        if not profile.python:
            return f"--profile {profile.name}: locald cannot be installed there, so nothing of it is measured"
        if not any(catalogue[name].applies_to(profile.name, profile.traits) for name in wanted):
            return f"--clause {glob}: no such clause is about {profile.name}"
    return ""
