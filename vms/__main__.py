"""`python -m vms VERB …`: machines by hand. The only module here that prints or exits."""

import argparse
import os
import sys
import time

from vms import machines, probe, profile
from vms.errors import VmsError


def main(arguments: list[str]) -> int:
    """Run one verb; the exit code is 0, 1 for an error, and 3 from `prove` if not in force."""
    parser = argparse.ArgumentParser(prog="python -m vms", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the profiles")
    for verb, text in (
        ("up", "bring a machine up"),
        ("status", "up or down"),
        ("destroy", "take it away"),
        ("prove", "show that what the profile says is in force"),
        ("ssh", "run a command on it, or a shell"),
    ):
        inner = verbs.add_parser(verb, help=text)
        inner.add_argument("profile", choices=profile.names())
        if verb == "ssh":
            inner.add_argument("--user", default="root")
            inner.add_argument("command", nargs="*")
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen)
    except VmsError as error:
        sys.stderr.write(f"vms: {error}\n")
        return 1


def _run(chosen: argparse.Namespace) -> int:
    match chosen.verb:
        case "list":
            for name in profile.names():
                sys.stdout.write(f"{name:24} {profile.read(name).says}\n")
        case "up":
            start = time.monotonic()
            try:
                machines.up(chosen.profile, report=_say)
            except BaseException:
                machines.destroy(chosen.profile)
                raise
            _say(f"up after {time.monotonic() - start:.1f} s")
        case "status":
            sys.stdout.write(machines.status(chosen.profile) + "\n")
        case "destroy":
            machines.destroy(chosen.profile)
        case "prove":
            proof = probe.prove(machines.connect(chosen.profile))
            sys.stdout.write("\n".join(probe.render(proof)) + "\n")
            return 0 if proof.in_force else 3
        case "ssh":
            guest = machines.connect(chosen.profile)
            output = guest.run(chosen.command or ["id"], user=chosen.user)
            os.write(1, output.stdout)
            os.write(2, output.stderr)
            return output.exit_code
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"vms: {line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
