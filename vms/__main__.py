"""`python -m vms VERB …`: machines by hand. The only module here that prints or exits.

Needs nothing but the standard library until a machine is asked for, so that `host packages` can be
asked before anything is installed.
"""

import argparse
import contextlib
import os
import sys
import time

from vms import home, host, machines, probe, process, profile, quiet_end
from vms.deadline import Deadline
from vms.errors import VmsError
from vms.guest import DEFAULT_LIMIT_S

NOT_IN_FORCE = 3
"""The exit code of `prove` when the machine is not what its profile says."""


def main(arguments: list[str]) -> int:
    """Run one verb; the exit code is 0, 1 for an error, 130 after Ctrl-C, or that of the command."""
    chosen = parse(arguments)
    try:
        with machines.interruptible():
            return _run(chosen)
    except VmsError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line. The command is behind `--`: argparse misses it where an option follows the profile."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    parser = make_parser()
    chosen = parser.parse_args(arguments[:place])
    if behind := arguments[place + 1 :]:
        if chosen.verb != "ssh":
            parser.error(f"{chosen.verb} runs no command")
        chosen.command += behind
    return chosen


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m vms",
        description="Machines to test on, by hand.",
        epilog=f"Everything is kept in {home.root()} (${home.VARIABLE}).",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the profiles")
    inner = verbs.add_parser("host", help="what this machine needs for virtual machines")
    inner.add_argument(
        "part",
        choices=("packages", "check", "stop"),
        help="name the packages; say what is missing; stop the libvirt of the kit",
    )
    for verb, text in (
        ("build", "build the profile's box, or verify the one that is there"),
        ("up", "bring the machine up"),
        ("status", "say up or down"),
        ("destroy", "take the machine away"),
        ("prove", f"show that what the profile says is in force; exit code {NOT_IN_FORCE} if not"),
        ("ssh", "run a command on the machine, or a shell if there is none"),
    ):
        inner = verbs.add_parser(verb, help=text)
        inner.add_argument("profile", choices=profile.names(), metavar="PROFILE", help="a name from `list`")
        if verb == "up":
            inner.add_argument("--cold", action="store_true", help="boot it, whatever was kept of a boot")
        if verb == "ssh":
            inner.add_argument("--user", default="root", help="a user of the profile; default: %(default)s")
            inner.add_argument(
                "--limit-s",
                type=float,
                metavar="SECONDS",
                default=DEFAULT_LIMIT_S,
                help="the command is ended after so long; default: %(default)s",
            )
            inner.add_argument("command", nargs="*", help="after --")
    return parser


def _run(chosen: argparse.Namespace) -> int:
    match chosen.verb:
        case "list":
            for name in profile.names():
                sys.stdout.write(f"{name:24} {profile.read(name).says}\n")
        case "host":
            return _host(chosen.part)
        case "build":
            box = machines.build(chosen.profile, report=_say)
            sys.stdout.write(f"{box}\n")
        case "up":
            start = time.monotonic()
            machines.up(chosen.profile, report=_say, cold=chosen.cold)
            _say(f"up after {time.monotonic() - start:.1f} s")
        case "status":
            sys.stdout.write(machines.status(chosen.profile) + "\n")
        case "destroy":
            machines.destroy(chosen.profile)
        case "prove":
            return _prove(chosen.profile)
        case "ssh":
            return _ssh(chosen)
    return 0


def _host(part: str) -> int:
    match part:
        case "packages":
            sys.stdout.write("\n".join(host.packages()) + "\n")
        case "check":
            host.require()
        case "stop":
            host.stop()
    return 0


def _prove(name: str) -> int:
    with contextlib.closing(machines.connect(name)) as guest:
        proof = probe.prove(guest)
    sys.stdout.write("\n".join(probe.render(proof)) + "\n")
    return 0 if proof.in_force else NOT_IN_FORCE


def _ssh(chosen: argparse.Namespace) -> int:
    guest = machines.connect(chosen.profile)
    if not chosen.command:
        process.become(guest.shell(chosen.user))
    deadline = Deadline.after(chosen.limit_s)
    output = guest.run(chosen.command, user=chosen.user, deadline=deadline)
    os.write(1, output.stdout)
    os.write(2, output.stderr)
    return output.exit_code


def _say(line: str) -> None:
    sys.stderr.write(f"vms: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(quiet_end.run_to_end(main))
