"""What does not answer ends the call within its limit: exit status 125, one line, a code (attack 50).

The file system that does not answer is FUSE whose server has never said a word: a call that waits for it takes no
signal but one that kills, so nothing short of that shows whether a limit is one.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shim.harness import Bundle, Call, Caller, Run, Shim, Workshop
from tests.shim.kernel import mount, private_mounts
from tests.shim.tracer import CHILD, Boundary, Kill, Outcome, Stop, Tracer

# Those of caller.rs, supervise.rs and cleanup.rs in a build with breakable rules, and what a busy machine needs.
OPENING_S, SETUP_S, SILENCE_S = 3.0, 6.0, 3.0
SLACK_S = 8.0
# And that of the program that users get; that of child.rs, which is the same in every build.
RELEASE_OPENING_S = 30.0
TRIAL_S = 5.0
# The child of `cleanup` that removes; the first one only tries whether there may be user namespaces.
REMOVER = "0.1"
DIRECTORY, FILE = "40000", "100000"


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A FUSE connection to nobody."""
    connection = os.open("/dev/fuse", os.O_RDWR)
    yield connection
    os.close(connection)


def over(target: Path, kind: str, connection: int) -> Call:
    """Return a call for which the silent file system lies over `target`."""

    def prepare() -> None:
        private_mounts()
        data = f"fd={connection},rootmode={kind},user_id=0,group_id=0,allow_other"
        mount("silent", target, "fuse", 0, data)

    return Call(prepare=prepare, limit_s=OPENING_S + SLACK_S)


def silent_bundle(bundle: Bundle, connection: int) -> Call:
    """The bundle's directory."""
    return over(bundle.path, DIRECTORY, connection)


def silent_config(bundle: Bundle, connection: int) -> Call:
    """config.json alone."""
    return over(bundle.path / "config.json", FILE, connection)


def silent_rootfs(bundle: Bundle, connection: int) -> Call:
    """The root file system."""
    return over(bundle.rootfs, DIRECTORY, connection)


def silent_source(bundle: Bundle, connection: int) -> Call:
    """What is to be bound."""
    source = bundle.mkdir("source")
    bundle.bind(source / "below", "/srv")
    return over(source, DIRECTORY, connection)


PLACES = (silent_bundle, silent_config, silent_rootfs, silent_source)


@pytest.mark.parametrize("silent", PLACES)
def test_opening_is_bounded(run: Run, mutant: Shim, silent_server: int, silent: Callable[..., Call]) -> None:
    """Whatever of the caller's does not open: 125 and one line, on the status descriptor too."""
    bundle = run.bundle()
    call = silent(bundle, silent_server)
    bundle.write()
    reader, writer = os.pipe()
    extra = ["--status-fd", str(writer)]
    call = Call(prepare=call.prepare, limit_s=call.limit_s, pass_fds=(writer,), extra=extra)
    result = mutant.call(mutant.arguments(bundle, call), run.caller, call)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = stream.read()
    assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "setup.timeout", 1), result
    assert told.startswith(b'{"event":"refused","code":"setup.timeout"'), told
    assert told.count(b"\n") == 1, told


def test_the_program_that_users_get_is_bounded(
    run: Run, silent_server: int, request: pytest.FixtureRequest
) -> None:
    """With its own limit; one case of the four stands for them, but in `hostile`."""
    if not request.config.getoption("--hostile", default=False) and (
        run.mode != "mapped" or run.caller.name != "locald-a"
    ):
        return
    bundle = run.bundle()
    bundle.write()
    prepare = silent_rootfs(bundle, silent_server).prepare
    call = Call(prepare=prepare, limit_s=RELEASE_OPENING_S + SLACK_S)
    began = time.monotonic()
    result = run.shim.call(run.shim.arguments(bundle, call), run.caller, call)
    assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "setup.timeout", 1), result
    assert time.monotonic() - began >= RELEASE_OPENING_S


def find(tracer: Tracer, caller: Caller, arguments: list[str], where: str, call: str) -> Boundary:
    """Run the shim to learn when that process makes that call first."""
    boundaries = tracer.run(caller, arguments, record=True).boundaries
    return next(each for each in boundaries if (each.where, each.call) == (where, call))


def stop(tracer: Tracer, caller: Caller, arguments: list[str], at: Boundary, limit_s: float) -> Outcome:
    """Run the shim; at that boundary the caller stops the process that comes to it."""
    outcome = tracer.run(caller, arguments, Stop(at), limit_ms=int((limit_s + SLACK_S) * 1000))
    assert (outcome.hit, outcome.hangs, outcome.left) == (True, False, 0), outcome
    return outcome


def test_set_up_is_bounded(run: Run, mutant: Shim, start_tracer: Callable[[Shim], Tracer]) -> None:
    """A child that does not come to its payload is ended, and so is the call."""
    bundle, tracer = run.bundle(), start_tracer(mutant)
    bundle.write()
    at = find(tracer, run.caller, mutant.arguments(bundle, Call()), CHILD, "pivot_root")
    outcome = stop(tracer, run.caller, mutant.arguments(bundle, Call()), at, SETUP_S)
    assert (outcome.status, outcome.code) == (125, "setup.timeout"), outcome


def clean(bundle: Bundle) -> list[str]:
    """Return the command line that empties the root file system of `bundle`."""
    return ["cleanup", "--bundle", str(bundle.path)]


@pytest.fixture
def bundles(workshop: Workshop, caller: Caller) -> tuple[Bundle, Bundle]:
    """Two that are the same: one to learn from, one to see what is left of."""
    return (workshop.bundle("mapped", caller, ["true"]), workshop.bundle("mapped", caller, ["true"]))


def test_cleaning_up_is_bounded(
    bundles: tuple[Bundle, Bundle], caller: Caller, mutant: Shim, start_tracer: Callable[[Shim], Tracer]
) -> None:
    """A removal that does not go on is ended, and so is the call; the next one finds what is left."""
    tracer, (example, bundle) = start_tracer(mutant), bundles
    at = find(tracer, caller, clean(example), REMOVER, "unlinkat")
    outcome = stop(tracer, caller, clean(bundle), at, SILENCE_S)
    assert (outcome.status, outcome.code) == (125, "cleanup.failed"), outcome
    assert os.listdir(bundle.rootfs) != []
    assert mutant.call(clean(bundle), caller).status == 0
    assert os.listdir(bundle.rootfs) == []


def test_trying_a_namespace_is_bounded(
    bundles: tuple[Bundle, Bundle], caller: Caller, tracer: Tracer
) -> None:
    """The child that tries one gives no answer, so nothing is removed; the next call does."""
    example, bundle = bundles
    before = sorted(os.listdir(bundle.rootfs))
    at = find(tracer, caller, clean(example), CHILD, "unshare")
    outcome = stop(tracer, caller, clean(bundle), at, TRIAL_S)
    assert (outcome.status, outcome.code, outcome.stdout) == (125, "setup.timeout", ""), outcome
    assert sorted(os.listdir(bundle.rootfs)) == before
    assert tracer.run(caller, clean(bundle)).status == 0
    assert os.listdir(bundle.rootfs) == []


@pytest.mark.parametrize("command", ["cleanup", "check"])
def test_a_trial_that_is_killed_has_said_nothing(
    bundles: tuple[Bundle, Bundle], caller: Caller, tracer: Tracer, command: str
) -> None:
    """Its caller may send it any signal: that is no refusal of the host's, and nothing is removed without a map."""
    example, bundle = bundles
    before = sorted(os.listdir(bundle.rootfs))
    learn, arguments = (["check"], ["check"]) if command == "check" else (clean(example), clean(bundle))
    outcome = tracer.run(caller, arguments, Kill(find(tracer, caller, learn, CHILD, "unshare"), CHILD))
    assert (outcome.hit, outcome.hangs, outcome.left) == (True, False, 0), outcome
    if command == "check":
        assert json.loads(outcome.stdout)["modes"]["mapped"]["code"] == "setup.killed", outcome
    else:
        assert (outcome.status, outcome.code, outcome.stdout) == (125, "setup.killed", ""), outcome
    assert sorted(os.listdir(bundle.rootfs)) == before


def test_checking_a_host_is_bounded(caller: Caller, tracer: Tracer) -> None:
    """`check` answers as ever, with that code for the mode that it could not try."""
    at = find(tracer, caller, ["check"], CHILD, "unshare")
    outcome = stop(tracer, caller, ["check"], at, TRIAL_S)
    assert (outcome.status, outcome.stderr) == (0, ""), outcome
    modes = json.loads(outcome.stdout)["modes"]
    told = (modes["mapped"]["allowed"], modes["mapped"]["code"], modes["direct"]["allowed"])
    assert told == (False, "setup.timeout", True), modes


def test_opening_a_bundle_to_clean_up_is_bounded(run: Run, mutant: Shim, silent_server: int) -> None:
    """The bundle's own directory does not answer."""
    bundle = run.bundle()
    result = mutant.call(clean(bundle), run.caller, silent_bundle(bundle, silent_server))
    assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "setup.timeout", 1), result
