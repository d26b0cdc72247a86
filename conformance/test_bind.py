"""BIND: a port below 1024 is given to those whom the policy lets in, and never taken from anybody."""

import json
from typing import Any, Final

import pytest

from conformance.subject import PYTHON, STRANGER, Job, Result, Subject
from conformance.test_setuid import POLICY, with_policy

# Every test here binds the same two ports: one after the other.
pytestmark = pytest.mark.alone

LOOPBACK: Final = "127.0.0.1"
LOOPBACK_6: Final = "::1"
# Of the default policy neither, nor reached by another name.
OTHER_LOOPBACK: Final = "127.0.0.2"
AF_INET, AF_INET6 = 2, 10
# Calls the shim with one end of a socket pair as stdin, and tells what came out of the other end.
ASK: Final = """
import json, os, socket, subprocess, sys
shim, port, address, stdin = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]
become = sys.argv[5:]
kind = socket.SOCK_DGRAM if stdin == "datagrams" else socket.SOCK_STREAM
ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
other = {
    "null": lambda: os.open("/dev/null", os.O_RDWR),
    "pipe": lambda: os.pipe()[1],
    "alone": lambda: socket.socket(socket.AF_UNIX).detach(),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
}
number = other[stdin]() if stdin in other else theirs.fileno()
argv = [*become, shim, "bind", "--port", port, "--address", address]
done = subprocess.run(argv, stdin=number, stderr=subprocess.PIPE, timeout=20)
theirs.close()
ours.settimeout(2)
try:
    line, numbers, _, _ = socket.recv_fds(ours, 4096, 8)
except TimeoutError:  # datagrams have no end
    line, numbers = b"", []
told = {"line": line.decode(), "count": len(numbers)}
if stdin == "visit":  # whose the port is now
    with socket.create_connection((address, int(port)), 5) as client:
        told["answered"] = client.recv(16).decode()
for number in numbers[:1]:
    server = socket.socket(fileno=number)
    told["listens"] = server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    told["kind"] = [server.family, server.type, server.proto]
    told["name"] = list(server.getsockname()[:2])
    told["owner"] = os.fstat(number).st_uid
    told["shared"] = server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    with socket.create_connection((address, int(port)), 5) as client:
        client.sendall(b"ping")
        told["served"] = server.accept()[0].recv(16).decode()
print(json.dumps(told))
sys.stderr.write(done.stderr.decode())
sys.exit(done.returncode)
"""
# A server of root's that tells everybody whose it is, until it is killed; a socket of root's could share its port.
SERVE: Final = """
import os, socket
server = socket.create_server(('{address}', {port}), reuse_port=True)
pid = os.fork()
if pid:
    open('{pid}', 'w').write(str(pid))
    os._exit(0)
while True:
    server.accept()[0].sendall(b'root')
"""


def ask(subject: Subject, port: int = 80, address: str = LOOPBACK, stdin: str = "pair", **more: Any) -> Job:
    """Return the job of a user who asks for a port."""
    words = [PYTHON, "-I", "-c", ASK, subject.runtime.program, str(port), address, stdin]
    return {"argv": words, "user": "plain", "env": subject.host_env("plain"), **more}


def assert_given(subject: Subject, result: Result, port: int, address: str) -> None:
    """Judge that one socket came that listens there and nowhere else, and through which a request gets."""
    if address == LOOPBACK_6 and not has_ipv6(subject):
        assert (result.outcome, result.answer["count"]) == ((125, "bind.unavailable"), 0), result
        return
    assert result.exit_code == 0, result
    wanted = {"count": 1, "listens": 1, "name": [address, port], "served": "ping"}
    assert {name: result.answer.get(name) for name in wanted} == wanted, result


def has_ipv6(subject: Subject) -> bool:
    """Say whether the host has ::1: `local` and a box that others made may not, of which no profile says anything."""
    return f"{1:032x} " in subject.root("cat /proc/net/if_inet6 || true").stdout


def refuses(result: Result, code: str) -> bool:
    """Say whether nothing was given, for that reason."""
    return (result.outcome, result.answer["count"]) == ((125, code), 0)


@pytest.mark.clause("BIND-001")
def test_a_listed_port_is_given(subject: Subject) -> None:
    """For both ports and both addresses that a policy lists without a word: one socket there, the caller's own."""
    asked = ((80, LOOPBACK), (443, LOOPBACK), (80, LOOPBACK_6))
    results = subject.call(*(ask(subject, port, address) for port, address in asked))
    for (port, address), result in zip(asked, results, strict=True):
        assert_given(subject, result, port, address)
        if result.answer["count"]:
            bound = {"event": "bound", "address": address, "port": port}
            assert json.loads(result.answer["line"]) == bound, result
            kind = [AF_INET6 if address == LOOPBACK_6 else AF_INET, 1, 6]  # SOCK_STREAM, IPPROTO_TCP
            of_socket = [result.answer[name] for name in ("kind", "owner", "shared")]
            assert of_socket == [kind, subject.caller().uid, 0], result


@pytest.mark.clause("BIND-002")
def test_nothing_else_is_given(subject: Subject) -> None:
    """Neighbours of a listed port, other services' ports, all addresses and other ones of loopback."""
    ports = (22, 79, 81, 1023, 8080)
    addresses = ("0.0.0.0", OTHER_LOOPBACK, "::")  # noqa: S104  # asked for, and refused
    results = subject.call(
        *(ask(subject, port) for port in ports), *(ask(subject, 80, address) for address in addresses)
    )

    for result in results[: len(ports)]:
        assert refuses(result, "bind.port"), result
    for result in results[len(ports) :]:
        assert refuses(result, "bind.address"), result


@pytest.mark.clause("BIND-008")
def test_a_stranger_gets_nothing(subject: Subject) -> None:
    """The very port that a named user has, asked for by somebody whom the policy does not name."""
    stranger, named = subject.call(
        ask(subject) | {"user": STRANGER, "env": subject.host_env(STRANGER)}, ask(subject)
    )

    assert refuses(stranger, "shim.policy"), stranger
    assert_given(subject, named, 80, LOOPBACK)


@pytest.mark.clause("BIND-009")
def test_the_policys_lists_take_the_place_of_the_usual(subject: Subject) -> None:
    """What root lists is given, what he does not list is not, the usual ports and address included; `none` is none."""
    line = f"version = 1\\nallow-user = {subject.caller().uid}\\n"
    lists = (
        f"bind-ports = 88 8443\\nbind-addresses = {LOOPBACK_6} {OTHER_LOOPBACK}\\n",
        "bind-ports = none\\n",
        "bind-addresses = none\\n",
    )
    changed, no_ports, no_addresses = (with_policy(f"printf '{line}{text}' > {POLICY}") for text in lists)
    given = ((88, OTHER_LOOPBACK), (8443, LOOPBACK_6), (88, LOOPBACK_6))
    refused = (
        ("bind.port", changed, 80, OTHER_LOOPBACK),
        ("bind.port", changed, 443, LOOPBACK_6),
        ("bind.address", changed, 88, LOOPBACK),
        ("bind.port", no_ports, 80, LOOPBACK),
        ("bind.address", no_addresses, 80, LOOPBACK),
    )
    results = subject.call(
        *(ask(subject, port, address, before=changed[0], after=changed[1]) for port, address in given),
        *(
            ask(subject, port, address, before=before, after=after)
            for _, (before, after), port, address in refused
        ),
    )

    for (port, address), result in zip(given, results, strict=False):
        assert_given(subject, result, port, address)
    for (code, *_), result in zip(refused, results[len(given) :], strict=True):
        assert refuses(result, code), result


@pytest.mark.clause("BIND-003")
def test_only_the_callers_own_local_socket_will_do(subject: Subject) -> None:
    """No file, pipe, datagrams, network socket, nor one that is not connected, nor a pair that root made."""
    others = ("datagrams", "null", "pipe", "alone", "udp")
    results = subject.call(*(ask(subject, stdin=kind) for kind in others), roots_pair(subject))

    for result in results:
        assert refuses(result, "bind.stdin"), result


def roots_pair(subject: Subject) -> Job:
    """Return a job in which root makes the pair and the caller calls."""
    job = ask(subject)
    caller = subject.caller()
    become = ["setpriv", f"--reuid={caller.uid}", f"--regid={caller.gid}", "--init-groups"]
    return job | {"argv": [*job["argv"], *become], "user": "root"}


@pytest.mark.clause("BIND-004")
def test_a_port_in_use_is_not_taken(subject: Subject) -> None:
    """Root's server on that address or on all keeps port 80 and its visitors; once it has ended the port can be had."""
    pid = "/run/locald-kit.pid"
    jobs = []
    for address in (LOOPBACK, "0.0.0.0"):  # noqa: S104  # as many servers do
        serve = SERVE.format(address=address, port=80, pid=pid)
        # Without the job's name in its environment, by which the agent finds and ends what a job left behind.
        before = f'env -i {PYTHON} -I -c "{serve}" >/dev/null 2>&1 </dev/null'
        jobs.append(ask(subject, stdin="visit", before=before, after=f"kill $(cat {pid}); rm {pid}"))
    *taken, free = subject.call(*jobs, ask(subject))

    for result in taken:
        assert refuses(result, "bind.in-use"), result
        assert result.answer["answered"] == "root", result
    assert_given(subject, free, 80, LOOPBACK)


@pytest.mark.clause("BIND-005")
def test_one_capability_for_one_call(subject: Subject) -> None:
    """In the trace: the caller's ids for good, the capability, bind, none; only the shim was executed."""
    result = subject.call(ask(subject, trace=True))[0]

    assert result.exit_code == 0, result
    programs = [program for _, program in result.executed]
    assert programs == [PYTHON, subject.runtime.program], result.executed
    uid = subject.caller().uid
    lines = [" ".join(line.split()) for line in result.data["trace"]]
    calls = [index for index, line in enumerate(lines) if " bind(" in line]
    assert len(calls) == 1, lines
    bound = calls[0]
    before, after = lines[:bound], lines[bound + 1 :]
    one = "1<<CAP_NET_BIND_SERVICE"
    assert f"effective={one}, permitted={one}, inheritable=0" in before[-1], before[-1]
    assert "effective=0, permitted=0, inheritable=0" in after[0], after[0]
    ids = [line for line in before if " setresuid(" in line]
    assert f"setresuid({uid}, {uid}, {uid})" in ids[-1], ids
    # Nothing is raised again.
    assert not [line for line in after if " capset(" in line and "CAP_" in line], after
    assert not [line for line in after if " setresuid(" in line and f"({uid}, {uid}, {uid})" not in line], (
        after
    )


@pytest.mark.clause("BIND-006")
def test_another_network_is_refused(subject: Subject) -> None:
    """A caller whom root put into a new network namespace has no ports of the host's there, nor any."""
    job = ask(subject)
    caller = subject.caller()
    become = ["setpriv", f"--reuid={caller.uid}", f"--regid={caller.gid}", "--init-groups"]
    inside = job | {"argv": ["/usr/bin/unshare", "--net", *become, *job["argv"]], "user": "root"}
    (result,) = subject.call(inside)

    assert result.outcome == (125, "bind.network"), result
    assert result.answer["count"] == 0, result


@pytest.mark.clause("BIND-007")
def test_bind_test_shows_it(subject: Subject) -> None:
    """It works for a listed port; for another, one line with the code and the mend."""
    works, refused = subject.call(
        subject.locald("admin", "bind-test"), subject.locald("admin", "bind-test", "--port", "22")
    )

    assert (works.exit_code, works.stderr) == (0, ""), works
    assert "127.0.0.1 port 80 works" in works.stdout
    assert refused.outcome == (125, "bind.port"), refused
    assert refused.stderr.count("\n") == 1
    assert "hint: " in refused.stderr
