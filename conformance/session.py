"""One run on one host, as the process that controls it sees it: boot, prove, install, and at the end look and report.

The process that was started by hand or by nox is the controller: it alone boots, installs, proves and reports. A
worker of xdist only connects.
"""

import contextlib
import datetime
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

import vms
from conformance import (
    clauses,
    install,
    logs,
    peers,
    preconditions,
    progress,
    provenance,
    report,
    report_files,
    snapshot,
    waivers,
)
from conformance.equipment import equip
from conformance.inputs import InputError
from conformance.planted import make_error
from conformance.subject import KitError

ROOT: Final = Path(__file__).parent.parent
REPORTS: Final = ROOT / "reports"
PLANTED: Final = report.Proof(
    "planted", proven=True, observed="a planted fault or a measured build; such a run is never green"
)
# Everything that can go wrong around the clauses and says nothing about them.
TROUBLE: Final = (vms.VmsError, InputError, KitError, ValueError, OSError)


@dataclass
class Controller:
    """What the controller gathers from boot to report."""

    profile: vms.Profile
    catalogue: clauses.Catalogue
    waivers: tuple[waivers.Waiver, ...]
    selected: tuple[str, ...] | None
    seed: int
    started: str
    runtime: str
    machine: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    guest: vms.Guest | None = None
    subject: dict[str, str] = field(default_factory=dict)
    before: tuple[report.Proof, ...] = ()
    state: snapshot.State = field(default_factory=dict)
    records: dict[tuple[str, str], report.TestRecord] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    # At the start, and the same at the end: its files are read in between.
    kit: dict[str, Any] = field(default_factory=provenance.describe_kit)
    begun: float = field(default_factory=time.monotonic)
    clauses_begun: float | None = None
    # The cases that were handed out, by their node ids: each has to come back with an outcome.
    expected: set[str] = field(default_factory=set)
    # Whether options of pytest's own left cases out, so that not every clause was judged in full.
    narrowed: bool = False
    # How many cases, one after the other, ended because the guest did not answer, and whether it was given up for that.
    lost: int = 0
    gone: bool = False
    # Whether a person ended it, who then wants no machine left, whatever else was asked.
    interrupted: bool = False
    # Ends the run before its last case, for the reason given.
    stop: Callable[[str], None] = lambda _: None
    tally: progress.Tally = field(default_factory=lambda: progress.Tally(lambda _: None))
    # What the report says, and why it could not be written, if so.
    written: report.Json | None = None
    unwritten: str = ""

    @property
    def judged(self) -> tuple[str, ...]:
        """Return the clauses that were asked for and say something of this host and this runtime."""
        names = self.catalogue if self.selected is None else self.selected
        return tuple(
            name
            for name in names
            if self.catalogue[name].applies_to(self.profile.name, self.profile.traits)
            and self.catalogue[name].is_about(self.runtime)
        )

    @property
    def own_part(self) -> report.Json:
        """Return the report's part about the profile of this run."""
        profiles: list[report.Json] = (self.written or {"profiles": []})["profiles"]
        return next(entry for entry in profiles if entry["profile"] == self.profile.name)


def prepare(config: pytest.Config, controller: Controller, say: Callable[[str], None]) -> None:
    """Leave a proven guest with the product in it."""
    name = controller.profile.name
    # Texts and not paths: xdist sends the options to its workers, and knows simple types only.
    wheel, shim = (
        Path(value) if value else None for value in (config.getoption("wheel"), config.getoption("shim"))
    )
    if wheel is None and shim is None:
        raise InputError("nothing to test: give --wheel (nox -s conformance builds one) or --shim")
    # Before all else on `machine`, so that it is let go last: a second run would judge this one's product, or take the
    # machine away under it.
    controller.machine.enter_context(vms.hold(name))
    with timed(controller, "boot"):
        if config.getoption("reuse") and vms.status(name) == "up":
            controller.subject["reused"] = "it was up before the run: nobody knows what was done to it"
        else:
            vms.up(name, report=lambda line: say(f"vms: {line}"), cold=config.getoption("cold"))
            # Only what this run booted is its own to take away: `up` refuses a machine that is somebody else's.
            controller.machine.callback(take_away, config, controller)
        controller.guest = vms.connect(name)
    if config.getoption("planted"):
        # `conformance.controls` proved the machine and put its fault there. What comes out is about the kit.
        controller.before = (PLANTED,)
        controller.subject["planted"] = config.getoption("planted")
        return
    with timed(controller, "prove"):
        controller.before = preconditions.prove(controller.guest)
    with timed(controller, "install"), tempfile.TemporaryDirectory(prefix="conformance-") as own:
        product = install.Product(wheel, shim).copy_to(Path(own))
        controller.subject |= {**product.describe(), **controller.guest.identity}
        cache = Path(config.getoption("kit_cache")).expanduser()
        workers = getattr(config.option, "numprocesses", None) or 1
        controller.subject |= equip(controller.guest, product, cache, controller.judged, workers=workers)
        controller.subject |= peers.install(controller.guest, controller.runtime, cache)
    with timed(controller, "look"):
        controller.state = snapshot.take_snapshot(controller.guest)


def take_away(config: pytest.Config, controller: Controller) -> None:
    """Destroy the machine that this run booted, unless it is wanted for a look."""
    red = controller.written is not None and not controller.own_part["green"]
    if config.getoption("keep_on_fail") and red and not controller.interrupted:
        return
    vms.destroy(controller.profile.name)


def conclude(config: pytest.Config, controller: Controller) -> None:
    """Look at the host once more and write the report, whatever happened. The machine stays until `machine` closes."""
    if controller.clauses_begun is not None:
        controller.timing["clauses"] = time.monotonic() - controller.clauses_begun
    after: tuple[report.Proof, ...] = ()
    host = report.HostState(controller.state)
    counts: dict[str, int] = {}
    lost = False
    if config.getoption("planted"):
        after = (PLANTED,)
        controller.errors.append(make_error(config.getoption("planted")))
    elif controller.guest is not None:
        try:
            host = look_again(controller, controller.guest)
            with timed(controller, "logs"):
                counts = gather_logs(controller, controller.guest)
        except TROUBLE as error:
            controller.errors.append(str(error))
        try:
            with timed(controller, "prove again"):
                after = preconditions.prove(controller.guest)
        except TROUBLE as error:
            controller.errors.append(f"the host could not be proven again: {error}")
            lost = isinstance(error, vms.GuestLost)
    if absent := sorted(controller.expected - {node for _, node in controller.records}):
        controller.errors.append(
            f"{len(absent)} of {len(controller.expected)} cases have no outcome: {absent[0]} …"
        )
        # What holds by the cases that came back was not judged in full.
        controller.narrowed = True
    if not provenance.is_unchanged(controller.kit["sha256"]):
        controller.errors.append(
            "the kit's files were changed while it ran: nobody knows which of them judged"
        )
    controller.timing["all"] = time.monotonic() - controller.begun
    run = report.ProfileRun(
        profile=controller.profile.name,
        traits=controller.profile.traits,
        started=controller.started,
        finished=now_text(),
        seed=controller.seed,
        runtime=controller.runtime,
        subject=controller.subject,
        before=controller.before,
        after=after,
        records=tuple(controller.records.values()),
        kit=controller.kit,
        errors=tuple(controller.errors),
        selected=controller.selected,
        narrowed=controller.narrowed,
        lost=lost,
        timing=controller.timing,
        host=host,
        logs=counts,
    )
    directory = Path(config.getoption("report_dir"))
    try:
        place, controller.written = write(directory, controller, run)
    except OSError as error:
        # A disk may be full by now. The summary is told all the same, and a run without a report is red.
        controller.unwritten = f"{directory}: no report could be written: {error.strerror or error}"
        made = make_part(controller, run, controller.unwritten)
        controller.written = report.merge_report(None, directory.name, made)
    else:
        config.option.report_dir = str(place)


def write(directory: Path, controller: Controller, run: report.ProfileRun) -> tuple[Path, report.Json]:
    """Write the report of the run; return where it lies and what it says.

    Raises:
        OSError: It could not be written.
    """
    try:
        return directory, report_files.write_profile(directory, make_part(controller, run))
    except report.ReportError as error:
        # What lies there is about another wheel or by another kit. What this run judged is kept beside it.
        aside = directory / f"{run.profile}-{run.finished.replace(':', '')}"
        made = make_part(controller, run, f"{directory}: {error}")
        return aside, report_files.write_profile(aside, made)


def make_part(controller: Controller, run: report.ProfileRun, *errors: str) -> report.Json:
    """Return the report's part about this run, with what more went wrong."""
    told = replace(run, errors=(*run.errors, *errors))
    return report.make_profile(told, controller.catalogue, controller.waivers)


def look_again(controller: Controller, guest: vms.Guest) -> report.HostState:
    """Return the host's state before and after; what the run has to answer for becomes an error."""
    if not controller.state:
        return report.HostState()
    with timed(controller, "look"):
        host = report.HostState(controller.state, snapshot.take_snapshot(guest))
    controller.errors += snapshot.find_faults(host)
    return host


def gather_logs(controller: Controller, guest: vms.Guest) -> dict[str, int]:
    """Share the logs of the run out to its evidence; return how many lines there were, and how many denials."""
    pieces = [
        piece
        for record in controller.records.values()
        for attempt in record.attempts
        for piece in attempt.evidence
    ]
    begins = [piece["started"] for piece in pieces if "started" in piece]
    if not begins:
        return {}
    lines = logs.read_logs(guest, min(begins))
    logs.share_out(lines, pieces)
    # A line of the ring buffer stands with every job of its moment.
    kernel = {line for piece in pieces for line in piece.get("kernel", ())}
    return {
        "kernel": len(kernel),
        **{name: sum(line.source == name for line in lines) for name in ("journal", "audit")},
        "denials": logs.count_denials([*kernel, *(line.text for line in lines)]),
    }


@contextlib.contextmanager
def timed(controller: Controller, name: str) -> Iterator[None]:
    """Add the time of what is inside to the report, and have it shown as the phase."""
    controller.tally.begin(name)
    start = time.monotonic()
    try:
        yield
    finally:
        controller.timing[name] = controller.timing.get(name, 0.0) + time.monotonic() - start


def now_text() -> str:
    """Return the time as ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
