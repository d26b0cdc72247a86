"""A program that is spoken to: real processes of the controller stand for the guest's."""

import time

import pytest

from tests.unit.vms.fakes import FakeGuest, answer, make_profile
from vms.conversation import Conversation
from vms.deadline import Deadline
from vms.errors import GuestLost

pytestmark = pytest.mark.spawns

ECHO = ("sh", "-c", 'while read -r line; do printf "%s %s\\n" "$$" "$line"; done')


def converse(*command: str) -> Conversation:
    """Start a program on a guest that is this machine."""
    return FakeGuest(make_profile(), answer()).converse(command)


def test_one_program_answers_every_line() -> None:
    """And it is gone after `close`, which may come twice."""
    conversation = converse(*ECHO)
    pids = set()
    for number in range(3):
        pid, said = conversation.ask(b"%d" % number, deadline=Deadline.after(10)).split()
        assert said == b"%d" % number
        pids.add(pid)
    assert len(pids) == 1
    conversation.close()
    conversation.close()


def test_long_lines_both_ways() -> None:
    """More than a pipe holds; it is read to its end before it is answered."""
    conversation = converse(*ECHO)
    line = b"x" * 300_000
    assert conversation.ask(line, deadline=Deadline.after(30)).endswith(b" " + line)
    conversation.close()


def test_a_program_that_ends() -> None:
    """What it said on stderr is told."""
    conversation = converse("sh", "-c", "read -r line; echo 'no disk' >&2; exit 3")
    with pytest.raises(GuestLost, match=r"fake: .* ended; it said on stderr: no disk"):
        conversation.ask(b"hello", deadline=Deadline.after(10))


def test_a_program_that_does_not_answer() -> None:
    """It is ended at the deadline, though it ignores TERM, and not asked again."""
    conversation = converse("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    start = time.monotonic()
    with pytest.raises(GuestLost, match="did not answer in time"):
        conversation.ask(b"hello", deadline=Deadline.after(0.2))
    assert time.monotonic() - start < 30
