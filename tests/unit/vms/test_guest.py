"""What is built on top of `run`, whichever machine it is."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.unit.vms.fakes import FakeGuest, answer, make_profile
from vms.deadline import Deadline
from vms.errors import CommandFailed, CommandSucceeded, GuestAssertion, GuestLost, NoSuchUser, NotInTime
from vms.guest import User, pack


def test_succeed_and_fail_are_opposites() -> None:
    """Each shows the command, the code and both streams when it is disappointed."""
    good, bad = answer(0, b"out"), answer(7, b"", b"why")

    assert FakeGuest(make_profile(), good).succeed(["x"]) is good
    assert FakeGuest(make_profile(), bad).fail(["x"]) is bad
    with pytest.raises(CommandFailed, match=r"(?s)exit code 7.*stderr: why"):
        FakeGuest(make_profile(), bad).succeed(["x"])
    with pytest.raises(CommandSucceeded):
        FakeGuest(make_profile(), good).fail(["x"])


def test_being_killed_at_the_deadline_is_not_the_failure_asked_for() -> None:
    """A hang must not pass for a refusal."""
    with pytest.raises(CommandFailed, match="had to be killed"):
        FakeGuest(make_profile(), answer(124, timed_out=True)).fail(["x"])


def test_a_lost_guest_is_no_assertion() -> None:
    """So no test runner reports it as a failed test."""
    assert not issubclass(GuestLost, AssertionError)
    assert issubclass(GuestAssertion, AssertionError)


def test_waiting_ends_with_the_first_success() -> None:
    """And asks no more than it has to."""
    guest = FakeGuest(make_profile(), answer(1), answer(1), answer(0, b"there"))

    output = guest.wait_until(["x"], deadline=Deadline.after(10), every_s=0.001)

    assert output.stdout == b"there"
    assert len(guest.asked) == 3


def test_waiting_in_vain_shows_the_last_answer() -> None:
    """Not only that it was in vain."""
    guest = FakeGuest(make_profile(), answer(1, b"", b"still starting"))

    with pytest.raises(NotInTime, match="still starting"):
        guest.wait_until(["x"], deadline=Deadline.after(0.05), every_s=0.01)


def test_a_success_after_the_deadline_is_late() -> None:
    """Otherwise a slow last try would decide."""
    with pytest.raises(NotInTime):
        FakeGuest(make_profile(), answer(0)).wait_until(["x"], deadline=Deadline.after(-1))


def test_a_user_that_the_profile_does_not_promise_is_refused() -> None:
    """Rather than found missing by a test that then means something else."""
    with pytest.raises(NoSuchUser, match="root, plain"):
        FakeGuest(make_profile(), answer()).run(["id"], user="confined")


def test_an_account_is_asked_for_once() -> None:
    """And is what the guest says."""
    guest = FakeGuest(make_profile(), answer(0, b"plain:x:1000:1001::/home/plain:/bin/bash\n"))

    assert guest.user("plain") == guest.user("plain") == User("plain", 1000, 1001, "/home/plain")
    assert len(guest.asked) == 1


@pytest.mark.parametrize(("name", "why"), [("stranger", "has no user"), ("plain", "is not there")])
def test_an_account_that_is_not_there_is_no_verdict(name: str, why: str) -> None:
    """Whether the profile does not name it or the guest does not know it: the product has no part in that."""
    with pytest.raises(NoSuchUser, match=why) as caught:
        FakeGuest(make_profile(), answer(2)).user(name)

    assert not isinstance(caught.value, AssertionError)
    with pytest.raises(GuestLost):
        FakeGuest(make_profile(), answer(124, timed_out=True)).user("plain")


def test_pushing_replaces_by_rename() -> None:
    """The content travels on stdin; the target is never half written."""
    guest = FakeGuest(make_profile(), answer())

    guest.push(b"content", "/etc/x", mode=0o600)

    command, user, stdin = guest.asked[0]
    assert (command[-2:], user, stdin) == (("/etc/x", "600"), "root", b"content")
    assert "mv -fT" in str(command[2])


def test_a_packed_directory_names_no_owner(tmp_path: Path) -> None:
    """Who unpacks it owns it; modes and links stay."""
    (tmp_path / "program").write_bytes(b"#!")
    (tmp_path / "program").chmod(0o755)
    os.symlink("program", tmp_path / "link")

    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path))) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}

    assert set(entries) == {"program", "link"}
    assert entries["program"].mode & 0o777 == 0o755
    assert entries["link"].issym()
    assert {(entry.uid, entry.uname) for entry in entries.values()} == {(0, "")}


def test_a_file_with_two_names_is_packed_once(tmp_path: Path) -> None:
    """What a host has twice crosses the connection once."""
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "one", tmp_path / "two")

    packed = pack(tmp_path)

    assert len(packed) < 150_000
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getmember("two").linkname == "one"
