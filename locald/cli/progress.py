"""How much of an image is here, drawn on a terminal while its user waits for it; nothing elsewhere."""

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locald.images.pull import Progress
    from locald.oci import Digest

REDRAW_S = 0.1
MEGABYTE = 1_000_000


class Line:
    """One line on stderr that is drawn again and again: all blobs of a pull together."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._is_drawn = False
        # What takes no longer than this needs no line.
        self._next_s = time.monotonic() + REDRAW_S

    def begin(self, digest: "Digest", size_bytes: int) -> None:
        """Count a blob that is about to be fetched."""
        self._sizes[str(digest)] = size_bytes
        self._draw()

    def advance(self, digest: "Digest", done_bytes: int) -> None:
        """Take in how much of it is here."""
        self._done[str(digest)] = done_bytes
        self._draw()

    def end(self, digest: "Digest", *, cached: bool) -> None:
        """Take in that it is complete."""
        if not cached:
            self._done[str(digest)] = self._sizes.get(str(digest), 0)
        self._draw()

    def clear(self) -> None:
        """Leave the line empty for what comes next."""
        if self._is_drawn and in_foreground():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self) -> None:
        now = time.monotonic()
        # Asked each time: a job goes to the background and comes back.
        if now >= self._next_s and in_foreground():
            self._next_s = now + REDRAW_S
            self._is_drawn = True
            done, size = sum(self._done.values()) / MEGABYTE, sum(self._sizes.values()) / MEGABYTE
            sys.stderr.write(f"\r\x1b[K{done:.1f} of {size:.1f} MB")
            sys.stderr.flush()


def in_foreground() -> bool:
    """Tell whether the terminal on stderr is this job's: in the background its last line is the shell's prompt."""
    try:
        return os.tcgetpgrp(2) == os.getpgrp()
    except OSError:
        # Not the controlling terminal: no shell shares it with jobs.
        return True


@contextmanager
def make_progress(*, quiet: bool) -> "Iterator[Progress | None]":
    """Yield what `pull` tells about blobs; the terminal is tidy afterwards."""
    line = None if quiet else Line()
    try:
        yield line
    finally:
        if line is not None:
            line.clear()
