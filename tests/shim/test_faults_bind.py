"""Each system call of `bind` fails in turn, and it is killed before each: the caller has his socket, or nothing.

What comes is looked at where it arrives: one listening socket on the port that was asked for, the caller's own. A fault
ends in that, or in a refusal with one line and nothing sent; the port is free again either way.
"""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.shim import figures
from tests.shim.cases.bind import LOOPBACK, free_port
from tests.shim.faults import NEVER_RETURNS, is_harmless_to_bind
from tests.shim.harness import POLICY, Caller
from tests.shim.oracle import Host
from tests.shim.test_faults import FAULT_LIMIT_MS, SHOWN, faults, processes_in
from tests.shim.tracer import SHIM, Action, Fail, Kill, Outcome, Surroundings, Tracer

RECEIVER = Surroundings(receives=True)


@contextlib.contextmanager
def listed_port() -> Iterator[int]:
    """Give a free port that the policy of these tests lists meanwhile."""
    before = POLICY.read_text()
    port = free_port()
    POLICY.write_text(f"{before}bind-ports = {port}\n")
    try:
        yield port
    finally:
        POLICY.write_text(before)


def judge(action: Action, outcome: Outcome, clean: Outcome) -> str:
    """Return what is wrong with how a call ended; nothing if nothing is."""
    if outcome.hangs or outcome.left:
        return f"hangs: {outcome.hangs}, processes left: {outcome.left}"
    if outcome.received not in ("", clean.received):
        return f"received {outcome.received!r}"
    if isinstance(action, Kill):
        return "" if outcome.status == 128 + 9 else f"status {outcome.status}, {outcome.stderr!r}"
    if outcome.status == 125 and outcome.code is not None:
        return f"refused, but sent {outcome.received!r}" if outcome.received else ""
    (at,) = outcome.boundaries
    if (outcome.status, outcome.stderr, outcome.received) == (0, "", clean.received):
        return "" if is_harmless_to_bind(at) else f"at {at}: bound as ever, which is not on the reviewed list"
    return f"at {at}: status {outcome.status}, {outcome.stderr!r}, received {outcome.received!r}"


def is_free(port: int) -> bool:
    """Say whether the port can be listened on, as by a server of root's without any option."""
    with socket.socket() as server:
        try:
            server.bind((LOOPBACK, port))
            server.listen()
        except OSError:
            return False
    return True


@pytest.mark.parametrize("user", ["locald-a", "locald-b"])
def test_a_fault_during_bind_gives_nobody_more(
    user: str, tracer: Tracer, callers: dict[str, Caller], host: Host, *, hostile: bool
) -> None:
    """No call of `bind` can fail so that another socket comes, somebody else's, or a port stays taken."""
    caller = callers[user]
    with listed_port() as port:
        arguments = ["bind", "--port", str(port)]
        clean = tracer.run(caller, arguments, record=True, around=RECEIVER)
        assert (clean.status, clean.stderr, clean.left) == (0, "", 0), clean
        # A socket, his, where he asked for it, listening; and one line about it.
        first = f"mode 140000 of uid {caller.uid}, {LOOPBACK} port {port}, listening 1\n"
        assert clean.received.startswith(first), clean.received
        assert clean.received.count("mode ") == 1
        boundaries = [boundary for boundary in clean.boundaries if boundary.call not in NEVER_RETURNS]
        assert {boundary.where for boundary in boundaries} == {SHIM}
        before = host.snapshot()
        found = []
        actions: list[Action] = [*faults(tuple(boundaries), every=hostile)]
        actions += [Kill(boundary, SHIM) for boundary in boundaries]
        for action in actions:
            outcome = tracer.run(caller, arguments, action, limit_ms=FAULT_LIMIT_MS, around=RECEIVER)
            figures.COUNT["faults injected" if isinstance(action, Fail) else "processes killed"] += (
                outcome.hit
            )
            changed = host.differences(before, host.snapshot(processes=False) | processes_in(before))
            wrong = judge(action, outcome, clean) or "; ".join(changed)
            if wrong or not is_free(port):
                found.append(f"{action}: {wrong or 'the port stays taken'}")
        assert not found, f"{len(found)} findings:\n" + "\n".join(found[:SHOWN])
        assert host.differences(before, host.snapshot()) == []
