"""A guest that answers from a list."""

from collections.abc import Mapping, Sequence

from vms import shell
from vms.deadline import Deadline
from vms.guest import BaseGuest, Output
from vms.profile import Fact, Profile


def make_profile(*facts: Fact, users: tuple[str, ...] = ("plain",)) -> Profile:
    """Return a profile with these facts."""
    return Profile(name="fake", says="a fake", kind="local", users=users, facts=facts)


def answer(code: int = 0, stdout: bytes = b"", stderr: bytes = b"", *, timed_out: bool = False) -> Output:
    """Return what a command did."""
    return Output(("command",), "plain", code, stdout, stderr, 0.1, timed_out)


class FakeGuest(BaseGuest):
    """Answers in the order given and remembers what it was asked; the last answer repeats."""

    def __init__(self, profile: Profile, *answers: Output) -> None:
        super().__init__(profile, {})
        self.answers = list(answers)
        self.asked: list[tuple[tuple[shell.Word, ...], str, bytes]] = []

    def run(
        self,
        command: Sequence[shell.Word],
        *,
        user: str = "plain",
        stdin: bytes = b"",
        env: Mapping[str, shell.Word] | None = None,
        cwd: shell.Word | None = None,
        deadline: Deadline | None = None,
        terminal: bool = False,
    ) -> Output:
        """Answer with the next one."""
        del env, cwd, deadline, terminal
        self.check_user(user)
        self.asked.append((tuple(command), user, stdin))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def shell(self, user: str = "root") -> Sequence[str]:
        """Nobody types at a fake."""
        return ["false", user]
