"""One rule off at a time, against every case: `nox -s mutants -- rules`. Not part of the tests: it takes long.

The rule's own cases must turn red (test_rules.py says so of each mode); of all others only those in SPILLS may, each
for the reason given there. Every case is tried in the first of its modes, and again where it turned red.
"""

import os

import pytest

from tests.shim.cases import CASES, Case
from tests.shim.harness import Caller, Run, Shim, Workshop
from tests.shim.manual import load_cases, read_rules

load_cases()
# The rule that is off: the cases of other rules that turn red too, and why.
SPILLS: dict[str, tuple[frozenset[str], str]] = {
    "6": (
        frozenset({"43", "43:defiant", "29-gone:busy", "29-gone:killed", "48-attributes:parent-death"}),
        "a caller who may stop the supervisor may end it half-way, and nothing then ends the payload: what 43 spills",
    ),
    "7-self": (frozenset({"38-close"}), "a descriptor of the shim is one of the host's"),
    "10": (frozenset({"21"}), "what the caller may not find is opened by root, and then bound"),
    "21": (frozenset({"10"}), "root opens what the caller may not find, and tells of it"),
    "29-path": (frozenset({"46:cgroup"}), "a cgroup that the config names is one of the caller's choice"),
    "29-caller": (
        frozenset({"29-gone", "29-gone:busy", "29-gone:killed"}),
        "a leaf that root has made is not the caller's to remove",
    ),
    "29-gone": (frozenset({"29-caller:moved"}), "a leaf that nobody removes is there when the call is over"),
    "34-nnp": (frozenset({"32-ioctl"}), "a process that may gain rights is given no filter"),
    "38-close": (frozenset({"39"}), "the descriptor that is left is opened inside"),
    "43": (
        frozenset({"6", "29-gone:busy", "29-gone:killed", "48-attributes:parent-death"}),
        "a payload outlives its supervisor, in its leaf, and asks for no signal at that one's death",
    ),
    "45-owner": (frozenset({"45-capability"}), "a socket that is made earlier stands elsewhere in the trace"),
    "45-share": (frozenset({"45-capability"}), "one call more stands in the trace"),
    "45-capability": (frozenset({"45-owner"}), "who stays root makes sockets of root's"),
    "50": (frozenset({"12-type:fifo"}), "who opens a FIFO waits for its other end"),
}
RULES = [rule for rule in read_rules() if any(case.rule in {rule, rule.split("-")[0]} for case in CASES)]


def holds(case: Case, run: Run) -> bool:
    """Run a case; say whether it held."""
    try:
        case.check(run)
    except AssertionError:
        return False
    return True


def find_red(rule: str, mutant: Shim, workshop: Workshop, caller: Caller) -> set[str]:
    """Return the cases that turn red without `rule`."""
    red = set()
    for case in CASES:
        run = Run(mutant, workshop, case.modes[0], caller)
        # Twice: a case that is red for the machine's own reasons is not held against the rule.
        if not holds(case, run.without(rule)) and not holds(case, run.without(rule)):
            red.add(case.id)
    return red


@pytest.mark.parametrize("rule", RULES)
def test_only_its_own_cases_turn_red(
    rule: str,
    mutant: Shim,
    workshop: Workshop,
    callers: dict[str, Caller],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prints one row: the rule, its red cases, the others."""
    number = rule.split("-", maxsplit=1)[0]
    attackers = [case for case in CASES if case.rule in {rule, number}]
    own = {case.id for case in attackers if not case.unbreakable}
    red = find_red(rule, mutant, workshop, callers["locald-a"])
    others = red - {case.id for case in attackers}
    row = f"{rule:<18} red: {' '.join(sorted(red - others)) or '-':<40} others: {' '.join(sorted(others)) or '-'}"
    with capsys.disabled():
        os.write(1, f"\n{row}\n".encode())
    expected, _ = SPILLS.get(rule, (frozenset(), ""))
    assert own <= red
    assert others <= expected
