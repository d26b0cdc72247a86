"""What does not answer ends the call within its limit: exit status 125, one line, a code (attack 50).

The file system that does not answer is FUSE whose server has never said a word: a call that waits for it takes no
signal but one that kills, so nothing short of that shows whether a limit is one.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.shim.harness import Bundle, Call, Caller, Result, Run, Running, Shim, end
from tests.shim.kernel import mount, private_mounts

# Those of caller.rs, supervise.rs and cleanup.rs in a build with breakable rules, and what a busy machine needs.
OPENING_S, SETUP_S, SILENCE_S = 3.0, 6.0, 3.0
SLACK_S = 8.0
# And that of the program that users get.
RELEASE_OPENING_S = 30.0
# A child may have ended before it is seen, most of them on a fast machine.
TRIES = 400
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


def call_and_stop(shim: Shim, arguments: Sequence[str], caller: Caller, number: int = 1) -> Result:
    """Call the shim and stop its child with that number as soon as it is seen, which it may never be."""
    process = shim.start(arguments, caller, Call())
    seen: set[int] = set()
    while len(seen) < number and process.poll() is None:
        for pid in Running(process).descendants():
            seen.add(pid)
            if len(seen) == number:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
    try:
        out, err = process.communicate(timeout=SETUP_S + SLACK_S)
    finally:
        end(process, sorted(seen))
    return Result(process.returncode, out, err)


def test_set_up_is_bounded(run: Run, mutant: Shim) -> None:
    """A child that does not come to its payload is ended, and so is the call."""
    bundle = run.bundle()
    bundle.write()
    tries = (call_and_stop(mutant, mutant.arguments(bundle, Call()), run.caller) for _ in range(TRIES))
    result = next(result for result in tries if result.status != 0)
    assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "setup.timeout", 1), result


def clean(bundle: Bundle) -> list[str]:
    """Return the command line that empties the root file system of `bundle`."""
    return ["cleanup", "--bundle", str(bundle.path)]


def test_cleaning_up_is_bounded(run: Run, mutant: Shim) -> None:
    """A removal that does not go on is ended, and so is the call; the next one finds what is left."""
    bundles = (run.bundle() for _ in range(TRIES))
    # The first child tries whether there may be user namespaces.
    calls = ((each, call_and_stop(mutant, clean(each), run.caller, 2)) for each in bundles)
    bundle, result = next((each, result) for each, result in calls if result.status != 0)
    assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "cleanup.failed", 1), result
    assert mutant.call(clean(bundle), run.caller).status == 0
    assert list(bundle.rootfs.iterdir()) == []


def test_opening_a_bundle_to_clean_up_is_bounded(run: Run, mutant: Shim, silent_server: int) -> None:
    """The bundle's own directory does not answer."""
    bundle = run.bundle()
    result = mutant.call(clean(bundle), run.caller, silent_bundle(bundle, silent_server))
    assert (result.status, result.code, result.stderr.count(b"\n")) == (125, "setup.timeout", 1), result
