"""One case for each rule of the security manual: an attack, what must come of it, and a benign twin.

A case is a function that asserts what the rule protects. test_rules.py runs it three times: on the program that
users get, on the mutant build as it is (both must hold), and on that build with the rule switched off (must not).
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.shim.harness import MODES, Bundle, Call, Mode, Run

# The modules that register cases.
CHAPTERS = ("entry", "attributes", "bundle", "spec", "mounts", "limits", "life", "verbs", "bind", "policy")
Step = Callable[[Run], None]
Change = Callable[[Run, Bundle], Call | None]


@dataclass(frozen=True)
class Case:
    """One rule, attacked."""

    rule: str  # a name of shim/src/rules.rs
    modes: tuple[Mode, ...]
    check: Step
    twin: Step | None
    # Why there is no build in which this turns red; empty where there is one.
    unbreakable: str = ""
    label: str = ""  # tells the cases of one rule apart
    code: str = ""  # with which it is refused; empty where a value is forced

    @property
    def id(self) -> str:
        """The case's name in a report."""
        return f"{self.rule}:{self.label}" if self.label else self.rule


CASES: list[Case] = []


def forced(
    rule: str,
    *,
    modes: tuple[Mode, ...] = MODES,
    twin: Step | None = None,
    unbreakable: str = "",
    label: str = "",
) -> Callable[[Step], Step]:
    """Register a function that asserts a forced value, or whatever else the rule protects."""

    def register(check: Step) -> Step:
        CASES.append(Case(rule, modes, check, twin, unbreakable, label))
        return check

    return register


def refusal(
    rule: str,
    code: str,
    change: Change,
    twin: Change | None = None,
    *,
    modes: tuple[Mode, ...] = MODES,
    label: str = "",
) -> None:
    """Register a bundle that must be refused with `code`, and one like it that must run."""

    def check(run: Run) -> None:
        bundle = run.bundle("true")
        run.refused(bundle, code, change(run, bundle))

    def run_twin(run: Run) -> None:
        bundle = run.bundle("true")
        call = twin(run, bundle) if twin is not None else None
        result = run.shim.run(bundle, call)
        assert result.status == 0, result

    CASES.append(Case(rule, modes, check, run_twin, "", label, code))
