"""Do several things at once in threads, and end together. Imports `deadline` only.

Loaded to fetch something, never by a run of a cached image. Why threads: docs/decisions/0023-parallel-pulls.md.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from locald.deadline import Deadline

# How long the others get to end once one has failed, or a signal has come.
STOP_LIMIT_S = 2.0
# The main thread's: a signal that a worker took would not wake it.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Check = Callable[[], None]
Job = Callable[[Check], None]


class Stopped(Exception):  # no error: it ends a thread whose work nobody wants any more
    """Raised by the function that a job gets, once the job is to end."""


def run_all(jobs: Sequence[Job], *, threads: int) -> None:
    """Run each of `jobs`, at most `threads` at once; raise the first error that one of them raises.

    Whatever ends this call early, an error or a signal, ends all jobs: those that wait are not begun, and those
    that run get 2 s. One that is stuck for longer, in a connection that says nothing, is left behind and ends at
    its next call of the function it got; it must leave nothing that another process would miss.

    Args:
        jobs: Each is called with a function to call now and then, which raises `Stopped` when it is to end.
        threads: 1 runs them one after the other, in this thread.
    """
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            job(_go_on)
        return
    crew = _Crew(jobs)
    started: list[threading.Thread] = []
    try:
        for _ in range(min(threads, len(jobs))):
            thread = threading.Thread(target=crew.work, daemon=True)
            thread.start()
            started.append(thread)
        for _ in started:
            error = crew.ended.get()
            if error is not None:
                raise error
    finally:
        crew.stopped.set()
        deadline = Deadline.after(seconds=STOP_LIMIT_S)
        for thread in started:
            thread.join(deadline.left_s())


class _Crew:
    """What the threads of one call share."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = deque(jobs)
        self.stopped = threading.Event()
        # What ended each thread: an error, or None where there was nothing left to do.
        self.ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def work(self) -> None:
        """Do one job after another; the body of a thread."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            while (job := self._next()) is not None:
                job(self._check)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the caller's, who waits for it
            self.ended.put(error)
        else:
            self.ended.put(None)

    def _next(self) -> Job | None:
        if self.stopped.is_set():
            return None
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _check(self) -> None:
        if self.stopped.is_set():
            raise Stopped


def _go_on() -> None:
    """Never stop: a signal reaches the thread that works."""
