"""Machines to test on: each is declared by a profile, proven to be what it says, and driven alike.

    with vms.booted("debian12-selinux", report=print) as guest:
        proof = vms.prove(guest)

Knows machines, not what is tested on them: imports neither locald nor conformance.
"""

from vms.conversation import Conversation
from vms.deadline import Deadline
from vms.errors import (
    BootError,
    BoxError,
    CommandFailed,
    CommandSucceeded,
    CommandTimedOut,
    GuestAssertion,
    GuestLost,
    HostNotReady,
    InUse,
    NoSuchUser,
    NotInTime,
    NotRunning,
    ProfileError,
    VmsError,
)
from vms.guest import Guest, Output, Revertible, User
from vms.machines import booted, connect, destroy, hold, interruptible, status, undisturbed, up
from vms.probe import Evidence, Proof, list_facts, prove
from vms.profile import TRAITS, Fact, Profile, names, read

__all__ = [
    "TRAITS",
    "BootError",
    "BoxError",
    "CommandFailed",
    "CommandSucceeded",
    "CommandTimedOut",
    "Conversation",
    "Deadline",
    "Evidence",
    "Fact",
    "Guest",
    "GuestAssertion",
    "GuestLost",
    "HostNotReady",
    "InUse",
    "NoSuchUser",
    "NotInTime",
    "NotRunning",
    "Output",
    "Profile",
    "ProfileError",
    "Proof",
    "Revertible",
    "User",
    "VmsError",
    "booted",
    "connect",
    "destroy",
    "hold",
    "interruptible",
    "list_facts",
    "names",
    "prove",
    "read",
    "status",
    "undisturbed",
    "up",
]
