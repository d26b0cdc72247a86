"""Which mode a run gets, and the names a container has."""

from types import SimpleNamespace

import pytest

from locald import runtime, shim
from locald.errors.shim import (
    KernelTooOld,
    ModeNotAllowed,
    SubordinateIdsMissing,
    UserNamespacesDenied,
    UserNamespacesExhausted,
)
from locald.host import Host

FINE = shim.Mode(allowed=True, code=None, why=None)
LIMIT = shim.Mode(allowed=False, code="host.userns-limit", why="none are left")
ODD = shim.Mode(allowed=False, code="host.new", why="something new")
HOST = Host(1000, 1000, "ann", "/home/ann", "machine", b"", b"")


def choose(
    asked: str,
    *,
    mapped: shim.Mode = FINE,
    direct: shim.Mode = FINE,
    ids: int = 65536,
    x: int = 0,
    owners: tuple[int, ...] = (0,),
) -> tuple[str, str]:
    """Return the mode and why it is direct."""
    image = SimpleNamespace(owner_uids=owners, owner_gids=owners)
    abilities = shim.Abilities("6.1", mapped, direct, ids, ids, "unified")
    return runtime.make_mode(asked, abilities, image, "ann", caller=(x, x))  # type: ignore[arg-type]


def test_auto_is_mapped_where_that_works() -> None:
    """Also without subordinate ids, for an image of one owner."""
    assert choose("auto") == ("mapped", "")
    assert choose("auto", ids=0) == ("mapped", "")
    assert choose("auto", ids=0, x=999, owners=(999,)) == ("mapped", "")


def test_auto_is_direct_elsewhere_and_says_why() -> None:
    """No user namespaces, or too few ids for the image's owners."""
    assert choose("auto", mapped=LIMIT) == ("direct", "none are left")
    assert choose("auto", ids=33, owners=(0, 33))[0] == "mapped"
    mode, why = choose("auto", ids=32, owners=(0, 33))
    assert (mode, "33 subordinate ids and you have 32" in why) == ("direct", True)
    assert choose("auto", ids=0, x=999)[0] == "direct"


def test_what_is_asked_for_is_not_exchanged() -> None:
    """A mode that does not work is refused with the shim's own code."""
    assert choose("direct") == ("direct", "")
    with pytest.raises(UserNamespacesExhausted):
        choose("mapped", mapped=LIMIT)
    with pytest.raises(UserNamespacesDenied):
        choose("mapped", mapped=ODD)
    with pytest.raises(SubordinateIdsMissing):
        choose("mapped", ids=0, owners=(0, 33))
    with pytest.raises(ModeNotAllowed):
        choose("direct", direct=LIMIT)
    with pytest.raises(UserNamespacesExhausted):
        choose("auto", mapped=LIMIT, direct=ODD)


@pytest.mark.parametrize("asked", ["auto", "mapped", "direct"])
def test_a_kernel_that_is_too_old_is_said_as_such(asked: str) -> None:
    """In the words of `check` on Debian 11; the other mode is no way out, and is not named as one."""
    old = shim.Mode(allowed=False, code="host.kernel-old", why="this kernel is older than 5.12")

    with pytest.raises(KernelTooOld, match=r"older than 5\.12") as caught:
        choose(asked, mapped=old, direct=old)
    assert "5.12" in caught.value.hint
    assert "--mode" not in caught.value.hint


@pytest.mark.parametrize(
    ("network", "name", "host", "expected"),
    [
        ("host", "box", "machine", "machine"),
        ("none", "box", "machine", "box"),
        ("none", None, "machine", "locald"),
        ("host", None, "maschine-ä", "localhost"),
        ("host", None, "x" * 65, "localhost"),
    ],
)
def test_the_host_name_is_podmans(network: str, name: str | None, host: str, expected: str) -> None:
    """The host's with its network, else the container's; what no host name can hold is left out."""
    request = runtime.Request("image", name=name, network=network)
    assert runtime.make_hostname(request, HOST._replace(hostname=host)) == expected
