"""`python -m conformance.controls --wheel WHEEL`: plant every fault, and see the clauses that claim it turn red.

One guest for all: proven, installed into once, and brought back to that state after each fault. Exit code 0 if every
claim was kept and no clause is left unproven, else 1.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import vms
from conformance import clauses, inputs, install, oracle, preconditions, provenance
from conformance.controls import WRAPPER, Control, read_controls
from conformance.controls.account import (
    Account,
    Claims,
    Place,
    Verdicts,
    choose_claims,
    choose_clauses,
    describe,
    make_account,
    make_document,
)
from conformance.controls.builds import Edit, find_edited, make_mutant
from conformance.equipment import equip
from conformance.planted import NoReport, Planted
from conformance.subject import HOME, PREFIX, SHIM

ROOT: Final = Path(__file__).parent.parent.parent
DEFAULT: Final = "local"
# For the clauses of one fault; an emulated guest takes minutes for one that compares engines.
RUN_LIMIT_S: Final = {"local": 600.0, "vm": 3600.0}
# For all clauses: with a fault that makes the shim hang, many wait for their own deadline, of minutes.
EXACT_LIMIT_S: Final = 2 * 3600.0
STEP_LIMIT_S: Final = 300.0
REAL: Final = f"{PREFIX}/real/locald-shim"
PRISTINE: Final = f"{HOME}/pristine"
STATE: Final = "/run/locald-shim"
# What is in another pid namespace than root's shell, or runs a file of the product: containers and shims that a fault
# left. A server among them would keep its port from the next.
END_STRAYS: Final = f"""
own=$(readlink /proc/self/ns/pid | tr -dc 0-9)
find /proc/[0-9]*/ns/pid /proc/[0-9]*/exe \\
    \\( -path '*/pid' ! -lname "*$own*" -o -path '*/exe' -lname '{PREFIX}/*' \\) 2>/dev/null |
    cut -d/ -f3 | sort -u | xargs -r kill -KILL 2>/dev/null || true
"""


def parse_arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m conformance.controls", description=__doc__)
    parser.add_argument(
        "--wheel", type=Path, required=True, help="a good wheel, in which the faults are planted"
    )
    parser.add_argument(
        "--profile",
        default=DEFAULT,
        choices=vms.names(),
        help=f"the host that the faults are planted on; {DEFAULT} by default",
    )
    parser.add_argument(
        "--only", metavar="GLOB", default="*", help="only these controls: globs separated by commas"
    )
    parser.add_argument("--clause", metavar="GLOB", default="*", help="only what these clauses claim")
    parser.add_argument(
        "--except-on",
        metavar="PROFILE",
        choices=vms.names(),
        help="only what cannot be shown on that host, which has an account of its own",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="every clause against every fault: one that turns red and does not claim it is told. Takes hours",
    )
    parser.add_argument("--report-dir", type=Path, help="reports/controls-TIME by default")
    parser.add_argument("--kit-cache", type=Path, default=Path("~/.cache/locald-kit").expanduser())
    parser.add_argument("--jobs", type=int, default=2, help="workers of each run")
    chosen = parser.parse_args()
    if not chosen.wheel.is_file():
        parser.error(f"--wheel {chosen.wheel}: no such file")
    if not any(clauses.matches(name, chosen.only) for name in read_controls()):
        parser.error(f"--only {chosen.only}: no control has such a name")
    if not make_plan(chosen).controls:
        parser.error(f"nothing to plant on {chosen.profile}: no clause that was asked for claims it there")
    return chosen


@dataclass(frozen=True, slots=True)
class Plan:
    """What is planted on the host, and what has to see it."""

    place: Place
    # The clauses that can judge.
    reach: clauses.Catalogue
    controls: tuple[Control, ...]
    claimed: Claims
    # The clauses that something has to turn red.
    judged: tuple[str, ...]


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Return what was asked for.

    Raises:
        clauses.CatalogueError: Catalogue or controls are malformed, or a clause names a control that is not there.
    """
    catalogue, controls = clauses.read_catalogue(), read_controls()
    clauses.check_controls(catalogue, controls)
    here, elsewhere = (
        Place(name, vms.read(name).traits) if name else None
        for name in (arguments.profile, arguments.except_on)
    )
    assert here is not None
    reach = {
        name: clause
        for name, clause in catalogue.items()
        if clause.applies_to(here.profile, here.traits) and clauses.matches(name, arguments.clause.upper())
    }
    chosen = [control for name, control in controls.items() if clauses.matches(name, arguments.only)]
    claimed = choose_claims(reach, chosen, here, elsewhere)
    wanted = tuple(
        control
        for control in chosen
        if claimed[control.name]
        or (arguments.exact and reach and clauses.covers(control.hosts, here.profile, here.traits))
    )
    return Plan(here, reach, wanted, claimed, choose_clauses(reach, here, elsewhere))


def main() -> int:
    """Run the controls on a copy of the wheel: it is read for the account, and again for each machine."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="locald-controls-") as own:
        arguments.wheel = install.Product(arguments.wheel, None).copy_to(Path(own)).wheel
        return plant_all(arguments)


def plant_all(arguments: argparse.Namespace) -> int:
    """Run the controls that were asked for, and print the account."""
    plan = make_plan(arguments)
    started = now_text()
    directory = arguments.report_dir or ROOT / "reports" / f"controls-{started.replace(':', '')}"
    about: dict[str, Any] = {
        "started": started,
        # At the start, and the same at the end: its files are read in between.
        "kit": provenance.describe_kit(),
        "planted_sha256": provenance.digest_files(trees=provenance.PLANTED),
        "wheel_sha256": hashlib.sha256(arguments.wheel.read_bytes()).hexdigest(),
    }
    verdicts: dict[str, dict[str, str]] = {}
    try:
        run(plan, directory, arguments, verdicts)
    finally:
        # Whatever ended it: hours of what was shown are not lost for one fault.
        account = account_for(plan, verdicts)
        if edited := is_edited(about):
            about["kit"]["dirty"] = True
            say(
                "the tree was changed while faults were planted: nobody knows what judged, and no release leans on this"
            )
        if verdicts:
            write_account(
                directory, make_document(account, plan.place, verdicts, about | {"finished": now_text()})
            )
    complete = arguments.only == arguments.clause == "*"
    others = len(clauses.read_catalogue()) - len(plan.judged)
    for line in describe(account, plan.judged, others, complete=complete):
        say(line)
    # A line that a CI can read: what was asked of the controls, and what they answered.
    failed = len(account.missed) + len(account.beyond)
    say(f"controls: {len(account.caught)} planted, {failed} failed; {directory}/controls.json")
    return 1 if edited or failed or (complete and account.unproven) else 0


def is_edited(about: dict[str, Any]) -> bool:
    """Tell whether the kit, or what faults are planted into, is another than when the account was begun."""
    return not (
        provenance.is_unchanged(about["kit"]["sha256"])
        and provenance.is_unchanged(about["planted_sha256"], provenance.PLANTED)
    )


def account_for(plan: Plan, verdicts: Verdicts) -> Account:
    """Return the account of what was planted so far."""
    planted_so_far = [control for control in plan.controls if control.name in verdicts]
    return make_account(plan.reach, plan.claimed, plan.judged, verdicts, planted_so_far)


def run(
    plan: Plan, directory: Path, arguments: argparse.Namespace, verdicts: dict[str, dict[str, str]]
) -> None:
    """Boot the host, plant one fault after the other, and put what the clauses said of each into `verdicts`.

    Raises:
        inputs.InputError: The host is not what it has to be, or a good run fails on it.
    """
    with vms.booted(plan.place.profile, report=say) as guest:
        for proof in preconditions.prove(guest):
            if not proof.proven:
                raise inputs.InputError(f"not proven: {proof.name}: {proof.observed}")
        product = install.Product(arguments.wheel, None)
        equip(guest, product, arguments.kit_cache, plan.reach, workers=arguments.jobs)
        root(guest, f"cp -a {PREFIX} {PRISTINE}")
        require_good(guest, "the installation")
        for control in plan.controls:
            wanted = list(plan.reach) if arguments.exact else list(plan.claimed[control.name])
            begin = time.monotonic()
            try:
                with planted(guest, control, arguments.kit_cache):
                    said = judge(control.name, wanted, directory, arguments)
            except (NoReport, inputs.InputError, clauses.CatalogueError) as error:
                # Without a verdict its claims are missed, which the account says; the others are still worth theirs.
                say(f"{control.name}: {error}")
                said = {}
            # Not before: of the one that Ctrl-C, or the end of the machine, cut off nobody knows anything.
            verdicts[control.name] = said
            require_good(guest, control.name)
            red = sum(verdict == "FAIL" for verdict in said.values())
            say(f"{control.name}: {red} of {len(wanted)} clauses red, {time.monotonic() - begin:.0f} s")


@contextlib.contextmanager
def planted(guest: vms.Guest, control: Control, cache: Path) -> Iterator[None]:
    """Put the fault in place, and afterwards the good installation back."""
    try:
        empty_stores(guest, control)
        plant(guest, control, cache)
        yield
    finally:
        # What the fault kept in the shim's own place as well.
        root(guest, f"{END_STRAYS}rm -rf {PREFIX} {STATE}; cp -a {PRISTINE} {PREFIX}")
        empty_stores(guest, control)


def empty_stores(guest: vms.Guest, control: Control) -> None:
    """Take the users' images away where locald itself is changed: a good one has unpacked them, or a bad one has."""
    if control.edit is not None and not control.edit.is_of_shim:
        root(guest, f"rm -rf {HOME}/homes/*/.local/share/locald")


def require_good(guest: vms.Guest, after: str) -> None:
    """End the session if a good run fails: from here on every clause would be red, whatever is planted.

    Raises:
        inputs.InputError: It does; `after` says after which fault.
    """
    if "unsupported" in guest.profile.traits:
        return
    command = [f"{PREFIX}/bin/locald", "run", f"oci:{HOME}/images/small", "--", "/bin/observe", "exit", "0"]
    good = guest.run(command, user="plain", deadline=vms.Deadline.after(STEP_LIMIT_S))
    if good.exit_code != 0:
        said = good.stderr.decode(errors="replace").strip()
        raise inputs.InputError(f"after {after} a good run ends with {good.exit_code}: {said}")
    try:
        # A clause that compares would be red for podman's sake.
        oracle.require_podman(guest)
    except inputs.InputError as error:
        raise inputs.InputError(f"after {after} {error}") from error


def plant(guest: vms.Guest, control: Control, cache: Path) -> None:
    """Put the fault in place."""
    if control.package:
        root(guest, f"P={PREFIX}\n{control.package}")
    elif control.edit is not None:
        plant_edit(guest, control.name, control.edit, cache)
    elif control.rules:
        guest.push(make_mutant(control.rules, cache), SHIM, mode=0o4755)
    elif control.script:
        text = f"#!/bin/bash\nREAL={PREFIX}/bin/locald.real\n{control.script}\n"
        root(guest, f"mv {PREFIX}/bin/locald {PREFIX}/bin/locald.real")
        guest.push(text.encode(), f"{PREFIX}/bin/locald", mode=0o755)
    else:
        with tempfile.TemporaryDirectory() as name:
            fault = Path(name) / "fault"
            inputs.compile_static(WRAPPER, fault, defines={control.define: ""}, dynamic=control.dynamic)
            root(guest, f"mkdir {PREFIX}/real; mv {SHIM} {REAL}")
            guest.push(fault, SHIM, mode=0o4755)


def plant_edit(guest: vms.Guest, name: str, edit: Edit, cache: Path) -> None:
    """Put the edited file in its place, or the shim that was built with it."""
    if edit.is_of_shim:
        guest.push(find_edited(name, edit, cache), SHIM, mode=0o4755)
        return
    listed = guest.succeed(
        ["/bin/sh", "-c", f"echo {PREFIX}/lib/python*/site-packages/{edit.file}"],
        user="root",
        deadline=vms.Deadline.after(STEP_LIMIT_S),
    )
    guest.push(edit.apply().encode(), listed.stdout.decode().strip(), mode=0o644)


def judge(control: str, wanted: list[str], directory: Path, arguments: argparse.Namespace) -> dict[str, str]:
    """Run the clauses against the planted fault and return their verdicts.

    Raises:
        NoReport: They did not come to one.
    """
    # One clause is not worth a second worker.
    jobs = arguments.jobs if len(wanted) > 1 else 1
    limit_s = EXACT_LIMIT_S if arguments.exact else RUN_LIMIT_S[vms.read(arguments.profile).kind]
    machine = Planted(arguments.profile, control, arguments.wheel, directory / control, jobs, limit_s)
    return dict(machine.run(",".join(wanted)).verdicts)


def write_account(directory: Path, document: dict[str, Any]) -> None:
    """Leave the account beside the reports of the controls."""
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / "controls.json.part"
    part.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    part.replace(directory / "controls.json")


def root(guest: vms.Guest, script: str) -> None:
    """Run a shell script as root in the guest."""
    guest.succeed(["/bin/sh", "-eu", "-c", script], user="root", deadline=vms.Deadline.after(STEP_LIMIT_S))


def now_text() -> str:
    """Return the time as ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"controls: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (vms.VmsError, inputs.InputError, clauses.CatalogueError) as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; the machine is gone, and the account is of what was planted")
        sys.exit(130)
