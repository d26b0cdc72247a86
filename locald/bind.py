"""Ask the shim for a listening socket on a port that only root could bind, and see that it serves.

Imports shim and process. What comes over the socket pair is looked at before it is used: this program trusts the
shim's file, not whatever answers in its place.
"""

import ipaddress
import json
import socket
from contextlib import ExitStack

from locald import shim
from locald.deadline import Deadline
from locald.errors.admin import BindUnserved
from locald.process import Output, capture

ANSWER_LIMIT_S = 20
CONNECT_LIMIT_S = 5.0
MAX_LINE_BYTES = 4096
# More than one would be a fault; the kernel gives at most 253.
MAX_DESCRIPTORS = 8
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
REPLY = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"


def ask_for_socket(installation: shim.Installation, port: int, address: str) -> "socket.socket | Output":
    """Return the listening socket, or what the shim said where it gave none.

    Raises:
        ShimError: The shim's file is not in order (`shim.*`).
        BindUnserved: It sent something else (`bind.unserved`).
    """
    path = shim.find_shim(installation)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            argv = shim.bind_argv(path, port, address)
            deadline = Deadline.after(seconds=ANSWER_LIMIT_S)
            output = capture(argv, deadline=deadline, stdin=theirs.fileno())
        if output.status != 0:
            return output
        line, descriptors, _, _ = socket.recv_fds(ours, MAX_LINE_BYTES, MAX_DESCRIPTORS)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(fileno=number)) for number in descriptors]
        fault = _judge(line, sockets, port, address)
        if fault:
            raise BindUnserved(f"{address} port {port}", fault)
        stack.pop_all()
    return sockets[0]


def try_port(installation: shim.Installation, port: int, address: str) -> "str | Output":
    """Bind, serve one request that this program makes itself, and say so; else what the shim said.

    Raises:
        ShimError, BindUnserved: See `ask_for_socket`; or the request did not get through (`bind.unserved`).
    """
    answer = ask_for_socket(installation, port, address)
    if isinstance(answer, Output):
        return answer
    with answer as server:
        # Whoever asks for all addresses is reached on loopback too.
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
        try:
            _serve_once(server, (target, port))
        except OSError as error:
            raise BindUnserved(f"{address} port {port}", error.strerror or str(error)) from error
    return f"{address} port {port} works: it was bound for you, and served a request."


def _serve_once(server: socket.socket, place: "tuple[str, int]") -> None:
    server.settimeout(CONNECT_LIMIT_S)
    # The kernel takes the connection into the queue, so one thread can be both sides.
    with socket.create_connection(place, timeout=CONNECT_LIMIT_S) as client:
        client.sendall(REQUEST)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(CONNECT_LIMIT_S)
            if connection.recv(len(REQUEST), socket.MSG_WAITALL) != REQUEST:
                raise OSError(0, "the request came in pieces")
            connection.sendall(REPLY)
        if client.recv(len(REPLY), socket.MSG_WAITALL) != REPLY:
            raise OSError(0, "the reply did not come back")


def _judge(line: bytes, sockets: "list[socket.socket]", port: int, address: str) -> str:
    """Return what is wrong with what was sent; empty if it is one listening TCP socket at the right place."""
    try:
        told = json.loads(line)
    except ValueError:
        return "the shim's line is no JSON"
    if told != {"event": "bound", "address": str(ipaddress.ip_address(address)), "port": port}:
        return f"the shim speaks of something else ({line!r})"
    if len(sockets) != 1:
        return f"the shim sent {len(sockets)} descriptors"
    server = sockets[0]
    kind = (server.type, server.proto, server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if kind != (socket.SOCK_STREAM, socket.IPPROTO_TCP, 1):
        return "the shim sent something else than a listening TCP socket"
    name = server.getsockname()
    if (ipaddress.ip_address(name[0]), name[1]) != (ipaddress.ip_address(address), port):
        return f"the shim sent a socket at {name[0]} port {name[1]}"
    return ""
