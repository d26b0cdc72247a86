"""The caller's terminal, given back as it was. Imports the standard library only; loaded for `-t` alone.

The shim's relay makes the terminal raw and, at its own end, gives its modes back. A relay whose shim was killed
does so a moment later, when the caller's shell may have set modes of its own already, and would lose them.
"""

import os
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# A relay takes a tenth of this, unless whoever reads its output has paused.
RELAY_LIMIT_S = 2.0
POLL_S = 0.01


@contextmanager
def given_back() -> Iterator[None]:
    """Leave with the modes that the terminal on stdin has now; without one there is nothing to do."""
    try:
        modes = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    yield
    until = time.monotonic() + RELAY_LIMIT_S
    # It may be hung up by now: no shell waits for it.
    with suppress(OSError, termios.error):
        # A job in the background leaves the terminal to whoever has it: the kernel would stop it here.
        while os.tcgetpgrp(0) == os.getpgrp() and termios.tcgetattr(0) != modes:
            if time.monotonic() > until:
                termios.tcsetattr(0, termios.TCSANOW, modes)
                return
            time.sleep(POLL_S)
