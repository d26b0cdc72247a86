"""One pytest process a profile: boot, prove, install, run the clauses (by xdist's workers if asked), prove again.

The process that was started by hand or by nox is the controller: it alone boots, installs, proves and reports. A
worker only connects. Without xdist the two are one.
"""

import contextlib
import datetime
import functools
import hashlib
import json
import random
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol

import vms
from conformance import again, clauses, controls, locks, progress, report, runtimes, waivers
from conformance.hostile import Hostile
from conformance.options import OPTIONS, Reader
from conformance.rendering import summary
from conformance.report_files import make_place
from conformance.session import REPORTS, TROUBLE, Controller, conclude, now_text, prepare
from conformance.subject import PEER, SHIM, Agent, Subject
from conformance.verdicts import Outcome
from vms import home

HERE: Final = Path(__file__).parent
# An emulated CPU starts a process 20 to 35 times slower than the controller; waits are sized for the host.
SLOWNESS: Final = {"local": 1.0, "vm": 10.0}
MESSAGE_CHARS: Final = 4000

CONTROLLER: Final = pytest.StashKey[Controller]()
SUBJECT: Final = pytest.StashKey[Subject]()
# How this process reads --profile, of which `run` takes several.
ONE_HOST: Final = {"metavar": "NAME", "default": "local", "help": "the host to judge: a name of vms/profiles"}
# How long a test waited for its turn: that is no time of its own.
WAITED_S: Final = pytest.StashKey[float]()
# Cases that pytest's own options took out.
LEFT_OUT: Final = pytest.StashKey[int]()
# By so many in a row the guest is gone, and not only slow: each further case would wait for it, for minutes.
LOST_LIMIT: Final = 3
_CONTROLLERS: Final[list[Controller]] = []
_TALLIES: Final[list[progress.Tally]] = []
LIVE: Final = pytest.StashKey[progress.Live]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the kit's options."""
    group = parser.getgroup("conformance")
    for option in OPTIONS:
        if option.reader not in {Reader.RUN, Reader.PYTEST}:
            option.declare(group.addoption, **(ONE_HOST if option.name == "--profile" else {}))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read catalogue, tests and waivers; a fault in them ends the run before a machine is booted."""
    config.addinivalue_line("markers", "clause(*ids): the clauses of the catalogue that the test judges")
    config.addinivalue_line(
        "markers", "alone(name): no test of that name beside it; without a name, no test at all"
    )
    if hasattr(config, "workerinput"):
        return
    interruptible = contextlib.ExitStack()
    interruptible.enter_context(vms.interruptible())
    config.add_cleanup(interruptible.close)
    try:
        catalogue = clauses.read_catalogue()
        tests = clauses.find_tests(HERE)
        clauses.check_coverage(catalogue, {name for named in tests.values() for name in named})
        clauses.check_controls(catalogue, controls.read_controls())
        text = waivers.WAIVERS.read_text("utf-8")
        live = waivers.parse_waivers(text, today=datetime.datetime.now(datetime.UTC).date(), known=catalogue)
        profile = vms.read(config.getoption("profile"))
        find_runtime(config)
    except (clauses.CatalogueError, vms.ProfileError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    # Not there with `-p no:cacheprovider`.
    if getattr(config.option, "lf", False):
        narrow_to_last_failed(config, profile.name)
    require_files(config)
    glob = config.getoption("clause")
    selected = clauses.select(catalogue, glob) if glob else None
    if selected == ():
        raise pytest.UsageError(f"no clause matches {glob}")
    if config.getoption("seed") is None:
        config.option.seed = random.SystemRandom().randrange(100_000)
    started = now_text()
    # Who only asks what there is gets no report.
    if not (config.option.collectonly or config.option.help):
        require_place(config, REPORTS / started.replace(":", ""))
    config.stash[CONTROLLER] = Controller(
        profile,
        catalogue,
        live,
        selected,
        config.getoption("seed"),
        started=started,
        runtime=config.getoption("runtime"),
    )
    # Whatever breaks on the way to the report.
    config.add_cleanup(config.stash[CONTROLLER].machine.close)
    # pytest_runtest_logreport is not told the config.
    _CONTROLLERS[:] = [config.stash[CONTROLLER]]


def require_files(config: pytest.Config) -> None:
    """Refuse what is to be tested and is not there, before a machine is booted for it."""
    for option in ("wheel", "shim"):
        value = config.getoption(option)
        if value is not None and not Path(value).is_file():
            raise pytest.UsageError(f"--{option} {value}: no such file")


def require_place(config: pytest.Config, default: Path) -> None:
    """Make the place of the report; refuse one that cannot be written to, before a machine is booted for it."""
    directory = Path(config.getoption("report_dir") or default)
    try:
        make_place(directory)
    except OSError as error:
        said = error.strerror or error
        raise pytest.UsageError(
            f"--report-dir {directory}: no report can be written there: {said}"
        ) from error
    config.option.report_dir = str(directory)


def narrow_to_last_failed(config: pytest.Config, profile: str) -> None:
    """Take `--last-failed` as the clauses that were red on this profile.

    pytest's own remembers tests and knows no profile: it would mix what was red on two hosts.
    """
    config.option.lf = False
    try:
        red = set(again.find_last_failed(REPORTS, profile, config.getoption("runtime")))
    except LookupError as error:
        raise pytest.UsageError(str(error)) from error
    glob = config.getoption("clause") or "*"
    config.option.clause = ",".join(name for name in sorted(red) if clauses.matches(name, glob.upper()))
    if not config.option.clause:
        raise pytest.UsageError(f"no clause that matches {glob} was red")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Boot, prove and install, before xdist starts a worker."""
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    controller = config.stash[CONTROLLER]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    controller.tally = make_tally(config, controller.profile.name)
    try:
        prepare(config, controller, reporter.write_line if reporter is not None else print)
    except TROUBLE as error:
        controller.errors.append(str(error))
    except BaseException:
        # Ctrl-C while it boots: pytest ends no session that did not start, so nobody else takes the machine away.
        controller.machine.close()
        raise
    if controller.errors or not all(proof.proven for proof in controller.before):
        end(config, controller)
        pytest.exit("\n".join(summary.summarise(controller.written or {})), returncode=1)
    controller.stop = functools.partial(stop, session, controller)
    controller.clauses_begun = time.monotonic()
    controller.tally.begin("clauses", clauses_total=len(controller.judged))
    _TALLIES[:] = [controller.tally]


def stop(session: pytest.Session, controller: Controller, why: str) -> None:
    """End the run before its last case, and say so in the report; xdist does not look at pytest's own switch."""
    controller.errors.append(why)
    session.shouldstop = why
    if distributed := session.config.pluginmanager.get_plugin("dsession"):
        distributed.shouldstop = why


def make_tally(config: pytest.Config, profile: str) -> progress.Tally:
    """Return what counts this run, and have it shown: to who started it, on the terminal, or not at all."""
    descriptor = config.getoption("progress_fd")
    if descriptor is not None:
        return progress.Tally(progress.make_teller(descriptor))
    if progress.is_wanted(config):
        live = progress.Live(profile, config.pluginmanager.get_plugin("terminalreporter"))
        config.pluginmanager.register(live)
        config.stash[LIVE] = live
        return progress.Tally(live.tell)
    return progress.Tally(lambda _: None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of xdist the order and the clauses that everybody has: it parses the command line anew."""
    node.workerinput["conformance_seed"] = node.config.getoption("seed")
    node.workerinput["conformance_clause"] = node.config.getoption("clause")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `mode` in each that both the runtime and the host can have."""
    if "mode" in metafunc.fixturenames:
        possible = runtimes.find_modes(vms.read(metafunc.config.getoption("profile")).traits)
        modes = [mode for mode in find_runtime(metafunc.config).modes if mode in possible]
        metafunc.parametrize("mode", modes)


def find_runtime(config: pytest.Config) -> runtimes.Runtime:
    """Return the adapter of the runtime under test.

    Raises:
        ValueError: There is no such runtime.
    """
    return runtimes.make_runtime(config.getoption("runtime"), shim=SHIM, peer=PEER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what applies to the profile and was asked for, in the order of the seed."""
    catalogue = clauses.read_catalogue()
    profile = vms.read(config.getoption("profile"))
    shared = getattr(config, "workerinput", {})
    glob = shared.get("conformance_clause", config.getoption("clause"))
    wanted = set(clauses.select(catalogue, glob)) if glob else set(catalogue)
    runtime = config.getoption("runtime")
    wanted = {
        name
        for name in wanted
        if catalogue[name].applies_to(profile.name, profile.traits) and catalogue[name].is_about(runtime)
    }
    keep = [item for item in items if wanted & set(clauses_of(item))]
    collected = {f"{item.path.name}::{getattr(item, 'originalname', item.name)}" for item in keep}
    named = clauses.find_tests(HERE).items()
    absent = [test for test, ids in named if wanted & set(ids) and test not in collected]
    # A test that was named by its node id may stand for one of its modes only.
    by_node = any("::" in argument for argument in config.args)
    tell_narrowed(config, narrowed=bool(absent or by_node or config.stash.get(LEFT_OUT, 0)))
    if CONTROLLER in config.stash:
        config.stash[CONTROLLER].expected |= {item.nodeid for item in keep}
    config.hook.pytest_deselected(items=[item for item in items if item not in keep])
    seed = shared.get("conformance_seed", config.getoption("seed"))
    items[:] = sorted(keep, key=lambda item: place_in_order(seed, item.nodeid))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what `-k`, `--deselect` and the like take out: they come before the kit's own choice."""
    for item in items[:1]:
        stash = item.config.stash
        stash[LEFT_OUT] = stash.get(LEFT_OUT, 0) + len(items)


def tell_narrowed(config: pytest.Config, *, narrowed: bool) -> None:
    """Let the controller know whether cases were left out; a worker of xdist tells it at its end."""
    if hasattr(config, "workeroutput"):
        config.workeroutput["conformance_narrowed"] = narrowed
    elif CONTROLLER in config.stash:
        config.stash[CONTROLLER].narrowed |= narrowed


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep what could not be collected: its cases are among those that nobody expects."""
    error = f"{report.nodeid} was not collected"
    # Each worker of xdist says so.
    if report.failed and _CONTROLLERS and error not in _CONTROLLERS[-1].errors:
        _CONTROLLERS[-1].errors.append(error)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Keep what the workers are about to be handed: a case of a worker that crashes has no outcome."""
    node.config.stash[CONTROLLER].expected |= set(ids)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker said at its end."""
    del error
    told = getattr(node, "workeroutput", {}).get("conformance_narrowed", False)
    node.config.stash[CONTROLLER].narrowed |= told


def place_in_order(seed: int, node: str) -> bytes:
    """Return where the seed puts a test; two tests keep their order whatever else was selected."""
    return hashlib.sha256(f"{seed} {node}".encode()).digest()


def clauses_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the clauses that a test names."""
    return tuple(name for mark in item.iter_markers("clause") for name in mark.args)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test, again if it fails; a test that failed stays failed whatever came later."""
    config, attempts = item.config, []
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    kept: list[pytest.TestReport] = []
    for number in range(max(1, config.getoption("attempts"))):
        if number:
            item._initrequest()  # type: ignore[attr-defined]  # noqa: SLF001  # as pytest-rerunfailures does
        start = time.monotonic()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        outcome, message = judge_attempt(reports)
        subject = config.stash.get(SUBJECT, None)
        attempts.append(
            {
                "outcome": str(outcome),
                "duration_s": time.monotonic() - start - item.stash.get(WAITED_S, 0.0),
                "message": message,
                "evidence": list(subject.evidence) if subject else [],
            }
        )
        kept = kept or reports
        if outcome is Outcome.PASSED and not number:
            break
        if outcome is Outcome.BROKEN:
            kept = reports
            break
    kept[0].user_properties.append(
        (
            "conformance",
            json.dumps(
                {
                    "clauses": clauses_of(item),
                    "node": item.nodeid,
                    "attempts": attempts,
                    "lost": any(getattr(part, "lost", False) for part in kept),
                }
            ),
        )
    )
    for part in kept:
        item.ihook.pytest_runtest_logreport(report=part)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def judge_attempt(reports: Sequence[pytest.TestReport]) -> tuple[Outcome, str]:
    """Return what an attempt came to, and why if it did not pass."""
    # Only what did not pass has told; the first of set-up, call and tear-down counts.
    for part in reports:
        if hasattr(part, "conformance"):
            word, message = part.conformance
            return Outcome(word), message
    # Some options of pytest's, --setup-only among them, set up and tear down and run nothing between.
    if not any(part.when == "call" and part.passed for part in reports):
        return Outcome.BROKEN, "the test's body did not run"
    return Outcome.PASSED, ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, pytest.TestReport]:
    """Tell what speaks of the subject from what speaks of the kit."""
    del item
    made: Any = yield
    if call.excinfo is not None:
        about_subject = call.when == "call" and call.excinfo.errisinstance(
            (AssertionError, pytest.fail.Exception)
        )
        outcome = Outcome.FAILED if about_subject else Outcome.BROKEN
        # Plain texts without surrogates: xdist carries nothing else, and a payload may have said anything.
        text = str(made.longreprtext).encode(errors="backslashreplace").decode()
        summary = call.excinfo.exconly(tryshort=True).encode(errors="backslashreplace").decode()
        made.longrepr = text
        made.lost = call.excinfo.errisinstance(vms.GuestLost)
        made.conformance = (outcome.value, f"{summary}\n\n{text}"[:MESSAGE_CHARS])
    result: pytest.TestReport = made
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:  # noqa: D103  # see `gather`
    gather(report)


def gather(part: pytest.TestReport) -> None:
    """Keep what a test came to; with xdist this comes from the workers."""
    controller = _CONTROLLERS[-1] if _CONTROLLERS else None
    for name, value in part.user_properties:
        if name == "conformance" and controller is not None:
            data = json.loads(str(value))
            attempts = tuple(
                report.Attempt(
                    Outcome(entry["outcome"]), entry["duration_s"], entry["message"], tuple(entry["evidence"])
                )
                for entry in data["attempts"]
            )
            for clause in data["clauses"]:
                # Options of pytest's run a case twice (--dist=each): the second result does not replace the first.
                known = controller.records.get((clause, data["node"]))
                before = known.attempts if known else ()
                record = report.TestRecord(clause, data["node"], before + attempts)
                controller.records[clause, data["node"]] = record
            controller.lost = controller.lost + 1 if data["lost"] else 0
            if controller.lost >= LOST_LIMIT and not controller.gone:
                controller.gone = True
                controller.stop(f"the guest did not answer {LOST_LIMIT} cases in a row: it is taken for gone")
            for tally in _TALLIES:
                passed = all(attempt.outcome is Outcome.PASSED for attempt in attempts)
                tally.count(tuple(data["clauses"]), data["node"], passed=passed)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Prove again, report, take the machine away; the run is red unless the report is green.

    Around the others: xdist waits for its workers there, and Ctrl-C in that time must not leave the machine.
    """
    result = None
    try:
        result = yield
    except KeyboardInterrupt:
        session.exitstatus = pytest.ExitCode.INTERRUPTED
    finish(session)
    return result


def finish(session: pytest.Session) -> None:
    """Do as `pytest_sessionfinish` says, in the process that has the machine."""
    config = session.config
    if CONTROLLER not in config.stash or config.option.collectonly:
        return
    if LIVE in config.stash:
        config.stash[LIVE].stop()
    controller = config.stash[CONTROLLER]
    controller.interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED and not controller.gone
    if controller.written is None:
        end(config, controller)
    if controller.gone:
        # Nobody interrupted it.
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif controller.written is not None and not controller.own_part["green"]:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    elif session.exitstatus == pytest.ExitCode.TESTS_FAILED:
        # pytest counts each case that failed, and knows neither waivers nor levels. What it could not run, and what
        # went wrong around the cases, the report has as errors.
        session.exitstatus = pytest.ExitCode.OK


def end(config: pytest.Config, controller: Controller) -> None:
    """Write the report, let a person look if he wants to, and take the machine away, whatever happened."""
    try:
        conclude(config, controller)
        if (
            config.getoption("shell_on_fail")
            and controller.guest is not None
            and not controller.own_part["green"]
        ):
            show_shell(config, controller)
    finally:
        controller.machine.close()


def show_shell(config: pytest.Config, controller: Controller) -> None:
    """Open a shell where the clauses were red, with what was red above it."""
    assert controller.guest is not None
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    say = reporter.write_line if reporter is not None else print
    if capture:
        # With standard input, which pytest leaves captured otherwise: the shell reads it.
        capture.suspend_global_capture(in_=True)
    try:
        say("")
        for line in summary.describe_profile(controller.own_part):
            say(line)
        say(f"root's shell on {controller.profile.name}; the machine goes when it ends")
        if why_not := again.open_shell(controller.guest):
            say(why_not)
    finally:
        if capture:
            capture.resume_global_capture()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the matrix and what to look at."""
    controller = config.stash.get(CONTROLLER, None)
    if controller is None or controller.written is None:
        return
    terminalreporter.section("conformance")
    for line in summary.summarise(controller.written):
        terminalreporter.write_line(line)
    for line in waivers.describe_unneeded(controller.waivers, [controller.own_part]):
        terminalreporter.write_line(line)
    for line in summary.describe_time(controller.own_part):
        terminalreporter.write_line(line)
    place = config.getoption("report_dir")
    files = controller.unwritten or f"{place}/report.json, {place}/index.html"
    terminalreporter.write_line(f"seed {controller.seed}; {files}")
    if config.getoption("keep_on_fail"):
        # libvirt may not say, which must not cost the summary.
        with contextlib.suppress(vms.VmsError):
            if vms.status(controller.profile.name) == "up":
                terminalreporter.write_line(
                    f"the machine is up: ci/nox -s vms -- ssh {controller.profile.name}"
                )


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[vms.Guest]:
    """Return this process's own handle on the machine under test."""
    handle = vms.connect(request.config.getoption("profile"))
    yield handle
    handle.close()


@pytest.fixture(scope="session")
def product(guest: vms.Guest, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Return the installed product; what it remembers lasts for the worker."""
    config = request.config
    worker = getattr(config, "workerinput", {}).get("workerid", "main")
    agent = Agent(guest)
    made = Subject(guest, agent, find_runtime(config), factor=SLOWNESS[guest.profile.kind], worker=worker)
    config.stash[SUBJECT] = made
    yield made
    agent.close()


@pytest.fixture(autouse=True)
def _in_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep tests apart that share something in the guest, such as its policy file or a port.

    Locks between processes, and not xdist's groups: those choose a worker, and say nothing about the other workers.
    """
    names = [mark.args[0] if mark.args else "" for mark in request.node.iter_markers("alone")]
    start = time.monotonic()
    with contextlib.ExitStack() as held:
        # Every test shares the guest; one that changes it for all has it to itself.
        for name in dict.fromkeys(["", *names]):
            place = home.machine(request.config.getoption("profile")) / f"alone-{name}.lock"
            held.enter_context(locks.in_turn(place, shared=name not in names))
        request.node.stash[WAITED_S] = time.monotonic() - start
        yield


@pytest.fixture
def subject(product: Subject) -> Subject:
    """Return the installed product with nothing recorded yet."""
    product.evidence.clear()
    return product


@pytest.fixture(scope="session")
def attacks(product: Subject) -> Hostile:
    """Return what clauses about attacks share for as long as the worker lives."""
    return Hostile(product, runtimes.find_modes(product.guest.profile.traits))


@pytest.fixture
def hostile(attacks: Hostile, subject: Subject) -> Hostile:
    """Return the installed product, to be attacked, with nothing recorded yet."""
    assert attacks.subject is subject
    return attacks
