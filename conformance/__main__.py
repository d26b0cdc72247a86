"""`python -m conformance VERB`: judge hosts, the catalogue for a person, and what is done with reports.

run judges (`nox -s conformance` calls it); list [GLOB], explain ID; merge, sign, gate and compare work on reports.
"""

import argparse
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Final

from conformance import clauses
from conformance.controls import read_controls

HERE: Final = Path(__file__).parent
WIDTH: Final = 100


def main(arguments: list[str]) -> int:
    """Run one verb; 1 if there is no such clause or the catalogue is at fault."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    if arguments[:1] == ["run"]:
        # It brings the machines, and knows only some of its options.
        from conformance import matrix  # noqa: PLC0415

        return matrix.main(arguments[1:])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run", help="judge every clause on each host", add_help=False)
    listing = verbs.add_parser("list", help="the clauses, a line each")
    listing.add_argument("glob", nargs="?", default="*")
    verbs.add_parser("explain", help="everything about one clause").add_argument("id")
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
        sys.stderr.write("conformance: there is no such clause; `python -m conformance list` names them\n")
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


def start() -> int:
    """Run the verb that was typed; who has read enough, such as `head`, ends it as the signal would."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(start())
