"""The state of a host before the clauses and after them: what a run must leave as it found it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import vms
from conformance.report import HostState, find_changes
from conformance.subject import PYTHON, KitError

LOOK: Final = Path(__file__).with_name("look.py")
LIMIT_S: Final = 120.0
# What changes here was changed by the run. The rest (mounts of a session, device nodes, the taint) moves by itself on
# some hosts: it is told and not judged.
JUDGED: Final = ("sysctls", "accounts", "setuid", "mounts of ours", "cgroups of ours", "selinux")

State = Mapping[str, Sequence[str]]


def take_snapshot(guest: vms.Guest) -> State:
    """Return the state of the host.

    Raises:
        KitError: It could not be read.
    """
    output = guest.run(
        [PYTHON, "-I", "-"], user="root", stdin=LOOK.read_bytes(), deadline=vms.Deadline.after(LIMIT_S)
    )
    if output.exit_code != 0:
        raise KitError(f"the state of the host could not be read:\n{output.describe()}")
    state: State = json.loads(output.stdout)
    return state


def find_faults(host: HostState) -> list[str]:
    """Return the changes that the run has to answer for, as errors."""
    return [f"the host was changed: {change}" for change in find_changes(host) if is_judged(change)]


def is_judged(change: str) -> bool:
    """Say whether a run has to answer for a line of `find_changes`."""
    return change.startswith(tuple(f"{name} " for name in JUDGED))
