"""Attack 45: `bind` gives a port away. Which, where, to whom, as whose, and what the caller could make of it.

The ports are free ones below 1024 that a policy of the test's own lists, so nothing of the machine's is disturbed.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.shim.cases import forced
from tests.shim.cases.policy import with_policy
from tests.shim.harness import Call, Caller, Mode, Result, Run
from tests.shim.kernel import CLONE_NEWNET, CLONE_NEWUTS, unshare

# `bind` knows no mode.
ONCE: tuple[Mode, ...] = ("direct",)
LOOPBACK = "127.0.0.1"
# "All addresses", and its form for both families at once, are what a thief would hide behind.
EVERYWHERE, BOTH = "0.0.0.0", "::"  # noqa: S104


def free_port() -> int:
    """Return a port below 1024 on which nothing listens."""
    for port in range(601, 1024):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((EVERYWHERE, port))
            return port
    raise AssertionError("every port below 1024 is in use")


@contextlib.contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Make what is made meanwhile the caller's."""
    os.setegid(caller.gid)
    os.seteuid(caller.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def pair_of(caller: Caller, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """Return a socket pair that the caller made."""
    with acting_as(caller):
        return socket.socketpair(socket.AF_UNIX, kind)


def ports(port: int, *more: str) -> str:
    """Return the lines of a policy that lists this port."""
    return "\n".join((f"bind-ports = {port}", *more, ""))


def ask(
    run: Run,
    port: int,
    *options: str,
    lines: str | None = None,
    pair: tuple[socket.socket, socket.socket] | None = None,
    call: Call | None = None,
) -> tuple[Result, list[int]]:
    """Call `bind` under a policy that lists the port; return the result and the descriptors that came."""
    ours, theirs = pair or pair_of(run.caller)
    base = call or with_policy(run, ports(port) if lines is None else lines)
    with ours, theirs:
        arguments = ["bind", "--port", str(port), *options]
        result = run.shim.call(arguments, run.caller, replace(base, stdin=theirs.fileno()))
        ours.settimeout(0)
        received: list[int] = []
        with contextlib.suppress(BlockingIOError):
            _, received, _, _ = socket.recv_fds(ours, 4096, 8)
    return result, received


@contextlib.contextmanager
def bound(run: Run, port: int, *options: str, lines: str | None = None) -> Iterator[socket.socket]:
    """Ask for a socket, which must come, alone."""
    result, received = ask(run, port, *options, lines=lines)
    sockets = [socket.socket(fileno=descriptor) for descriptor in received]
    try:
        assert (result.status, len(sockets)) == (0, 1), result
        yield sockets[0]
    finally:
        for each in sockets:
            each.close()


def refused(outcome: tuple[Result, list[int]], code: str, verb: str = "refused") -> None:
    """Assert one line with `code`, and that nothing was sent."""
    result, received = outcome
    for descriptor in received:
        os.close(descriptor)
    assert (result.status, result.code, received) == (125, code, []), result
    assert result.stderr.startswith(f"locald-shim: {verb} [".encode()), result
    assert result.stderr.count(b"\n") == 1, result


def answers(server: socket.socket) -> None:
    """Assert that the socket takes a connection and that bytes pass."""
    with socket.create_connection(server.getsockname()[:2], timeout=5) as client:
        client.sendall(b"ping")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(16) == b"ping"


def has(address: str) -> bool:
    """Say whether this host has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def a_listed_port_is_given(run: Run) -> None:
    """A listening TCP socket on just that address: it serves, and it is the one thing that came."""
    port = free_port()
    with bound(run, port) as server:
        assert server.getsockname() == (LOOPBACK, port)
        assert (server.family, server.type, server.proto) == (
            socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
        )
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        answers(server)
    # At once again, while the connection lingers.
    with bound(run, port) as server:
        answers(server)


@forced("45-port", modes=ONCE, twin=a_listed_port_is_given)
def other_ports_are_refused(run: Run) -> None:
    """Neither a neighbour of a listed port, nor one that is usual where the policy lists another, nor any."""
    port = free_port()
    for wanted in (22, port + 1, 65535):
        refused(ask(run, wanted, lines=ports(port)), "bind.port")
    refused(ask(run, port, lines="bind-ports = none\n"), "bind.port")
    result, received = ask(run, 0, lines=ports(port))
    assert (result.status, result.code, received) == (2, "usage", []), result


def listed_addresses_are_given(run: Run) -> None:
    """Another loopback address, and IPv6, which takes no IPv4 connection."""
    port = free_port()
    lines = ports(port, "bind-addresses = 127.0.0.2 ::1")
    with bound(run, port, "--address", "127.0.0.2", lines=lines) as server:
        assert server.getsockname() == ("127.0.0.2", port)
        answers(server)
    if has("::1"):
        with bound(run, port, "--address", "::1", lines=lines) as server:
            assert server.getsockname()[:2] == ("::1", port)
            assert server.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            answers(server)
    else:
        refused(ask(run, port, "--address", "::1", lines=lines), "bind.unavailable", "failed")
    refused(
        ask(run, port, "--address", "192.0.2.1", lines=ports(port, "bind-addresses = 192.0.2.1")),
        "bind.unavailable",
        "failed",
    )


@forced("45-address", modes=ONCE, twin=listed_addresses_are_given)
def other_addresses_are_refused(run: Run) -> None:
    """Not the whole network, not another loopback address: they could stand before somebody else's."""
    port = free_port()
    for address in (EVERYWHERE, BOTH, "127.0.0.2", "127.0.0.53", "192.0.2.1"):
        refused(ask(run, port, "--address", address), "bind.address")
    for malformed in ("localhost", "127.1", "0177.0.0.1", "::1%lo", "::ffff:127.0.0.1", "[::1]", ""):
        result, received = ask(run, port, "--address", malformed)
        assert (result.status, result.code, received) == (2, "usage", []), result


@contextlib.contextmanager
def unsuitable_stdins(run: Run) -> Iterator[list[int]]:
    """Give descriptors of the caller's over which nothing may be sent."""
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        path = run.workshop.directory(run.caller) / "listener"
        with acting_as(run.caller):
            # A pair that keeps no order of connections, but has a peer: first, for the kernel would send over it.
            sockets += socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            sockets += [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            server = socket.create_server((LOOPBACK, 0))
            sockets += [listener, server, socket.create_connection(server.getsockname())]
        listener.listen()
        for each in sockets:
            stack.enter_context(each)
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (reader, writer, null):
            stack.callback(os.close, descriptor)
        yield [*(each.fileno() for each in sockets), reader, writer, null]


def both_kinds_of_pairs_serve(run: Run) -> None:
    """A pair of streams is the other cases'; packets in sequence do too, and a connection by name."""
    port = free_port()
    pairs = [pair_of(run.caller, socket.SOCK_SEQPACKET)]
    path = str(run.workshop.directory(run.caller) / "socket")
    with acting_as(run.caller), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        pairs.append((listener.accept()[0], client))
    for pair in pairs:
        result, received = ask(run, port, pair=pair)
        for descriptor in received:
            os.close(descriptor)
        assert (result.status, len(received)) == (0, 1), result


@forced("45-stdin", modes=ONCE, twin=both_kinds_of_pairs_serve)
def other_streams_are_refused(run: Run) -> None:
    """No datagrams, no network, nothing that listens or is not connected, no file: nothing is bound for them."""
    port = free_port()
    with unsuitable_stdins(run) as descriptors:
        for descriptor in descriptors:
            call = replace(with_policy(run, ports(port)), stdin=descriptor)
            result = run.shim.call(["bind", "--port", str(port)], run.caller, call)
            refused((result, []), "bind.stdin")


@forced(
    "45-stdin", modes=ONCE, label="gone", unbreakable="the kernel's answer to a reader that is gone or full"
)
def a_receiver_that_takes_nothing_is_told(run: Run) -> None:
    """A reader that is gone ends the call with a line, no signal; one that is full does not hold it."""
    port = free_port()
    ours, theirs = pair_of(run.caller)
    ours.close()
    with theirs:
        call = replace(with_policy(run, ports(port)), stdin=theirs.fileno())
        refused((run.shim.call(["bind", "--port", str(port)], run.caller, call), []), "bind.stdin", "failed")
    ours, theirs = pair_of(run.caller)
    with ours, theirs:
        theirs.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(b"x" * 4096)
        theirs.settimeout(None)
        call = replace(with_policy(run, ports(port)), stdin=theirs.fileno(), limit_s=5)
        refused((run.shim.call(["bind", "--port", str(port)], run.caller, call), []), "bind.stdin", "failed")


@forced("45-peer", modes=ONCE, twin=both_kinds_of_pairs_serve)
def nothing_is_sent_to_another_user(run: Run) -> None:
    """Not to root, whose pair it is, and not to a server of somebody else's to which the caller has connected."""
    port = free_port()
    refused(ask(run, port, pair=socket.socketpair(socket.AF_UNIX)), "bind.stdin")
    path = run.workshop.root / f"service-{run.caller.uid}-{port}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        with acting_as(run.caller):
            client.connect(str(path))
        refused(ask(run, port, pair=(listener.accept()[0], client)), "bind.stdin")
    path.unlink()


def other_namespaces_are_no_matter(run: Run) -> None:
    """Mounts and a host name of its own: the network is the host's."""
    port = free_port()
    base = with_policy(run, ports(port))

    def prepare() -> None:
        unshare(CLONE_NEWUTS)
        assert base.prepare is not None
        base.prepare()

    result, received = ask(run, port, call=replace(base, prepare=prepare))
    for descriptor in received:
        os.close(descriptor)
    assert (result.status, len(received)) == (0, 1), result


@forced("45-network", modes=ONCE, twin=other_namespaces_are_no_matter)
def another_network_is_refused(run: Run) -> None:
    """The policy's ports are the host's: in a network that somebody put the caller into they mean nothing."""
    port = free_port()
    base = with_policy(run, ports(port))

    def prepare() -> None:
        unshare(CLONE_NEWNET)
        assert base.prepare is not None
        base.prepare()

    refused(ask(run, port, call=replace(base, prepare=prepare)), "bind.network")


def fault_of(step: Callable[[], object]) -> int:
    """Return the error number with which `step` fails; 0 if it succeeds."""
    try:
        step()
    except OSError as error:
        return error.errno or -1
    return 0


def cannot_bind(port: int, address: str = EVERYWHERE, *options: int) -> None:
    """Assert that a socket of root's is told EADDRINUSE, at bind or at listen."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as thief:
        for option in options:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
        fault = fault_of(lambda: thief.bind((address, port))) or fault_of(thief.listen)
        assert fault == errno.EADDRINUSE, f"{address}:{port}"


@forced("45-owner", modes=ONCE, twin=a_listed_port_is_given)
def the_socket_is_the_callers(run: Run) -> None:
    """His in every table, and so no partner of root's for a shared port, whatever he sets on it afterwards."""
    port = free_port()
    with bound(run, port) as server:
        assert os.fstat(server.fileno()).st_uid == run.caller.uid
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        cannot_bind(port, LOOPBACK, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        cannot_bind(port, EVERYWHERE, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        table = Path("/proc/net/tcp").read_text().splitlines()
        (owner,) = [line.split()[7] for line in table if line.split()[1] == f"0100007F:{port:04X}"]
        assert int(owner) == run.caller.uid


def lingering_connections_do_not_matter(run: Run) -> None:
    """A port of root's whose server has ended, with a connection in TIME_WAIT, can be bound at once."""
    port = free_port()
    server = socket.create_server((EVERYWHERE, port))
    client = socket.create_connection((LOOPBACK, port))
    connection, _ = server.accept()
    # The server's end closes first: it is the one that lingers.
    for each in (connection, client, server):
        each.close()
    assert f":{port:04X} " in Path("/proc/net/tcp").read_text()
    with bound(run, port) as server:
        answers(server)


@forced("45-share", modes=ONCE, twin=lingering_connections_do_not_matter)
def the_port_is_not_shared(run: Run) -> None:
    """A server of the caller's own that would share its port is not joined."""
    port = free_port()
    with listening(run.caller, LOOPBACK, port, (socket.SO_REUSEPORT,)):
        refused(ask(run, port), "bind.in-use", "failed")


KERNELS = "the kernel's rule, which holds as long as the two above do"


@forced("45-share", modes=ONCE, label="in-use", unbreakable=KERNELS)
def a_port_in_use_is_not_taken(run: Run) -> None:
    """A server of root's or of another user's keeps its port, on all addresses or one, whatever options it has."""
    for owner in (None, Caller("nobody", 65534, 65534)):
        for address in filter(has, (EVERYWHERE, BOTH, LOOPBACK)):
            for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
                port = free_port()
                with listening(owner, address, port, options) as victim:
                    refused(ask(run, port), "bind.in-use", "failed")
                    everything = ports(port, f"bind-addresses = {EVERYWHERE} {LOOPBACK}")
                    refused(
                        ask(run, port, "--address", EVERYWHERE, lines=everything), "bind.in-use", "failed"
                    )
                    with socket.create_connection((LOOPBACK, port), timeout=5):
                        victim.settimeout(5)
                        victim.accept()[0].close()


@forced("45-share", modes=ONCE, label="taken-back", unbreakable=KERNELS)
def a_socket_that_was_let_go_takes_nothing_back(run: Run) -> None:
    """The caller lets go of listening, another server starts on all addresses, and he cannot listen again."""
    port = free_port()
    with bound(run, port) as server:
        # connect(AF_UNSPEC): it is bound still, and does not listen.
        disconnect(server)
        with listening(None, EVERYWHERE, port, (socket.SO_REUSEADDR,)):
            assert fault_of(server.listen) == errno.EADDRINUSE
        # Nor can it be bound elsewhere.
        assert fault_of(lambda: server.bind((EVERYWHERE, port))) == errno.EINVAL


def disconnect(server: socket.socket) -> None:
    """Dissolve what the socket does; Python's connect() knows no address of family AF_UNSPEC."""
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(server.fileno(), bytes(16), 16) == 0, ctypes.get_errno()


@contextlib.contextmanager
def listening(
    owner: Caller | None, address: str, port: int, options: Sequence[int]
) -> Iterator[socket.socket]:
    """Give a server: root's, or made as `owner` and bound by root."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with acting_as(owner) if owner else contextlib.nullcontext():
        server = socket.socket(family)
    with server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in options:
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind((address, port))
        server.listen()
        yield server


@forced("45-capability", modes=ONCE)
def one_capability_for_one_call(run: Run) -> None:
    """In the trace: ids for good, then the capability alone, bind, none; socket, listen and sendmsg without."""
    port = free_port()
    log = run.workshop.directory(run.caller) / "trace"
    calls = "setresuid,capset,socket,bind,listen,sendmsg,setsockopt,execve"
    wrapper = ("/usr/bin/strace", "-qq", "-u", run.caller.name, "-e", f"trace={calls}", "-o", str(log))
    call = replace(with_policy(run, ports(port)), wrapper=wrapper)
    result, received = ask(run, port, call=call)
    for descriptor in received:
        os.close(descriptor)
    assert (result.status, len(received)) == (0, 1), result
    steps = [line for line in log.read_text().splitlines() if not line.startswith("+++")]
    assert len([line for line in steps if line.startswith("execve(")]) == 1, steps
    uid = run.caller.uid
    one = "1<<CAP_NET_BIND_SERVICE"
    wanted: list[Callable[[str], bool]] = [
        lambda line: line == f"setresuid({uid}, {uid}, {uid}) = 0",
        lambda line: line.startswith("capset(") and f"effective=0, permitted={one}, inheritable=0" in line,
        lambda line: line.startswith("socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_TCP)"),
        lambda line: line.startswith("setsockopt(") and "SO_REUSEADDR, [1]" in line,
        lambda line: (
            line.startswith("capset(") and f"effective={one}, permitted={one}, inheritable=0" in line
        ),
        lambda line: line.startswith("bind(") and line.endswith(" = 0"),
        lambda line: line.startswith("capset(") and "effective=0, permitted=0, inheritable=0" in line,
        lambda line: line.startswith("listen("),
        lambda line: line.startswith("sendmsg(0, ") and "SCM_RIGHTS" in line,
    ]
    last = [" ".join(line.split()) for line in steps][-len(wanted) :]
    for holds, line in zip(wanted, last, strict=True):
        assert holds(line), (line, last)
