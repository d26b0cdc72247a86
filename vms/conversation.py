"""A program in a guest that stays, and answers a line with a line.

A new interpreter costs an emulated guest three seconds; one that is there already costs a fork.
"""

import contextlib
import os
import selectors
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, cast

from vms import process
from vms.deadline import Deadline
from vms.errors import GuestLost

CHUNK_BYTES = 1 << 16
SHOWN_BYTES = 2000


class Conversation:
    """One program, from its start to `close`. Not for threads."""

    def __init__(
        self, command: Sequence[process.Argument], *, env: Mapping[str, str] | None, where: str
    ) -> None:
        """Start it.

        Args:
            command: What runs on the controller: it carries both pipes into the guest.
            env: Its whole environment; None passes on the controller's.
            where: The machine's name, for messages.
        """
        self._where = where
        # A file, not a pipe: nobody reads it until something is wrong.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the program
        self._child = process.start_piped(command, env=env, errors=self._errors)
        self._rest = b""

    def ask(self, line: bytes, *, deadline: Deadline) -> bytes:
        """Send one line and return the answer, both without their ends.

        Raises:
            GuestLost: No answer by the deadline, or the program ended. The conversation is over then.
        """
        try:
            self._send(line + b"\n", deadline)
            return self._receive(deadline)
        except BaseException:
            # An answer that comes later would be taken for that to the next question.
            self.close()
            raise

    def close(self) -> None:
        """End it: it sees its input end, and is killed if that does not move it. Harmless after the end."""
        if not self._errors.closed:
            process.end_piped(self._child)
            self._errors.close()

    def _send(self, content: bytes, deadline: Deadline) -> None:
        number = cast("IO[bytes]", self._child.stdin).fileno()
        os.set_blocking(number, False)
        with selectors.DefaultSelector() as selector:
            selector.register(number, selectors.EVENT_WRITE)
            while content:
                if not selector.select(deadline.left_s):
                    raise self._lost("took no question in time")
                try:
                    content = content[os.write(number, content[:CHUNK_BYTES]) :]
                except BrokenPipeError as error:
                    raise self._lost("ended") from error
                except BlockingIOError:
                    time.sleep(0.01)

    def _receive(self, deadline: Deadline) -> bytes:
        number = cast("IO[bytes]", self._child.stdout).fileno()
        pieces = [self._rest]
        with selectors.DefaultSelector() as selector:
            selector.register(number, selectors.EVENT_READ)
            while b"\n" not in pieces[-1]:
                if not selector.select(deadline.left_s):
                    raise self._lost("did not answer in time")
                pieces.append(os.read(number, CHUNK_BYTES))
                if not pieces[-1]:
                    raise self._lost("ended")
        answer, _, self._rest = b"".join(pieces).partition(b"\n")
        return answer

    def _lost(self, what: str) -> GuestLost:
        said = b""
        with contextlib.suppress(OSError):
            self._errors.seek(0)
            said = self._errors.read()[-SHOWN_BYTES:]
        words = said.decode(errors="replace").strip() or "nothing"
        return GuestLost(f"{self._where}: the program that was spoken to {what}; it said on stderr: {words}")
