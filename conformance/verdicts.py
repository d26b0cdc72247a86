"""What a clause on a host came to, and the one reduction from attempts to a run.

Pure. The order of the members is the order of gravity: a clause is as good as its worst test.
"""

import enum
from collections.abc import Iterable, Sequence
from typing import Final


class Outcome(enum.StrEnum):
    """How one attempt of one test ended."""

    PASSED = "passed"
    FAILED = "failed"  # an assertion about the subject did not hold
    BROKEN = "broken"  # the kit or the guest failed: it says nothing about the subject


class Verdict(enum.StrEnum):
    """What a test, a clause on a profile, or a run came to."""

    # Of a clause only: by the catalogue it says nothing of the runtime under test. Neither green nor red.
    NOT_APPLICABLE = "NOT-APPLICABLE"
    PASS = "PASS"  # noqa: S105  # a verdict, not a password
    WAIVED = "WAIVED"
    FLAKY = "FLAKY"
    FAIL = "FAIL"
    MISSING = "MISSING"
    ERROR = "ERROR"
    INVALID = "INVALID"


GREEN: Final = frozenset({Verdict.PASS, Verdict.WAIVED})
_GRAVITY: Final = tuple(Verdict)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the gravest of `verdicts`; of none, MISSING: what was not looked at did not pass."""
    return max(verdicts, key=_GRAVITY.index, default=Verdict.MISSING)


def reduce_attempts(outcomes: Sequence[Outcome]) -> Verdict:
    """Return the verdict of one test from its attempts, in their order.

    A test that both failed and passed is FLAKY, never PASS. One broken attempt makes it an ERROR: the
    attempts beside it were made with the same kit.
    """
    seen = set(outcomes)
    if not seen:
        return Verdict.MISSING
    if Outcome.BROKEN in seen:
        return Verdict.ERROR
    if seen == {Outcome.PASSED}:
        return Verdict.PASS
    return Verdict.FLAKY if Outcome.PASSED in seen else Verdict.FAIL


def reduce_clause(tests: Iterable[Verdict], *, waived: bool, preconditions_proven: bool) -> Verdict:
    """Return the verdict of a clause on a profile.

    Args:
        tests: The verdicts of the tests that name the clause.
        waived: A waiver of this clause on this profile has not expired.
        preconditions_proven: The host was what its profile says, before and after.
    """
    # On a host that is not what it claims to be neither a pass nor a failure means anything.
    if not preconditions_proven:
        return Verdict.INVALID
    verdict = worst(tests)
    # A waiver covers what the subject does wrong; it never covers a kit that could not look.
    if waived and verdict in {Verdict.FAIL, Verdict.FLAKY}:
        return Verdict.WAIVED
    return verdict


def is_green(must_verdicts: Iterable[Verdict], *, preconditions_proven: bool) -> bool:
    """Say whether a run with these verdicts of its MUST clauses may be called green; one that judged none may not."""
    verdicts = [verdict for verdict in must_verdicts if verdict is not Verdict.NOT_APPLICABLE]
    return preconditions_proven and bool(verdicts) and all(verdict in GREEN for verdict in verdicts)
