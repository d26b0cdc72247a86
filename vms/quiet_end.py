"""End a program quietly when whoever reads its output has enough; for `python -m vms` and what is built on it.

The standard library only: `host packages` is asked before anything is installed.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

CLOSED_PIPE: Final = 128 + signal.SIGPIPE
"""The exit code that a shell shows for a program that this signal ended."""


def run_to_end(main: Callable[[list[str]], int]) -> int:
    """Return the exit code of `main`; where its reader is gone, as behind `| head`, the code of the signal."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return code
