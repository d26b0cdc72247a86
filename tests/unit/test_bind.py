"""`bind-test`: what comes from the shim is looked at before it is called a listening socket, and it serves."""

import json
import socket
from collections.abc import Callable, Sequence

import pytest

from locald import bind, shim
from locald.cli.admin import bind_test
from locald.deadline import Deadline
from locald.errors import UsageError
from locald.errors.admin import BindUnserved
from locald.process import Output

HERE = shim.Installation("/b/locald", "/b/locald-shim")
LOOPBACK = "127.0.0.1"


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((LOOPBACK, 0)) as server:
        number: int = server.getsockname()[1]
        return number


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the shim answer with a line and sockets, or refuse."""
    monkeypatch.setattr(shim, "find_installation", lambda: HERE)
    monkeypatch.setattr(shim, "find_shim", lambda installation: installation.shim)

    def prepare(*sockets: socket.socket, line: object = None, refusal: str = "") -> None:
        def capture(argv: Sequence[str], *, deadline: Deadline, stdin: int) -> Output:
            assert deadline.left_s() > 0
            number = int(argv[3])
            assert list(argv) == ["/b/locald-shim", "bind", "--port", str(number), "--address", LOOPBACK]
            if refusal:
                return Output(argv, 125, b"", refusal.encode())
            told = line or {"event": "bound", "address": LOOPBACK, "port": number}
            text = told if isinstance(told, bytes) else json.dumps(told).encode()
            with socket.socket(fileno=socket.dup(stdin)) as theirs:
                socket.send_fds(theirs, [text], [each.fileno() for each in sockets])
            for each in sockets:
                each.close()
            return Output(argv, 0, b"", b"")

        monkeypatch.setattr(bind, "capture", capture)

    return prepare


def test_a_listening_socket_serves(answer: Callable[..., None], port: int) -> None:
    """One request goes through, and the words say so."""
    answer(socket.create_server((LOOPBACK, port)))
    said = bind.try_port(HERE, port, LOOPBACK)
    assert said == f"127.0.0.1 port {port} works: it was bound for you, and served a request."


def bound_only(port: int) -> socket.socket:
    """Return a socket that does not listen."""
    made = socket.socket()
    made.bind((LOOPBACK, port))
    return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _port: (), "0 descriptors"),
        (lambda port: (socket.create_server((LOOPBACK, port)), socket.socket()), "2 descriptors"),
        (lambda _port: (socket.create_server((LOOPBACK, 0)),), "a socket at 127.0.0.1"),
        (lambda port: (bound_only(port),), "something else"),
        (lambda _port: (socket.socket(type=socket.SOCK_DGRAM),), "something else"),
        (lambda _port: (socket.socket(socket.AF_UNIX),), "something else"),
    ],
)
def test_anything_else_is_not_taken(
    answer: Callable[..., None],
    port: int,
    make: Callable[[int], tuple[socket.socket, ...]],
    words: str,
) -> None:
    """`bind.unserved`, with what came instead."""
    answer(*make(port))
    with pytest.raises(BindUnserved, match=words):
        bind.ask_for_socket(HERE, port, LOOPBACK)


@pytest.mark.parametrize(
    "line", [b"no json", {"event": "bound", "address": LOOPBACK, "port": 1}, {"event": "x"}, [1]]
)
def test_another_line_is_not_taken(answer: Callable[..., None], port: int, line: object) -> None:
    """The shim says what it sent."""
    answer(socket.create_server((LOOPBACK, port)), line=line)
    with pytest.raises(BindUnserved, match="the shim"):
        bind.ask_for_socket(HERE, port, LOOPBACK)


def call(port: int, address: str = LOOPBACK) -> object:
    """Call the verb itself: click keeps what it once made of a command, and the manual's pages are made of that."""
    assert bind_test.callback is not None
    return bind_test.callback(port=port, address=address)


def test_the_verb_says_that_it_works(
    answer: Callable[..., None], port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stdout, with status 0."""
    answer(socket.create_server((LOOPBACK, port)))
    assert call(port) == 0
    assert "works" in capsys.readouterr().out


def test_the_verb_passes_a_refusal_on(
    answer: Callable[..., None], port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shim's own line, which has the mend, and its status."""
    line = "locald-shim: refused [bind.port]: the policy does not list it; hint: use another"
    answer(refusal=f"{line}\n")
    assert call(port) == 125
    assert capsys.readouterr() == ("", f"{line}\n")


def test_an_address_has_to_be_one() -> None:
    """A usage error, before the shim is looked for."""
    for address in ("localhost", "::1%lo", "224.0.0.1", ""):
        with pytest.raises(UsageError):
            call(80, address)
