"""Several jobs at once: all are done, or the first trouble ends them together."""

import threading
import time

import pytest

from locald.images import parallel
from locald.images.parallel import Check, Job, Stopped, run_all

LIMIT_S = 10


def test_all_are_done_and_no_more_than_allowed_at_once() -> None:
    """As many threads as were allowed, if there is enough to do."""
    at_once: list[int] = []
    working: set[int] = set()
    full = threading.Barrier(3)

    def make(number: int) -> Job:
        def job(_check: Check) -> None:
            working.add(number)
            at_once.append(len(working))
            if number < 3:
                full.wait(LIMIT_S)
            working.discard(number)

        return job

    run_all([make(number) for number in range(12)], threads=3)
    assert len(at_once) == 12
    assert max(at_once) == 3


@pytest.mark.parametrize(("count", "threads"), [(3, 1), (1, 4), (0, 4)])
def test_one_at_a_time_takes_no_thread(count: int, threads: int) -> None:
    """So a layout is read where a signal is met at once."""
    seen: list[int] = []

    def job(check: Check) -> None:
        check()
        seen.append(threading.get_ident())

    run_all([job] * count, threads=threads)
    assert seen == [threading.get_ident()] * count


def test_the_first_error_ends_all() -> None:
    """It is raised as it was; who works learns it at his next check, who waits is not begun."""
    begun = threading.Barrier(2)
    stopped: list[bool] = []

    def fail(_check: Check) -> None:
        begun.wait(LIMIT_S)
        raise ZeroDivisionError

    def work(check: Check) -> None:
        begun.wait(LIMIT_S)
        try:
            while True:
                check()
                time.sleep(0.001)
        except Stopped:
            stopped.append(True)
            raise

    def never(_check: Check) -> None:
        raise AssertionError

    with pytest.raises(ZeroDivisionError):
        run_all([fail, work, never, never], threads=2)
    assert stopped == [True]


def test_a_job_that_is_stuck_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a connection that says nothing."""
    monkeypatch.setattr(parallel, "STOP_LIMIT_S", 0.05)
    release = threading.Event()
    ended: list[type[BaseException]] = []

    def stick(check: Check) -> None:
        release.wait(LIMIT_S)
        try:
            check()
        except Stopped:
            ended.append(Stopped)
            raise

    def fail(_check: Check) -> None:
        raise ZeroDivisionError

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        run_all([stick, fail], threads=2)
    (left,) = set(threading.enumerate()) - before
    release.set()
    left.join(LIMIT_S)
    assert ended == [Stopped]
