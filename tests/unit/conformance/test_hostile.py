"""Who carries an attack out: every one in each mode, and both users among them."""

import dataclasses

import pytest

from conformance.hostile import USERS, Corner, Hostile
from conformance.runtimes import MODES, Mode
from conformance.subject import Subject

HOSTILE = Hostile(Subject.__new__(Subject))


def test_a_single_attack_is_carried_out_in_every_corner() -> None:
    """By each user in each mode."""
    assert HOSTILE.turns("only") == [(Corner(mode, user), "only") for mode in MODES for user in USERS]


@pytest.mark.parametrize("modes", [MODES, ("direct",)])
def test_of_several_attacks_each_is_carried_out_in_each_mode(modes: tuple[Mode, ...]) -> None:
    """The users take turns, and no mode has one of them alone."""
    asked = dataclasses.replace(HOSTILE, modes=modes).turns("first", "second", "third")

    assert sorted((attack, corner.mode) for corner, attack in asked) == sorted(
        (attack, mode) for attack in ("first", "second", "third") for mode in modes
    )
    assert {(corner.mode, corner.user) for corner, _ in asked} == {
        (mode, user) for mode in modes for user in USERS
    }
