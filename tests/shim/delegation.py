"""A piece of this machine's cgroup v2 hierarchy that is an ordinary user's, as systemd or an administrator gives it.

Where a v1 hierarchy holds the controllers (hybrid), the piece has none and limits cannot work; then the mutant build
with rule 29-controller off still makes, joins and removes leaves, and that is what is looked at.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.shim.harness import Bundle, Call, Run, wait_until

CONTROLLER = "pids"
LIMITS = {"pids": {"limit": 64}}
# What of a cgroup belongs to whoever it is delegated to: the kernel's own list (cgroup-v2, "Model of Delegation").
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
_numbers = itertools.count()


def hierarchy() -> Path:
    """Return where the whole cgroup v2 hierarchy is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, more = line.partition(" - ")
        if more.split()[0] == "cgroup2" and fields.split()[3] == "/":
            return Path(fields.split()[4])
    raise AssertionError("no cgroup v2 is mounted here; a kernel that locald supports has it")


@dataclass(frozen=True)
class Place:
    """A delegated cgroup `top`; the caller's processes are in `own` below it."""

    top: Path

    @property
    def own(self) -> Path:
        """Where the shim is."""
        return self.top / "own"

    def call(self, wrapper: Sequence[str] = (), container: str | None = None) -> Call:
        """Return a call from inside `own`."""

        def prepare() -> None:
            (self.own / "cgroup.procs").write_text("0")

        return Call(prepare=prepare, wrapper=wrapper, id=container)

    def leaves(self) -> list[str]:
        """Return the names of the cgroups that the shim made."""
        return sorted(path.name for path in self.top.iterdir() if path.is_dir() and path != self.own)


@contextlib.contextmanager
def delegated(run: Run, *, to_caller: bool = True, controllers: bool = True) -> Iterator[Place]:
    """Make a delegated cgroup; with `to_caller` false it is root's, though everybody may write to it."""
    root = hierarchy()
    top = root / f"locald-test-{os.getpid()}-{next(_numbers)}"
    place = Place(top)
    place.own.mkdir(parents=True)
    if controllers and has_controller():
        for above in (root, top):
            (above / "cgroup.subtree_control").write_text(f"+{CONTROLLER}")
    for directory in (top, place.own):
        for path in (directory, *(directory / name for name in DELEGATED)):
            if to_caller:
                os.chown(path, run.caller.uid, run.caller.gid)
            else:
                path.chmod(path.stat().st_mode | 0o222)
    try:
        yield place
    finally:
        remove(top)


def remove(top: Path) -> None:
    """Kill whatever is in a cgroup and remove it with all below."""
    (top / "cgroup.kill").write_text("1")
    wait_until(lambda: "populated 0" in (top / "cgroup.events").read_text(), f"{top} is empty")
    for path, _, _ in os.walk(top, topdown=False):
        os.rmdir(path)


def has_controller() -> bool:
    """Say whether limits can work on this machine."""
    return CONTROLLER in (hierarchy() / "cgroup.controllers").read_text().split()


def able(run: Run) -> Run | None:
    """Return the run with which a leaf can be made here, or None if this shim must refuse on this machine."""
    if has_controller():
        return run
    return run.without("29-controller") if run.shim.is_mutant else None


def limited(run: Run, *args: str) -> Bundle:
    """Return a bundle whose config limits its tasks."""
    bundle = run.bundle(*args)
    bundle.linux["resources"] = LIMITS
    return bundle
