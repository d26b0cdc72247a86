"""The kit's process in a guest answers each request from a process of its own, whatever becomes of that."""

import json
import os
import time
from typing import Any, NoReturn

import pytest

from conformance import serve

pytestmark = pytest.mark.spawns
REQUEST = {"jobs": [], "limit_s": 30.0}


def ask(monkeypatch: pytest.MonkeyPatch, carry_out: Any, **more: Any) -> dict[str, Any]:
    """Return the answer to a request that is carried out so."""
    monkeypatch.setattr(serve, "carry_out", carry_out)
    answer: dict[str, Any] = json.loads(serve.answer(REQUEST | more))
    return answer


def test_nothing_stays_from_one_request_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its process nor what it did to that, and its standard output is not the answer's way."""

    def change(_: dict[str, Any]) -> dict[str, Any]:
        seen = {"pid": os.getpid(), "umask": os.umask(0o777), "stdout": os.path.realpath("/proc/self/fd/1")}
        os.chdir("/proc")
        return seen

    first, second = ask(monkeypatch, change), ask(monkeypatch, change)
    assert os.getpid() not in (first["pid"], second["pid"])
    assert first["umask"] == second["umask"]
    assert first["stdout"] == "/dev/null"
    with pytest.raises(ProcessLookupError):
        os.kill(first["pid"], 0)


def test_more_than_a_pipe_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes whole."""
    assert len(ask(monkeypatch, lambda _: {"trace": "x" * 1_000_000})["trace"]) == 1_000_000


def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's own words, or the traceback of a defect of the kit."""

    def stop(_: dict[str, Any]) -> NoReturn:
        raise SystemExit("a preparing script failed")

    assert ask(monkeypatch, stop) == {"error": "a preparing script failed"}
    assert "ZeroDivisionError" in ask(monkeypatch, lambda _: {"never": 1 // 0})["error"]


def test_a_request_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that a payload could kill."""
    assert ask(monkeypatch, lambda _: os._exit(3)) == {"error": "it died without a word"}


def test_a_request_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended at its limit."""
    start = time.monotonic()
    assert ask(monkeypatch, lambda _: time.sleep(60), limit_s=0.2) == {"error": "not done after 0 s"}
    assert time.monotonic() - start < 30
