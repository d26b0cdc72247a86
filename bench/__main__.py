"""`python -m bench`: what `nox -s bench -- ARGS` runs."""

import argparse
import os
import sys
from pathlib import Path

from bench import runtime

PRIVATE = "LOCALD_BENCH_PRIVATE"
LEAST_ROUNDS = 20


def main() -> int:
    """Take a mount namespace of our own, then measure."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Measure the shim beside its peers.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("runtime", help="`bundle run` beside crun, runc, bwrap and a floor in C")
    verb.add_argument("--rounds", type=int, default=200, help="starts of each contender (default: 200)")
    verb.add_argument("--burst", type=int, default=1000, help="starts for the throughput (default: 1000)")
    verb.add_argument(
        "--network", choices=("new", "host"), default="new", help="(default: new, as `runc spec`)"
    )
    verb.add_argument("--output", type=Path, default=Path("reports/bench-runtime.json"))
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
    return runtime.run(arguments.rounds, arguments.burst, arguments.network, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
