"""Each rule of the security manual holds, and its case notices when it does not."""

import importlib

import pytest

from tests.shim.cases import CASES, CHAPTERS, Case
from tests.shim.harness import MUTANT_VARIABLE, Caller, Mode, Run, Shim, Workshop

for _chapter in CHAPTERS:
    importlib.import_module(f"tests.shim.cases.{_chapter}")

EACH = [pytest.param(case, mode, id=f"{case.id}-{mode}") for case in CASES for mode in case.modes]
TWINS = [each for each in EACH if each.values[0].twin is not None]  # type: ignore[union-attr]
BREAKABLE = [each for each in EACH if not each.values[0].unbreakable]  # type: ignore[union-attr]


def test_every_number_has_a_case() -> None:
    """From 1 to 55."""
    assert {int(case.rule.split("-")[0]) for case in CASES} == set(range(1, 56))


@pytest.mark.parametrize(("case", "mode"), EACH)
def test_rule(case: Case, mode: Mode, shim: Shim, workshop: Workshop, caller: Caller) -> None:
    """The program that users get, called by each of the two users."""
    case.check(Run(shim, workshop, mode, caller))


@pytest.mark.parametrize(("case", "mode"), TWINS)
def test_twin(case: Case, mode: Mode, shim: Shim, workshop: Workshop, caller: Caller) -> None:
    """What looks like the attack and is none works."""
    assert case.twin is not None
    case.twin(Run(shim, workshop, mode, caller))


@pytest.mark.parametrize(("case", "mode"), BREAKABLE)
def test_case_notices_a_mutant(
    case: Case, mode: Mode, mutant: Shim, workshop: Workshop, callers: dict[str, Caller]
) -> None:
    """The same case holds on the mutant build, and turns red there once its rule is switched off."""
    run = Run(mutant, workshop, mode, callers["locald-a"])
    case.check(run)
    with pytest.raises(AssertionError):
        case.check(run.without(case.rule))


def test_what_users_get_has_no_switch(shim: Shim) -> None:
    """The release program does not hold the variable's name."""
    assert MUTANT_VARIABLE.encode() not in shim.path.read_bytes()
