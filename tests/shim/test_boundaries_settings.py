"""The exchanges of test_boundaries.py in the other ways to run a container, at the boundaries that only these have.

A root that is read-only has its targets made beforehand; a terminal has a file system, a console and a relay; an init
stage stays between the shim and the payload; limits have a leaf. What else such a run calls is exchanged at already.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest

from tests.shim.delegation import LIMITS, Place, able, delegated
from tests.shim.harness import Caller, Mode, Run, Shim, Workshop
from tests.shim.oracle import Host
from tests.shim.settings import Setting
from tests.shim.test_boundaries import ANYWHERE, SHOWN, TARGETS, Scene, make_scene, try_exchanges
from tests.shim.tracer import Boundary, Surroundings, Tracer

KINDS_OF_RUN = ("readonly", "terminal", "init", "limits")
# One name that root builds on, one that the caller's look-ups make or find, one that is looked at as a whole.
FEW = ("bundle/rootfs/dev", "bundle/rootfs/srv", "bundle/rootfs")
# Ids, pids and numbers of descriptors: the same call has others in the next run.
NUMBER = re.compile(r"\d+")


def only_there(boundaries: tuple[Boundary, ...], *, known: tuple[Boundary, ...]) -> Sequence[Boundary]:
    """Return the boundaries of a run that a run without its setting does not have, process by process."""
    ours, theirs = by_process(boundaries), by_process(known)
    found = []
    for where, calls in ours.items():
        names, others = (list(map(name_of, list_)) for list_ in (calls, theirs[where]))
        matcher = difflib.SequenceMatcher(a=others, b=names, autojunk=False)
        for tag, _, _, begin, end in matcher.get_opcodes():
            found += calls[begin:end] if tag != "equal" else []
    return found


def by_process(boundaries: tuple[Boundary, ...]) -> defaultdict[str, list[Boundary]]:
    """Return the calls of each process in their order; those of two come in another order each time."""
    found: defaultdict[str, list[Boundary]] = defaultdict(list)
    for boundary in boundaries:
        found[boundary.where].append(boundary)
    return found


def name_of(boundary: Boundary) -> str:
    """Return what makes it the same call in another run."""
    return NUMBER.sub("N", f"{boundary.call} {boundary.text}")


@dataclass(frozen=True)
class Stage:
    """Where runs of one kind are made."""

    setting: Setting
    run: Run
    tracer: Tracer
    callers: dict[str, Caller]
    place: Place | None  # for limits

    def scene(self, *, plain: bool = False) -> Scene:
        """Return a scene of this kind, or the same without what makes its kind."""
        setting = Setting(self.setting.mode) if plain else self.setting
        around = Surroundings(cgroup=self.place.own) if self.place else ANYWHERE
        scene = make_scene(setting, self.run.workshop, self.callers, around)
        if self.place and not plain:
            scene.bundle.linux["resources"] = LIMITS
            scene.bundle.write()
        return scene

    def try_exchanges(self, target: str, host: Host, *, every: bool) -> list[str]:
        """Exchange `target` at each boundary that a plain run does not have; return the findings."""
        known = self.scene(plain=True).record(self.tracer).boundaries
        choose = partial(only_there, known=known)
        scene = self.scene()
        assert choose(scene.record(self.tracer).boundaries) != []
        found = try_exchanges(scene, target, self.tracer, host, every=every, choose=choose)
        left = self.place.leaves() if self.place else []
        return [*found, f"cgroups left: {left}"] if left else found


@pytest.fixture
def stage(
    kind: str,
    rule: str,
    mode: Mode,
    shim: Shim,
    mutant: Shim,
    start_tracer: Callable[[Shim], Tracer],
    workshop: Workshop,
    callers: dict[str, Caller],
) -> Iterator[Stage]:
    """What this kind of run needs; `rule` is off, and where this machine has no controllers the mutant build is run."""
    limits = kind == "limits"
    setting = Setting(mode, readonly=kind == "readonly", terminal=kind == "terminal", init=kind == "init")
    run = Run(
        mutant.without(rule) if rule else mutant if limits else shim, workshop, mode, callers["locald-a"]
    )
    if not limits:
        yield Stage(setting, run, start_tracer(run.shim), callers, None)
        return
    working = able(run)
    assert working is not None
    with delegated(working) as place:
        yield Stage(setting, working, start_tracer(working.shim), callers, place)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A few targets in `tests`, every one in `hostile`."""
    if "target" in metafunc.fixturenames:
        hostile = metafunc.config.getoption("--hostile", default=False)
        metafunc.parametrize("target", TARGETS if hostile else FEW)


@pytest.mark.parametrize("rule", [""], ids=["whole"])
@pytest.mark.parametrize("kind", KINDS_OF_RUN)
def test_an_exchange_in_another_setting_gains_nothing(
    stage: Stage, target: str, host: Host, *, hostile: bool
) -> None:
    """At each boundary of the shim, of its child, of an init stage's and of a relay's that a plain run has not."""
    found = stage.try_exchanges(target, host, every=hostile)
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])


# An init stage's own calls come when the last name has been looked up: no exchange there could gain anything.
@pytest.mark.parametrize("rule", ["16"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS_OF_RUN if kind != "init"])
def test_the_exchange_in_another_setting_notices_a_mutant(stage: Stage, host: Host) -> None:
    """With mount targets resolved by name, some boundary of just these is one where the exchange gains something."""
    assert stage.try_exchanges("bundle/rootfs/srv", host, every=False)
