"""Bring machines up and down by profile name, whichever kind they are."""

import contextlib
import fcntl
import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import assert_never

from vms import home, local
from vms.deadline import Deadline
from vms.errors import VmsError
from vms.guest import Guest
from vms.profile import Profile, read

BOOT_LIMIT_S = 420.0
"""Two tries of a boot under emulation, while the other core is busy; building a box comes on top."""

Report = Callable[[str], None]


def _vagrant() -> ModuleType:
    """Import what needs python-vagrant and testinfra only when a virtual machine is meant."""
    return importlib.import_module("vms.vagrant")


def silent(_: str) -> None:
    """Report nothing."""


def up(name: str, *, report: Report = silent, limit_s: float = BOOT_LIMIT_S) -> None:
    """Bring the machine up, from its declaration; one that is up is refused.

    Args:
        name: A profile's name.
        report: Called with a line for each step and its time.
        limit_s: For the boot; a box that has to be built has its own limit.
    """
    profile = read(name)
    with _only_one(profile):
        if is_up(profile):
            raise VmsError(f"{name} is up already", hint=f"python -m vms destroy {name}")
        try:
            match profile.kind:
                case "local":
                    local.up(profile, deadline=Deadline.after(limit_s))
                case "vm":
                    _vagrant().up(profile, report=report, limit_s=limit_s)
                case _ as never:
                    assert_never(never)
        except BaseException:
            # Half a machine is none, whatever stopped it on the way: Ctrl-C as well.
            destroy(name)
            raise


def connect(name: str) -> Guest:
    """Return a handle on a machine that is up; each process makes its own."""
    profile = read(name)
    match profile.kind:
        case "local":
            return local.connect(profile)
        case "vm":
            return _vagrant().connect(profile)
        case _ as never:
            assert_never(never)


def is_up(profile: Profile) -> bool:
    """Whether the machine is up (asked of the kernel or of libvirt, not of a note)."""
    match profile.kind:
        case "local":
            return local.find_holder(profile) is not None
        case "vm":
            return _vagrant().is_up(profile)
        case _ as never:
            assert_never(never)


def status(name: str) -> str:
    """Return `up` or `down`."""
    return "up" if is_up(read(name)) else "down"


def destroy(name: str) -> None:
    """Take the machine and every file of it away; harmless if there is none."""
    profile = read(name)
    with _undisturbed():
        match profile.kind:
            case "local":
                local.destroy(profile)
            case "vm":
                _vagrant().destroy(profile)
            case _ as never:
                assert_never(never)


def build(name: str, *, report: Report = silent) -> str:
    """Have the profile's box built and verified; return its name and sha256, or that it has none."""
    profile = read(name)
    if profile.kind == "local":
        return "none: this machine is used as it is"
    from vms import boxes, host

    host.require()
    box = boxes.find_or_build(profile.box, report=report)
    return f"{box.name} sha256:{box.sha256}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have TERM and HUP end the controller as Ctrl-C does, so that what is up is taken away.

    Only a main thread may set signal handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Have a second Ctrl-C wait until the machine is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def booted(name: str, *, keep: bool = False, report: Report = silent) -> Iterator[Guest]:
    """Bring the machine up, hand it over, take it away; `keep` leaves it up.

    After Ctrl-C, TERM or HUP too. A machine that was up before is refused and left alone.
    """
    with interruptible():
        up(name, report=report)
        try:
            guest = connect(name)
            try:
                yield guest
            finally:
                guest.close()
        finally:
            if not keep:
                destroy(name)


@contextlib.contextmanager
def _only_one(profile: Profile) -> Iterator[None]:
    """Hold the machine's lock, so that two runs do not bring it up at once."""
    with (home.machine(profile.name) / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VmsError(f"{profile.name} is being brought up by another process") from error
        yield
