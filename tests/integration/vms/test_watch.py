"""A machine that stops being what its profile says while it is used: seen, also when all is put back.

ci/nox -s vms      # with the other tests that boot machines
"""

from collections.abc import Iterator

import pytest

import vms
from vms import watch

LIMIT = "/proc/sys/user/max_user_namespaces"
SWITCH = "/sys/fs/selinux/enforce"


@pytest.fixture(scope="module")
def machine() -> Iterator[vms.Guest]:
    """Boot a machine whose restriction is one sysctl."""
    with vms.booted("debian12-userns-max0") as up:
        yield up


@pytest.fixture
def guest(machine: vms.Guest) -> vms.Guest:
    """Return the machine as its profile says, with a watcher that has seen nothing yet."""
    machine.succeed(["sh", "-c", f"echo 0 > {LIMIT}; systemctl stop {watch.UNIT}"], user="root")
    watch.start(machine)
    assert missing(machine) == []
    return machine


def missing(guest: vms.Guest) -> list[str]:
    """Return the facts that do not hold."""
    return [piece.fact for piece in vms.prove(guest).missing]


def said(guest: vms.Guest) -> list[str]:
    """Return the lines of the watcher's log."""
    return guest.succeed(["cat", watch.LOG], user="root").stdout.decode().splitlines()


@pytest.mark.vm
def test_a_restriction_that_is_lifted(guest: vms.Guest) -> None:
    """For good: the facts see it. And put back: only the watcher does, and says which file."""
    guest.succeed(["sh", "-c", f"echo 15000 > {LIMIT}"], user="root")
    assert missing(guest) == ["limit", "plain-refused", "root-refused", "untouched"]

    guest.succeed(["sh", "-c", f"echo 0 > {LIMIT}"], user="root")
    proof = vms.prove(guest)
    assert [piece.fact for piece in proof.missing] == ["untouched"]
    assert f"{LIMIT} was written" in proof.missing[0].stdout


@pytest.mark.vm
def test_lifted_and_put_back_at_once(guest: vms.Guest) -> None:
    """Within one process, faster than any look: the write itself is seen. Reading is not."""
    guest.succeed(["cat", LIMIT], user="plain")
    assert missing(guest) == []

    guest.succeed(["sh", "-c", f"echo 1 > {LIMIT}; echo 0 > {LIMIT}"], user="root")
    assert missing(guest) == ["untouched"]


@pytest.mark.vm
def test_a_mount_that_was_changed(guest: vms.Guest) -> None:
    """Of a directory its options are watched: a change is seen, and stays in the log when it is undone."""
    place = "/run/watched"
    make = f"mkdir -p {place}; mount -t tmpfs -o nosuid none {place}; systemctl stop {watch.UNIT}"
    guest.succeed(["sh", "-c", make], user="root")
    watch.start(guest, (place,))

    for options in ("suid", "nosuid"):
        guest.succeed(["mount", "-o", f"remount,{options}", place], user="root")
        # It looks when the kernel tells of a change, and each second.
        found = ["grep", "-q", f"{place} changed", watch.LOG]
        guest.wait_until(found, user="root", deadline=vms.Deadline.after(30))
    assert missing(guest) == ["untouched"]


@pytest.mark.vm
def test_a_watcher_that_was_ended(guest: vms.Guest) -> None:
    """Nobody saw what happened afterwards, so nothing is proven."""
    guest.succeed(["systemctl", "stop", watch.UNIT], user="root")

    assert missing(guest) == ["untouched"]


@pytest.mark.vm
def test_the_switch_of_selinux() -> None:
    """It is a file like any other, also where what watches it is confined; the profiles of public boxes name it."""
    with vms.booted("debian12-selinux") as guest:
        watch.start(guest, (SWITCH,))
        guest.succeed(["cat", SWITCH], user="plain")
        assert said(guest) == ["watching"]

        guest.succeed(["sh", "-c", "setenforce 0; setenforce 1"], user="root")
        guest.wait_until(["grep", "-q", "written", watch.LOG], user="root", deadline=vms.Deadline.after(30))
        changes = said(guest)[1:]
    # One write or two, since the kernel joins two events that nobody has read yet; and what was read meanwhile.
    assert any(line.endswith(f"{SWITCH} was written") for line in changes)
    assert all(SWITCH in line for line in changes)
