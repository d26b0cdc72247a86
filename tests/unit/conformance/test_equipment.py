"""A guest has all that its clauses need, whoever runs them."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

import vms
from conformance import equipment, install, oracle, preconditions, session
from conformance.controls import __main__ as controls
from conformance.measure import guest as measured
from conformance.measure import hosts, shim
from conformance.measure.guest import Counted
from conformance.planted import Judged, Planted

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


@pytest.mark.parametrize("module", [session, controls, hosts])
def test_nobody_installs_by_other_ways(module: ModuleType) -> None:
    """Whatever one of them forgets, its clauses would be an error on the host that needs it."""
    text = inspect.getsource(module)
    assert "equip(" in text
    assert not [
        name for name in ("install.install(", "oracle.install(") if name in text.replace("peers.", "")
    ]


def test_a_measured_guest_has_podmans_images(
    installed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clauses compare with podman too; what was counted before the installation is not lost."""
    program = tmp_path / "shim"
    program.write_bytes(b"counts")

    @contextlib.contextmanager
    def booted(_name: str, **_: object) -> Iterator[vms.Guest]:
        yield GUEST

    def read(_counted: Counted, _root: Path, trace: Path) -> int:
        trace.write_text("")
        return 1

    monkeypatch.setattr(vms, "booted", booted)
    monkeypatch.setattr(hosts, "require_own_wheel", lambda _wheel: None)
    monkeypatch.setattr(hosts, "measure_counters", len)
    monkeypatch.setattr(shim, "build_counting_shim", lambda _target: program)
    monkeypatch.setattr(shim, "read_lines", lambda *_: "")
    monkeypatch.setattr(preconditions, "prove", lambda _guest: ())
    monkeypatch.setattr(install, "ask_version", lambda _guest: "3.11")
    monkeypatch.setattr("conformance.inputs.download", lambda *_: None)
    monkeypatch.setattr(measured, "prepare", lambda *_: installed.append("counters"))
    monkeypatch.setattr(measured, "plant", lambda *_: installed.append("planted"))
    monkeypatch.setattr(measured, "gather", lambda _guest: Counted(b"", (), 2))
    monkeypatch.setattr(measured, "read_lines", read)
    monkeypatch.setattr(Planted, "run", lambda _machine, _glob: Judged({"REF-001": "PASS"}))
    asked = SimpleNamespace(
        wheel=tmp_path / "x.whl", kit_cache=tmp_path / "cache", jobs=2, directory=tmp_path, clause="REF-*"
    )

    facts = hosts.measure_clauses(
        "reference", tmp_path / "trace.info", cast("Any", asked), ("REF-001",), lambda _line: None
    )

    product = install.Product(asked.wheel, program)
    assert installed == [
        "counters",
        (product, False, 2),
        ("oracle", "reference", asked.kit_cache),
        "planted",
    ]
    assert facts == {
        "clauses": 1,
        "red": [],
        "not_run": {},
        "errors": [],
        "pythons_began": 2,
        "pythons_told": 1,
    }
