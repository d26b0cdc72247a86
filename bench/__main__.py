"""`python -m bench`: what `nox -s bench -- ARGS` runs."""

import argparse
import os
import sys
from pathlib import Path

from bench import command, runtime

PRIVATE = "LOCALD_BENCH_PRIVATE"
LEAST_ROUNDS = 20


def main() -> int:
    """Take a mount namespace of our own, then measure."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Measure the shim beside its peers.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("runtime", help="`bundle run` beside crun, runc, bwrap and a floor in C")
    verb.add_argument("--rounds", type=int, default=200, help="starts of each contender (default: 200)")
    verb.add_argument("--burst", type=int, default=400, help="starts in each of five bursts (default: 400)")
    verb.add_argument(
        "--network", choices=("new", "host"), default="new", help="(default: new, as `runc spec`)"
    )
    verb.add_argument("--beside", type=Path, help="another build of the shim, in the same rounds")
    verb.add_argument("--output", type=Path, default=Path("reports/bench-runtime.json"))
    verb = verbs.add_parser("run", help="`locald run` of a cached small image beside `python3 -c pass`")
    verb.add_argument("--rounds", type=int, default=100, help="starts of each contender (default: 100)")
    verb.add_argument("--wheel", type=Path, required=True, help="what is measured (nox builds it)")
    verb.add_argument("--output", type=Path, default=Path("reports/bench-run.json"))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: the floor and two peers are root's")
    if arguments.rounds < LEAST_ROUNDS:
        parser.error(f"fewer than {LEAST_ROUNDS} rounds have no 95th percentile")
    if PRIVATE not in os.environ:
        # The policy, the state and the setuid file of a bench are nobody else's business.
        os.environ[PRIVATE] = "1"
        own = [sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execv("/usr/bin/unshare", ["unshare", "--mount", "--propagation=private", *own])  # noqa: S606
    if arguments.verb == "run":
        return command.run(arguments.rounds, arguments.wheel, arguments.output)
    plan = runtime.Plan(arguments.rounds, arguments.burst, arguments.network, arguments.beside)
    return runtime.run(plan, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
