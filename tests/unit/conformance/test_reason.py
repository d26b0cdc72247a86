"""The one line that a person reads of a failure: what was compared, not what the value looked like."""

import pytest

from conformance.reason import LIMIT_CHARS, tell_reason
from conformance.report import make_profile
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import CATALOGUE, record, run

SHOWN = "Result({'argv': ['/opt/locald/peer/runtime', ...not found in $PATH: No such file or directory"
COMPARED = "assert (1, 1) == (126, 127)\n  \n  At index 0 diff: 1 != 126\n  Use -v to get more diff"
LISTED = (
    "subject = Subject(guest=<vms.local.LocalGuest object>)\n\n>       assert result.exit_code == 0, result"
)
WHERE = f" +  where 1 = {SHOWN}\\n', 'leftover': []}}, stdout='').exit_code"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        # A value was shown, in several lines; what it printed stands indented and is never taken for pytest's.
        (
            f"AssertionError: ({SHOWN}\n  assert 1 == 2\n  ', 'leftover': []}}, stdout=''))\n{COMPARED}",
            "assert (1, 1) == (126, 127); At index 0 diff: 1 != 126",
        ),
        (
            f"AssertionError: {SHOWN}\n  ')\nassert 1 == 0\n{WHERE}",
            "assert 1 == 0; where 1 = (...).exit_code",
        ),
        ("AssertionError: {'keyctl': 0}\nassert 0 not in (0, 126)", "assert 0 not in (0, 126)"),
        ("AssertionError: 'a value'\nassert 'a' == 'b'", "assert 'a' == 'b'"),
        # None was shown.
        ("AssertionError: assert '1024' == '0'\n  \n  - 0\n  + 1024", "assert '1024' == '0'"),
        (
            "assert ['939 conne...y)'] == []\n  \n  Left contains one more item: '939 connect(3)'",
            "assert ['939 conne...y)'] == []; Left contains one more item: '939 connect(3)'",
        ),
        # The test has words of its own.
        ("AssertionError: no twin was built\nassert not 1", "no twin was built: assert not 1"),
        ("AssertionError: 'signal 18' did not come\nassert False", "'signal 18' did not come"),
        (
            "ObservationError: the observer did not speak: ''",
            "ObservationError: the observer did not speak: ''",
        ),
        ("AssertionError: a SHOULD", "AssertionError: a SHOULD"),
        ("lost\nmore", "lost"),
        ("", ""),
    ],
)
def test_what_was_compared_is_told(said: str, reason: str) -> None:
    """Behind the words of who wrote the test; pytest's listing below the empty line does not count."""
    assert tell_reason(said) == reason
    assert tell_reason(f"{said}\n\n{LISTED}\nassert 3 == 4" if said else said) == reason
    made = make_profile(run(record("AB-001", Outcome.FAILED, message=said)), CATALOGUE, ())
    assert made["clauses"][0]["reason"] == reason


def test_a_reason_has_an_end() -> None:
    """A program may say anything at any length."""
    told = tell_reason(f"AssertionError: assert '{'x' * 1000}' == ''")
    assert (len(told), told[-3:]) == (LIMIT_CHARS, "...")
