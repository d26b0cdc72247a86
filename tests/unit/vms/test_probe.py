"""A proof says what was seen, and does not hold for less than all of it."""

import dataclasses
import subprocess

import pytest

from tests.unit.vms.fakes import FakeGuest, answer, make_profile
from vms import engines
from vms.errors import GuestLost
from vms.guest import Output
from vms.probe import judge, prove, render
from vms.profile import Fact

HOLDS = Fact(id="yes", says="says yes", user="plain", command=("echo", "yes"), stdout="^yes$")
REFUSED = Fact(
    id="no", says="is refused", user="plain", command=("no",), exit_code=None, stderr="not permitted$"
)


def test_all_facts_and_the_search_are_evidence() -> None:
    """In order, with command, user and output."""
    guest = FakeGuest(make_profile(HOLDS), answer(), answer(0, b"yes\n"))

    proof = prove(guest)

    assert proof.in_force
    assert [piece.fact for piece in proof.evidence] == ["no-container-engine", "yes"]
    assert (proof.evidence[1].command, proof.evidence[1].stdout) == (("command",), "yes")


def test_an_engine_anywhere_is_named() -> None:
    """The path that was found is in the evidence and in what a person reads."""
    guest = FakeGuest(make_profile(HOLDS), answer(0, b"/opt/x/bin/runc\n"), answer(0, b"yes\n"))

    proof = prove(guest)

    assert not proof.in_force
    assert [piece.fact for piece in proof.missing] == ["no-container-engine"]
    assert any("/opt/x/bin/runc" in line for line in render(proof))


@pytest.mark.parametrize(
    ("fact", "output", "holds"),
    [
        (HOLDS, answer(0, b"yes\n"), True),
        (HOLDS, answer(0, b"yes indeed\n"), False),
        (HOLDS, answer(1, b"yes\n"), False),
        (HOLDS, answer(0, b"yes\n", timed_out=True), False),
        (REFUSED, answer(1, b"", b"unshare: Operation not permitted\n"), True),
        (REFUSED, answer(0, b"", b"Operation not permitted\n"), False),
        (REFUSED, answer(1, b"", b"unshare: No space left on device\n"), False),
    ],
)
def test_judging(fact: Fact, output: Output, holds: bool) -> None:
    """The exit code, both patterns, and that it ended by itself."""
    assert judge(fact, output).holds is holds


def test_the_search_leaves_out_only_what_is_allowed() -> None:
    """A profile that is the oracle has engines; every other name is still looked for."""
    words = engines.make_search(allowed=["podman"])

    assert "podman" not in words
    assert "runc" in words
    assert words[4:6] == ("find", "/")


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("find: '/gone': No such file or directory", 0),
        ("find: '/gone': No such file or directory\nfind: '/root': Permission denied", 1),
        ("", 1),
    ],
)
def test_what_goes_away_during_the_search_is_no_fault_of_it(says: str, code: int) -> None:
    """A directory that is gone when find comes to it; anything else that it says is one, and so is its silent end."""
    script = f'echo /usr/bin/runc; [ -z "{says}" ] || echo "{says}" >&2; exit 1'
    words = ["/bin/sh", "-c", engines.BUT_FOR_WHAT_WENT, "search", "/bin/sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (code, "/usr/bin/runc\n")
    assert ("Permission denied" in done.stderr) == ("Permission denied" in says)
    assert "No such file" not in done.stderr


def test_a_search_that_failed_proves_nothing() -> None:
    """No output and a failure is not `nothing found`."""
    proof = prove(FakeGuest(make_profile(HOLDS), answer(1), answer(0, b"yes\n")))

    assert not proof.in_force


def test_a_lost_guest_is_not_a_broken_precondition() -> None:
    """It goes through as what it is."""

    class Lost(FakeGuest):
        def run(self, *_: object, **__: object) -> Output:
            raise GuestLost("gone")

    with pytest.raises(GuestLost):
        prove(Lost(make_profile(HOLDS), answer()))


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        (b"active\nwatching\n", True),
        (b"active\nwatching\n12:00:00 /proc/sys/x was written\n", False),
        (b"active\n12:00:00 /proc/sys/x was written\n", False),
        # It was ended, or never started.
        (b"inactive\nwatching\n", False),
        (b"active\n", False),
    ],
)
def test_what_was_changed_in_between_is_a_fact_that_does_not_hold(said: bytes, holds: bool) -> None:
    """Only of a profile that names what is watched."""
    watched = dataclasses.replace(make_profile(HOLDS), watched=("/proc/sys/x",))

    proof = prove(FakeGuest(watched, answer(), answer(0, b"yes\n"), answer(0, said)))

    assert [piece.fact for piece in proof.evidence] == ["no-container-engine", "yes", "untouched"]
    assert proof.in_force is holds
