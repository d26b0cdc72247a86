"""The `locald` command: one file per verb, each loaded only when it is called.

Nothing imports this package, and nothing else exits or writes to stdout. This file alone is loaded by every
call, so it imports next to nothing: `locald run` reaches its verb without click (options.py says why).
"""

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from locald.errors import LocaldError
from locald.log import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE
# Set by a shell that asks click for completions; its words are not in argv.
COMPLETE_VARIABLE = "_LOCALD_COMPLETE"


class Terminated(BaseException):
    """A signal asked this process to end; it is raised so that what was made is removed first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Run the command line and exit with its status."""
    status = guard(lambda: flushed(dispatch(sys.argv[1:])))
    # Not sys.exit: what lives here dies with the process, and tearing it down is a tenth of a short run.
    os._exit(status)


def flushed(status: int) -> int:
    """Write out what is buffered; a reader that went away is met here, where it can be told."""
    sys.stdout.flush()
    return status


def dispatch(words: list[str]) -> int:
    """Run the verb that `words` name; return the exit status."""
    if words[:1] == ["run"] and COMPLETE_VARIABLE not in os.environ:
        # Modules are no garbage: looking for some while they load finds none.
        gc.disable()
        from locald.cli import run  # noqa: PLC0415  # one verb a process

        gc.enable()
        values = run.parse(words[1:])
        if values is not None:
            return run.run(values)
    # Everything else, and whatever `run` has to explain.
    from locald.cli import app  # noqa: PLC0415  # brings click

    return app.call(words)


def guard(verb: "Callable[[], int]") -> int:
    """Call `verb`; turn whatever ends it early into a line on stderr and an exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What the caller had ignored, as nohup does, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    try:
        return verb()
    except LocaldError as error:
        show(error)
        return error.exit_code
    except Terminated as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our stdout went away. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return BROKEN_PIPE


def show(error: LocaldError) -> None:
    """Render an error: its code and what happened, then what to do about it."""
    write(f"locald: [{error.code}]: {error}")
    write(f"  hint: {error.hint}")


def _terminate(number: int, _frame: "FrameType | None") -> None:
    raise Terminated(number)
