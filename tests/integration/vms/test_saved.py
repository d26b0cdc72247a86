"""A machine that was kept after its boot comes back: by marker `vm`, with real machines."""

import time

import pytest

import vms
from vms import home

NAME = "debian12-userns-max0"

pytestmark = pytest.mark.vm


def up(*, cold: bool = False) -> tuple[list[str], dict[str, str]]:
    """Bring the machine up, prove it, take it away; return what was reported and what it says of itself."""
    reported: list[str] = []
    vms.up(NAME, report=reported.append, cold=cold)
    try:
        guest = vms.connect(NAME)
        proof = vms.prove(guest)
        assert proof.in_force, proof.missing
        told = float(guest.succeed(["date", "+%s"], user="root").text)
        assert abs(time.time() - told) < 30
        # Vagrant still knows it as its own, and nothing of the run before is on it.
        guest.succeed(["touch", "/root/was-here"], user="root")
        return reported, dict(guest.identity)
    finally:
        vms.destroy(NAME)
        assert vms.status(NAME) == "down"


def test_a_boot_is_restored_the_next_time() -> None:
    """With its facts in force, the right time, and without what was done on it; a broken one is booted again."""
    _, booted = up(cold=True)
    assert "restored" not in booted
    reported, restored = up()
    assert reported[-1].startswith(f"{NAME} restored in "), reported
    assert booted | {"boot_s": "", "restored": ""} == restored | {"boot_s": "", "restored": ""}
    (kept,) = (home.root() / "saved").glob(f"{NAME}-*")
    (kept / "memory").write_bytes(b"no memory of anything")
    reported, again = up()
    assert "is of no use, so it is booted" in reported[0]
    assert "restored" not in again
    assert up()[0][-1].startswith(f"{NAME} restored in ")
