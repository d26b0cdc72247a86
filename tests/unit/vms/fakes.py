"""A guest that answers from a list."""

from collections.abc import Sequence
from typing import Unpack

from vms.guest import Guest, Output, RunOptions
from vms.process import Argument, Finished
from vms.profile import Fact, Profile
from vms.shell import Word


def make_profile(*facts: Fact, users: tuple[str, ...] = ("plain",)) -> Profile:
    """Return a profile with these facts."""
    return Profile(name="fake", says="a fake", kind="local", users=users, facts=facts)


def answer(code: int = 0, stdout: bytes = b"", stderr: bytes = b"", *, timed_out: bool = False) -> Output:
    """Return what a command did."""
    return Output(("command",), "plain", code, stdout, stderr, 0.1, timed_out)


class FakeGuest(Guest):
    """Answers in the order given and remembers what it was asked; the last answer repeats."""

    def __init__(self, profile: Profile, *answers: Output) -> None:
        super().__init__(profile, {})
        self.answers = list(answers)
        self.asked: list[tuple[tuple[Word, ...], str, bytes]] = []

    def run(self, command: Sequence[Word], **options: Unpack[RunOptions]) -> Output:
        """Answer with the next one."""
        user = options.get("user", "plain")
        self.check_user(user)
        self.asked.append((tuple(command), user, options.get("stdin", b"")))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def carry(self, line: bytes, *, user: str, stdin: bytes, limit_s: float) -> Finished:
        """Nothing gets so far."""
        raise AssertionError((line, user, stdin, limit_s))

    def enter(self, line: bytes, user: str) -> Sequence[Argument]:
        """A shell of the controller's stands for the guest's."""
        self.check_user(user)
        return ["/bin/sh", "-c", line]

    def shell(self, user: str = "root") -> Sequence[str]:
        """Nobody types at a fake."""
        return ["false", user]
