"""A guest has all that its clauses need, whoever runs them."""

import inspect
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

import vms
from conformance import equipment, install, oracle, session
from conformance.controls import __main__ as controls
from conformance.measure import __main__ as measure

GUEST = cast("vms.Guest", SimpleNamespace(profile=vms.read("reference")))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was put into a guest, and how."""
    done: list[Any] = []

    def put(_guest: vms.Guest, product: install.Product, *_: object, **more: Any) -> dict[str, str]:
        done.append((product, more["debian"], more["workers"]))
        return {"guest_kernel": "6"}

    def put_oracle(guest: vms.Guest, cache: Path) -> dict[str, str]:
        done.append(("oracle", guest.profile.name, cache))
        return {"oracle_version": "podman"}

    monkeypatch.setattr(install, "install", put)
    monkeypatch.setattr(oracle, "install", put_oracle)
    return done


def test_the_product_and_the_oracle_go_in(installed: list[Any]) -> None:
    """And a large image where a clause needs it."""
    product, cache = install.Product(Path("a.whl"), None), Path("cache")

    assert equipment.equip(GUEST, product, cache, ["AB-001"], workers=2) == {
        "guest_kernel": "6",
        "oracle_version": "podman",
    }
    equipment.equip(GUEST, product, cache, [install.BIG_CLAUSES[0]], workers=3)
    asked = ("oracle", "reference", cache)
    assert installed == [(product, False, 2), asked, (product, True, 3), asked]


@pytest.mark.parametrize("module", [session, controls, measure])
def test_nobody_installs_by_other_ways(module: ModuleType) -> None:
    """Whatever one of them forgets, its clauses would be an error on the host that needs it."""
    text = inspect.getsource(module)
    assert "equip(" in text
    assert not [
        name for name in ("install.install(", "oracle.install(") if name in text.replace("peers.", "")
    ]
