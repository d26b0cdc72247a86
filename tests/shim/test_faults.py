"""Each system call of a whole run fails in turn, and each process is killed before each: the host stays as it was.

A fault ends in a refusal with one clear line, or the payload runs exactly as it does without: with the same ids,
capabilities, filter, mounts and descriptors, which it tells of itself. faults.py says, reviewed, where the
second is right, and where something else is.
"""

import errno
import random
from collections.abc import Iterator

import pytest

from tests.shim import figures
from tests.shim.faults import NEVER_RETURNS, is_harmless, tolerated
from tests.shim.harness import STATE, Bundle, Caller, Workshop
from tests.shim.oracle import Host, find_foreign
from tests.shim.settings import ALL, FEW, Setting, report_lines
from tests.shim.tracer import CHILD, SHIM, Boundary, Fail, Kill, Outcome, Tracer

ERRORS = (errno.EPERM, errno.ENOMEM, errno.EINTR)
SEED = 20_261_122
FAULT_LIMIT_MS = 5_000
REPORT = ("probe", "report", "/srv/made/mark")
# Long enough to outlive every limit here: what is left of it is a process that nobody ends.
SLEEP = ("sleep", "3600")
# After so many milliseconds a sleeping payload has long begun, and the shim only waits.
SLEEPING_MS = 400
SHOWN = 25


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A few settings in `tests`, every one in `hostile`."""
    settings = ALL if metafunc.config.getoption("--hostile", default=False) else FEW
    metafunc.parametrize("setting", settings, ids=str)


def faults(boundaries: tuple[Boundary, ...], *, every: bool) -> Iterator[Fail]:
    """Give each boundary each error, or one of them in turn from a seeded start."""
    start = random.Random(SEED).randrange(len(ERRORS))  # noqa: S311  # it spreads, it hides nothing
    for number, boundary in enumerate(boundaries):
        if boundary.call in NEVER_RETURNS:
            continue
        errors = ERRORS if every else (ERRORS[(start + number) % len(ERRORS)],)
        yield from (Fail(boundary, error) for error in errors)


def test_a_failed_call_gives_nobody_more(
    setting: Setting,
    tracer: Tracer,
    workshop: Workshop,
    callers: dict[str, Caller],
    host: Host,
    *,
    hostile: bool,
) -> None:
    """No call of the shim can fail so that the payload has more, the host something new, or the caller no answer."""
    caller = callers[setting.user]
    bundle = setting.bundle(workshop, caller, *REPORT)
    tracer.run(caller, setting.arguments(bundle))
    clean = tracer.run(caller, setting.arguments(bundle), record=True)
    assert (clean.status, clean.stderr, clean.left) == (0, "", 0), clean
    expected = list(report_lines(clean.stdout))
    before = host.snapshot()
    found = []
    for fault in faults(clean.boundaries, every=hostile):
        outcome = tracer.run(caller, setting.arguments(bundle), fault, limit_ms=FAULT_LIMIT_MS)
        figures.COUNT["faults injected"] += outcome.hit
        wrong = judge(fault, outcome, expected) or judge_host(host, before, bundle)
        tidy(tracer, caller)
        if wrong:
            found.append(f"{fault.describe()}: {wrong}")
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])
    assert host.differences(before, host.snapshot()) == []


def judge(fault: Fail, outcome: Outcome, expected: list[str]) -> str:
    """Return what is wrong with how a run with this fault ended; nothing if nothing is."""
    if outcome.hangs or outcome.left:
        return f"hangs: {outcome.hangs}, processes left: {outcome.left}"
    reported = list(report_lines(outcome.stdout))
    if outcome.status == 125 and outcome.code is not None:
        # It may have begun, and then told nothing new; its last line may be half a line.
        new = [line for line in reported[:-1] if line not in expected]
        return f"refused, but the payload had begun with {new[:4]}" if new else ""
    (at,) = outcome.boundaries or (fault.at,)
    if (outcome.status, reported, outcome.stderr) == (0, expected, ""):
        # A relay's reads and writes are not the same in every run: this one was not hit, or at its end already.
        fine = not outcome.hit or at.call in NEVER_RETURNS or is_harmless(at)
        return "" if fine else f"at {at}: the payload ran as ever, which is not on the reviewed list"
    difference = differences(expected, reported)
    if tolerated(at, outcome, difference):
        return ""
    return f"at {at}: status {outcome.status}, {outcome.stderr!r}, {difference}"


def differences(expected: list[str], reported: list[str]) -> str:
    """Return what a payload told that it does not tell without the fault, and the other way round."""
    new = [line for line in reported if line not in expected]
    gone = [line for line in expected if line not in reported]
    return f"new {new[:4]}, gone {gone[:4] if reported else 'all'}"


def judge_host(host: Host, before: dict[str, object], bundle: Bundle) -> str:
    """Return what a fault has changed outside; a state entry may stay until the caller's next call."""
    changed = host.differences(before, host.snapshot(processes=False) | processes_in(before))
    foreign = find_foreign([bundle.path], bundle.caller.uid)
    return "; ".join([*changed, *foreign])


def processes_in(snapshot: dict[str, object]) -> dict[str, object]:
    """Return the processes of a snapshot: the tracer has seen every one of this run end."""
    return {name: value for name, value in snapshot.items() if name.startswith("process ")}


def tidy(tracer: Tracer, caller: Caller) -> None:
    """Assert that what this run left in the state directory goes with the caller's next call."""
    directory = STATE / str(caller.uid)
    if directory.exists() and list(directory.iterdir()):
        outcome = tracer.run(caller, ["cleanup"])
        assert (outcome.status, outcome.stderr) == (0, "")
        assert list(directory.iterdir()) == []


def test_a_killed_process_leaves_nothing(
    setting: Setting,
    tracer: Tracer,
    workshop: Workshop,
    callers: dict[str, Caller],
    host: Host,
    *,
    hostile: bool,
) -> None:
    """SIGKILL of the supervisor, or of the child, before each call of either: no process, no mount, no file."""
    caller = callers[setting.user]
    bundle = setting.bundle(workshop, caller, *SLEEP)
    tracer.run(caller, setting.arguments(bundle), limit_ms=SLEEPING_MS)
    boundaries = tracer.run(caller, setting.arguments(bundle), record=True, limit_ms=SLEEPING_MS).boundaries
    before = host.snapshot()
    found = []
    for kill in kills(boundaries, every=hostile):
        # The limit ends a shim that waits for its payload; then it must be gone all the same.
        outcome = tracer.run(caller, setting.arguments(bundle), kill, limit_ms=SLEEPING_MS)
        figures.COUNT["processes killed"] += outcome.hit
        wrong = judge_kill(kill, outcome) or judge_host(host, before, bundle)
        tidy(tracer, caller)
        if wrong:
            found.append(f"{kill.describe()}: {wrong}")
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])
    assert host.differences(before, host.snapshot()) == []


def kills(boundaries: tuple[Boundary, ...], *, every: bool) -> Iterator[Kill]:
    """Give each boundary each process to kill, or one of them in turn; no child before there is one."""
    child = False
    for number, boundary in enumerate(boundaries):
        child |= boundary.where == CHILD
        victims = (SHIM, CHILD) if child else (SHIM,)
        yield from (
            Kill(boundary, victim) for victim in (victims if every else (victims[number % len(victims)],))
        )


def judge_kill(kill: Kill, outcome: Outcome) -> str:
    """Return what is wrong after a kill; nothing if nothing is."""
    if outcome.left:
        return f"{outcome.left} processes are left"
    # Killed, or ended by the limit while its payload slept: there was no child yet, or it was the payload.
    if outcome.status == 128 + 9:
        return ""
    if kill.victim == CHILD and outcome.status == 125 and outcome.code is not None:
        return ""
    return f"status {outcome.status}, {outcome.stderr!r}"
