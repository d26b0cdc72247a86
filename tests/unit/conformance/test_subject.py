"""What a subject says that is no answer speaks of it and not of the kit: a failed clause, never an error of the run."""

import pytest

from conformance.subject import Result

BROKEN = ("", "no document", '{"half": ', '{"two": 1}{"documents": 2}')


def make_result(stdout: str = "", status: str = "") -> Result:
    """Return how a job ended that wrote this."""
    return Result(
        {
            "argv": ["locald-shim", "check"],
            "user": "plain",
            "exit_code": 0,
            "problem": "",
            "stdout": stdout,
            "stderr": "",
            "status": status,
            "leftover": [],
        }
    )


def test_an_answer_is_a_document() -> None:
    """And an event is a line."""
    assert make_result('{"modes": {}}\n').answer == {"modes": {}}
    assert make_result(status='{"event": "a"}\n{"event": "b"}\n').events == [{"event": "a"}, {"event": "b"}]


@pytest.mark.parametrize("text", BROKEN)
def test_no_document_is_the_subjects_fault(text: str) -> None:
    """With what was said and by whom."""
    with pytest.raises(AssertionError, match=r"no JSON .*locald-shim"):
        _ = make_result(text).answer


@pytest.mark.parametrize("text", BROKEN[1:])
def test_no_event_is_the_subjects_fault(text: str) -> None:
    """None at all is an answer that a clause judges."""
    with pytest.raises(AssertionError, match="no JSON "):
        _ = make_result(status=text).events
    assert make_result().events == []
