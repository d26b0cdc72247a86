"""`python3 -m conformance VERB`: judge hosts, the catalogue for a person, and what is done with reports.

list [GLOB] and explain ID need Python alone. run judges hosts (`ci/nox -s conformance -- …`); merge, sign, gate and
compare work on reports (`ci/nox -s report -- merge …`): they need packages, which those commands install.
"""

import argparse
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Final

from conformance import clauses
from conformance.controls import read_controls
from vms import quiet_end

HERE: Final = Path(__file__).parent
WIDTH: Final = 100
TREE: Final = ("conformance", "vms")
CANNOT: Final = 2


def main(arguments: list[str]) -> int:
    """Run one verb; 1 if there is no such clause or the catalogue is at fault."""
    parser = argparse.ArgumentParser(prog="python3 -m conformance", description=__doc__)
    if arguments[:1] == ["run"]:
        # It brings the machines, and knows only some of its options.
        from conformance import matrix  # noqa: PLC0415

        return matrix.main(arguments[1:])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run", help="judge every clause on each host", add_help=False)
    listing = verbs.add_parser("list", help="the clauses, a line each")
    listing.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="only these, such as 'SIG-*'")
    explaining = verbs.add_parser("explain", help="everything about one clause")
    explaining.add_argument("id", metavar="ID", help="such as SIG-002; a GLOB explains several")
    if arguments[:1] not in (["list"], ["explain"]):
        # They bring libraries that the catalogue does without.
        from conformance.release import commands  # noqa: PLC0415

        commands.add_verbs(verbs)
        chosen = parser.parse_args(arguments)
        if chosen.verb not in {"list", "explain"}:
            return commands.run(chosen)
    chosen = parser.parse_args(arguments)
    try:
        catalogue = clauses.read_catalogue()
        tests = clauses.find_tests(HERE)
        clauses.check_coverage(catalogue, {name for named in tests.values() for name in named})
        controls = read_controls()
        clauses.check_controls(catalogue, controls)
    except clauses.CatalogueError as error:
        sys.stderr.write(f"conformance: {error}\n")
        return 1
    names = clauses.select(catalogue, chosen.glob if chosen.verb == "list" else chosen.id)
    if not names:
        sys.stderr.write("conformance: there is no such clause; `python3 -m conformance list` names them\n")
        return 1
    for name in names:
        clause = catalogue[name]
        if chosen.verb == "list":
            sys.stdout.write(f"{name:12} {clause.level:6} {clause.statement}\n")
            continue
        rows = {
            "statement": clause.statement,
            "level": clause.level,
            "seen by": clause.observable,
            "source": clause.source,
            "profiles": " ".join(clause.profiles),
            "runtimes": " ".join(clause.runtimes),
            "tests": ", ".join(test for test, named in tests.items() if name in named),
        }
        rows |= {f"control {control}": controls[control].says for control in clause.controls}
        sys.stdout.write(f"{name}\n")
        for key, value in rows.items():
            indent = " " * 28
            sys.stdout.write(textwrap.fill(f"  {key:25} {value}", WIDTH, subsequent_indent=indent) + "\n")
    return 0


def start(arguments: list[str]) -> int:
    """Run the verb that was typed; 2 and one line where a package that it needs is not installed."""
    try:
        return main(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", *TREE}:
            # No package would mend that.
            raise
        run = arguments[:1] == ["run"]
        session, rest = ("conformance", arguments[1:]) if run else ("report", arguments)
        command = shlex.join(["ci/nox", "-s", session, "--", *rest])
        sys.stderr.write(f"conformance: the Python package {missing} is not installed here; run: {command}\n")
        return CANNOT


if __name__ == "__main__":
    sys.exit(quiet_end.run_to_end(start))
