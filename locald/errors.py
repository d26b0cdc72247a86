"""Every error that a user of locald can meet: its code, sentence, next step and exit code.

Imports nothing of locald: every module raises from here.

    LocaldError
    └── UsageError                   usage
"""

from typing import ClassVar


class LocaldError(Exception):
    """What happened, what to do about it, and how the process ends."""

    code: ClassVar[str]  # stable: tests, --json and the manual use it, never the wording
    exit_code: ClassVar[int] = 125  # locald itself; 126, 127 and 128+N speak of the container

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LocaldError):
    """The command line asks for something that does not go together."""

    code = "usage"
    exit_code = 2
