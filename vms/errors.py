"""What can go wrong with a machine, as opposed to with what a test claims about it.

VmsError
├── ProfileError        a profile or box file is malformed (a person mends the file)
├── HostNotReady        this machine lacks a package, a right or a daemon
├── BoxError            a box could not be built, or is not the one recorded
├── BootError           no ssh answer, twice
├── NotRunning          the machine asked for is not up
├── InUse               the machine is there already, or another run has it: it was left alone
├── NoSuchUser          the profile has no such user, or its guest lacks him
├── GuestLost           the connection or the machine broke: says nothing about the command
├── CommandTimedOut     a controller-side program ran past its deadline
└── GuestAssertion      (also an AssertionError) the command ran, and did otherwise
    └── CommandFailed, CommandSucceeded, NotInTime
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vms.guest import Output


class VmsError(Exception):
    """Something about the machines, with what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)
        self.message = message
        self.hint = hint


class ProfileError(VmsError):
    """A profile or box file says something that is not in its schema."""

    def __init__(self, path: Path, where: str, why: str) -> None:
        super().__init__(f"{path}: {where}: {why}")
        self.path = path
        self.where = where


class HostNotReady(VmsError):
    """This machine cannot run the profile as it is; the hint is the line that mends it."""


class BoxError(VmsError):
    """A box could not be built, or its files are not those that were recorded."""


class BootError(VmsError):
    """The machine did not come up, the second time either."""


class NotRunning(VmsError):
    """Nothing is up under that profile's name."""


class InUse(VmsError):
    """The machine is somebody's already: nothing was done to it, and nothing of it may be taken away."""


class NoSuchUser(VmsError):
    """The profile gives no such user, and a test that needs one must say so in its clause; or the guest lacks him."""


class GuestLost(VmsError):
    """The guest did not answer, or its connection broke: never a verdict on a command."""


class CommandTimedOut(VmsError):
    """A program of the controller (not of the guest) ran past its deadline and was killed; `tail`: its last words."""

    def __init__(self, command: "Sequence[str]", seconds: float, tail: str = "") -> None:
        super().__init__(f"killed after {seconds:.1f} s: {' '.join(command)}\n{tail}".rstrip())


class GuestAssertion(VmsError, AssertionError):
    """The command ran in the guest and did not do what was demanded of it."""

    def __init__(self, what: str, output: "Output") -> None:
        super().__init__(f"{what}\n{output.describe()}")
        self.output = output


class CommandFailed(GuestAssertion):
    """`succeed` saw another exit code than 0."""


class CommandSucceeded(GuestAssertion):
    """`fail` saw exit code 0."""


class NotInTime(GuestAssertion):
    """`wait_until` saw no success before its deadline; `output` is the last observation."""
