"""The one reduction: from attempts to a verdict, from verdicts to a clause and a run."""

import pytest

from conformance.verdicts import GREEN, Outcome, Verdict, is_green, reduce_attempts, reduce_clause, worst

P, F, B = Outcome.PASSED, Outcome.FAILED, Outcome.BROKEN


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], Verdict.MISSING),
        ([P], Verdict.PASS),
        ([F], Verdict.FAIL),
        ([F, F, F], Verdict.FAIL),
        ([F, P], Verdict.FLAKY),
        ([P, F], Verdict.FLAKY),
        ([B], Verdict.ERROR),
        ([P, B], Verdict.ERROR),
        ([F, B], Verdict.ERROR),
    ],
)
def test_attempts(outcomes: list[Outcome], verdict: Verdict) -> None:
    """No sequence with a failure in it is a pass."""
    assert reduce_attempts(outcomes) is verdict


def test_the_gravest_counts() -> None:
    """A clause is as good as its worst test; of none it is missing."""
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.FLAKY]) is Verdict.FAIL
    assert worst([Verdict.PASS, Verdict.ERROR, Verdict.FAIL]) is Verdict.ERROR
    assert worst([]) is Verdict.MISSING


@pytest.mark.parametrize(
    ("tests", "waived", "proven", "verdict"),
    [
        ([Verdict.PASS], False, True, Verdict.PASS),
        ([Verdict.PASS], True, True, Verdict.PASS),
        ([Verdict.FAIL], True, True, Verdict.WAIVED),
        ([Verdict.FLAKY], True, True, Verdict.WAIVED),
        ([Verdict.ERROR], True, True, Verdict.ERROR),
        ([], True, True, Verdict.MISSING),
        ([Verdict.PASS], False, False, Verdict.INVALID),
        ([Verdict.FAIL], True, False, Verdict.INVALID),
    ],
)
def test_clauses(tests: list[Verdict], waived: bool, proven: bool, verdict: Verdict) -> None:
    """A waiver covers a failure only, and nothing counts on an unproven host."""
    assert reduce_clause(tests, waived=waived, preconditions_proven=proven) is verdict


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - {*GREEN, Verdict.NOT_APPLICABLE}))
def test_one_bad_verdict_is_not_green(verdict: Verdict) -> None:
    """Everything but a pass and a live waiver ends green."""
    assert is_green([Verdict.PASS, Verdict.WAIVED], preconditions_proven=True)
    assert not is_green([Verdict.PASS, verdict], preconditions_proven=True)


def test_nothing_is_not_green() -> None:
    """An empty run and an unproven host are never green."""
    assert not is_green([], preconditions_proven=True)
    assert not is_green([Verdict.NOT_APPLICABLE], preconditions_proven=True)
    assert not is_green([Verdict.PASS], preconditions_proven=False)


def test_what_does_not_apply_is_neither_green_nor_red() -> None:
    """It changes nothing beside what was judged."""
    assert is_green([Verdict.PASS, Verdict.NOT_APPLICABLE], preconditions_proven=True)
    assert not is_green([Verdict.FAIL, Verdict.NOT_APPLICABLE], preconditions_proven=True)
