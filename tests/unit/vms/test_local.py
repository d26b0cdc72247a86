"""The note of the `local` kind's holder: whole, or as good as none. No namespace is made here."""

import json
import os
from pathlib import Path

import pytest

import vms
from vms import home, local, process
from vms.profile import Profile


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Profile:
    """The profile, in a home of its own."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path))
    return vms.read("local")


def write_note(text: bytes) -> Path:
    """Write what a run has left."""
    note = home.machine("local") / "holder.json"
    note.write_bytes(text)
    return note


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"pid": 12',
        b"[]",
        b"{}",
        b'{"pid": null, "started": "1"}',
        b'{"pid": "x", "started": "1"}',
        b"\xff",
    ],
)
def test_half_a_note_is_no_holder(profile: Profile, text: bytes) -> None:
    """So that `local` can be brought up again, and taken away."""
    note = write_note(text)
    assert vms.status("local") == "down"
    local.destroy(profile)
    assert not note.exists()


def test_a_holder_is_known_by_its_start(profile: Profile) -> None:
    """One that has ended is none, also where its start was not learnt."""
    started = local._start_time(os.getpid())
    write_note(json.dumps({"pid": os.getpid(), "started": started}).encode())
    assert local.find_holder(profile) == os.getpid()
    write_note(json.dumps({"pid": os.getpid(), "started": "1"}).encode())
    assert local.find_holder(profile) is None
    write_note(json.dumps({"pid": 2**30, "started": None}).encode())
    assert local.find_holder(profile) is None


def test_a_note_is_whole_or_not_there(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be put in its place there is none, and the holder is ended."""
    ended = list[int]()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    read = Path.read_text
    monkeypatch.setattr(local, "require", lambda: None)
    monkeypatch.setattr(local, "_wait_until_ready", lambda *_: None)
    monkeypatch.setattr(process, "start", lambda *_, **__: os.getpid())
    monkeypatch.setattr(
        Path, "read_text", lambda path, **more: "1" if path == children else read(path, **more)
    )
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(os, "kill", lambda pid, _: ended.append(pid))
    with pytest.raises(OSError, match="no space"):
        local.up(profile, report=lambda _: None, limit_s=60)
    assert not (home.machine("local") / "holder.json").exists()
    assert ended == [os.getpid()]


def refuse(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError("no space")
