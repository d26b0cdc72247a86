"""A box that others publish is the file that the user named, or it is not used; each refusal is one line."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vms import public
from vms.errors import BoxError, ProfileError


def make_box(facts: object = None) -> bytes:
    """Return a Vagrant box with a disk of four bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as box:
        for name, content in (
            ("./metadata.json", json.dumps(facts or {"provider": "libvirt", "format": "qcow2"}).encode()),
            ("./box.img", b"disk"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            box.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one box; counts how often it is asked, and can break off."""

    content = b""
    asked = 0
    sent_bytes: int | None = None
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    """Promises the whole box and sends what the server says."""

    server: Server

    def do_GET(self) -> None:
        """Answer."""
        self.server.asked += 1
        self.send_response(200 if self.path == "/some.box" else 404)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.sent_bytes])

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # the base's own name
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve a box, with a home and a user's file of its own; what is asked for is not cached."""
    monkeypatch.setenv("LOCALD_VMS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(public.VARIABLE, str(tmp_path / "boxes.toml"))
    with Server(("127.0.0.1", 0), Handler) as running:
        running.content = make_box()
        running.headers = {"Content-Length": str(len(running.content))}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def name_box(tmp_path: Path, server: Server, **changes: str) -> str:
    """Write the user's file, with changes; return the sha256 that it names."""
    entry = {
        "url": f"http://127.0.0.1:{server.server_port}/some.box",
        "sha256": hashlib.sha256(server.content).hexdigest(),
    } | changes
    lines = "".join(f'{key} = "{value}"\n' for key, value in entry.items())
    (tmp_path / "boxes.toml").write_text(f"[some]\n{lines}")
    return entry["sha256"]


def fetch() -> Path:
    """Ask for the box."""
    return public.find_or_fetch("some", report=lambda _: None)


def left_over(tmp_path: Path) -> list[str]:
    """Return the files of the home."""
    return [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_the_named_box_is_fetched_once(tmp_path: Path, server: Server) -> None:
    """And verified again each time it is used."""
    sha256 = name_box(tmp_path, server)

    assert fetch() == fetch() == tmp_path / "home/public" / sha256 / "some.box"
    assert server.asked == 1
    assert left_over(tmp_path) == ["some.box"]

    fetch().write_bytes(b"another")
    with pytest.raises(BoxError, match="is not the box some that"):
        fetch()


def test_what_a_killed_fetch_left_is_written_over(tmp_path: Path, server: Server) -> None:
    """It is gigabytes for a real box, and longer than this one."""
    sha256 = name_box(tmp_path, server)
    left = tmp_path / "home/public" / sha256 / "some.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(2 * len(server.content)))

    assert fetch().read_bytes() == server.content
    assert left_over(tmp_path) == ["some.box"]


def test_another_file_is_refused_and_not_kept(tmp_path: Path, server: Server) -> None:
    """Whoever serves it has changed it, or the user has mistyped it."""
    name_box(tmp_path, server, sha256="0" * 64)

    with pytest.raises(BoxError, match=f"wanted {'0' * 64}") as caught:
        fetch()
    assert "\n" not in caught.value.message
    assert left_over(tmp_path) == []


def test_a_connection_that_breaks_is_told_as_such(tmp_path: Path, server: Server) -> None:
    """And not as a wrong digest: trying again is what mends it."""
    name_box(tmp_path, server)
    server.sent_bytes = 10

    with pytest.raises(BoxError, match="broke off after 10 of") as caught:
        fetch()
    assert "\n" not in caught.value.message
    assert left_over(tmp_path) == []
    server.sent_bytes = None
    assert fetch().is_file()


@pytest.mark.parametrize("headers", [{"Transfer-Encoding": "chunked"}, {"Content-Length": "many"}], ids=str)
def test_an_answer_that_is_not_http_is_told_as_such(
    tmp_path: Path, server: Server, headers: dict[str, str]
) -> None:
    """Chunks that are none, as where a connection breaks between two, and a length that is no number."""
    name_box(tmp_path, server)
    server.headers = headers

    with pytest.raises(BoxError, match="the box some cannot be fetched") as caught:
        fetch()
    assert "\n" not in caught.value.message
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("path", ["a b.box", "\u00e4.box"])
def test_an_address_that_cannot_be_asked_for_is_told_as_such(
    tmp_path: Path, server: Server, path: str
) -> None:
    """A blank, and a letter that is not ASCII: the user sees which address is meant."""
    name_box(tmp_path, server, url=f"http://127.0.0.1:{server.server_port}/{path}")

    with pytest.raises(BoxError, match=f"cannot be fetched from .*/{path}: "):
        fetch()
    assert server.asked == 0


def test_who_names_no_box_is_told_where_to(tmp_path: Path, server: Server) -> None:
    """Without a file, and with one that has other boxes; nobody is asked by a name."""
    with pytest.raises(BoxError, match="yours to give") as caught:
        fetch()
    assert str(tmp_path / "boxes.toml") in caught.value.hint
    (tmp_path / "boxes.toml").write_text('[other]\nurl = "http://x"\nsha256 = "y"\n')
    with pytest.raises(BoxError, match="does not name it"):
        fetch()
    assert server.asked == 0


def test_what_the_hint_shows_can_be_pasted(tmp_path: Path, server: Server) -> None:
    """Into the first line, whatever stands below, with the two values filled in."""
    file = tmp_path / "boxes.toml"
    file.write_text('[other]\nurl = "http://x"\nsha256 = "y"\n')
    with pytest.raises(BoxError) as caught:
        fetch()
    line = caught.value.hint.partition(" names): ")[2]
    sha256 = hashlib.sha256(server.content).hexdigest()
    address = f"http://127.0.0.1:{server.server_port}/some.box"
    filled = line.replace("https://…/some.box", address).replace('"…"', f'"{sha256}"')
    file.write_text(f"{filled}\n{file.read_text()}")

    assert fetch().read_bytes() == server.content


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"url": "fedora/40-cloud-base"}, "url"),
        ({"url": "file://relative"}, "url"),
        ({"sha256": "abc"}, "sha256"),
        ({"sha512": "abc"}, "sha512"),
    ],
)
def test_a_malformed_entry_is_refused(
    tmp_path: Path, server: Server, changes: dict[str, str], where: str
) -> None:
    """A short name in the place of an address, a short digest, an unknown key."""
    name_box(tmp_path, server, **changes)

    with pytest.raises(ProfileError, match=where):
        fetch()
    assert server.asked == 0


@pytest.mark.parametrize("content", [make_box({"provider": "virtualbox"}), b"<html>", b""])
def test_what_is_no_box_for_libvirt_is_refused(tmp_path: Path, server: Server, content: bytes) -> None:
    """Also when its digest is the one that was named."""
    server.content = content
    server.headers = {"Content-Length": str(len(content))}
    name_box(tmp_path, server)

    with pytest.raises(BoxError, match="the box some is n"):
        fetch()


def test_a_server_that_is_not_there(tmp_path: Path, server: Server) -> None:
    """A refused connection and a missing page are one line each."""
    name_box(tmp_path, server, url="http://127.0.0.1:1/some.box")
    with pytest.raises(BoxError, match="cannot be fetched"):
        fetch()
    name_box(tmp_path, server, url=f"http://127.0.0.1:{server.server_port}/other.box")
    with pytest.raises(BoxError, match="404"):
        fetch()
