"""Bring machines up and down by profile name, whichever kind they are."""

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from vms import home, host, local
from vms.errors import InUse
from vms.guest import Guest
from vms.profile import Profile, read

BOOT_LIMIT_S = 1200.0
"""Two tries of a boot under emulation, while the other core is busy; building a box comes on top."""

Report = Callable[[str], None]
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Kind(Protocol):
    """What a module that knows one kind of machine offers."""

    def up(self, profile: Profile, *, report: Report, limit_s: float, cold: bool) -> None:
        """Bring it up, booted anew if `cold`; may leave half of it behind when it raises."""

    def connect(self, profile: Profile) -> Guest:
        """Return a handle; NotRunning if it is not up."""

    def is_up(self, profile: Profile) -> bool:
        """Whether it is up, asked of who runs it, not of a note."""

    def destroy(self, profile: Profile) -> None:
        """Take it away; harmless if there is none."""


def _kind(profile: Profile) -> Kind:
    if profile.kind == "local":
        return local
    # It needs python-vagrant and testinfra, which `local` and `host packages` do without.
    from vms import vagrant  # noqa: PLC0415

    return vagrant


def silent(_: str) -> None:
    """Report nothing."""


def up(name: str, *, report: Report = silent, limit_s: float = BOOT_LIMIT_S, cold: bool = False) -> None:
    """Bring the machine up, from its declaration; one that is up is refused and left alone.

    Args:
        name: A profile's name.
        report: Called with a line for each step and its time.
        limit_s: For the boot; a box that has to be built has its own limit.
        cold: Boot it, whatever was kept of an earlier boot.
    """
    profile = read(name)
    kind = _kind(profile)
    with _only_one(profile):
        if kind.is_up(profile):
            raise InUse(f"{name} is up already", hint=f"ci/nox -s vms -- destroy {name}")
        try:
            kind.up(profile, report=report, limit_s=limit_s, cold=cold)
        except InUse:
            raise
        except BaseException:
            # Half a machine is none, whatever stopped it on the way: Ctrl-C as well.
            destroy(name)
            raise


def connect(name: str) -> Guest:
    """Return a handle on a machine that is up; each process makes its own."""
    profile = read(name)
    return _kind(profile).connect(profile)


def status(name: str) -> str:
    """Return `up` or `down`."""
    profile = read(name)
    return "up" if _kind(profile).is_up(profile) else "down"


def destroy(name: str) -> None:
    """Take the machine and every file of it away; harmless if there is none."""
    profile = read(name)
    with undisturbed():
        _kind(profile).destroy(profile)


def build(name: str, *, report: Report = silent) -> str:
    """Have the profile's box built and verified; return its name and sha256."""
    profile = read(name)
    if profile.kind == "local":
        return "none: this machine is used as it is"
    from vms import boxes  # noqa: PLC0415 -- as in _kind

    host.require()
    with home.alone():
        box = boxes.find(profile, report=report)
    return f"{box.name} sha256:{box.sha256}"


@contextlib.contextmanager
def booted(name: str, *, keep: bool = False, report: Report = silent) -> Iterator[Guest]:
    """Bring the machine up, hand it over, take it away; `keep` leaves it up.

    After Ctrl-C, TERM or HUP too. A machine that was up before is refused and left alone.
    """
    with interruptible():
        up(name, report=report)
        try:
            with contextlib.closing(connect(name)) as guest:
                yield guest
        finally:
            if not keep:
                destroy(name)


@contextlib.contextmanager
def hold(name: str) -> Iterator[None]:
    """Have the machine for one run, up or not, until the block ends; other runs that ask for it are refused.

    It hinders nobody who does not ask: `up` and `destroy` by hand go on working. Programs that are started
    meanwhile do not keep it, since Python's descriptors are closed on exec; a run that is killed has let go.

    Raises:
        InUse: Another run has it.
    """
    path = home.machine(read(name).name) / "held"
    # Not "w": that would take the holder's process id away before it is known whether there is one.
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = path.read_text().strip() or "unknown"
            raise InUse(f"{name} is in use by another run (pid {holder})") from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have TERM and HUP end the controller as Ctrl-C does, so that what is up is taken away."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handling((signal.SIGTERM, signal.SIGHUP), interrupt):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Have a second Ctrl-C do nothing while a machine is taken away."""
    with _handling(ENDING_SIGNALS, signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handling(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, object], None] | signal.Handlers
) -> Iterator[None]:
    # Only a main thread may set signal handlers; elsewhere the main thread's are in force.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal that was ignored stays so: a run under nohup does not end with its terminal.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def _only_one(profile: Profile) -> Iterator[None]:
    """Hold the machine's lock, so that two runs do not bring it up at once."""
    with (home.machine(profile.name) / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"{profile.name} is being brought up by another process") from error
        yield
