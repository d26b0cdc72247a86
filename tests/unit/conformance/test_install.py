"""What goes into a guest follows the guest: its Python decides the wheels, and whether there is a locald at all."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance import inputs, install
from tests.unit.conformance.samples import make_wheel
from tests.unit.vms.fakes import FakeGuest, answer, make_profile

WHEELS = "asked-for"


class Guest(FakeGuest):
    """Tells a version of Python, and keeps what is pushed."""

    def __init__(self, python: str) -> None:
        # Only who has an interpreter is asked for its version first.
        first = [answer(0, b"3.13\n")] if python else []
        super().__init__(
            dataclasses.replace(make_profile(), python=python), *first, answer(0, b"something\n")
        )
        self.pushed: dict[str, bytes] = {}

    def push(self, source: Path | bytes, target: str, *, user: str = "root", mode: int = 0o644) -> None:
        """Keep the files of the stage."""
        del target, user, mode
        assert isinstance(source, Path)
        self.pushed = {
            str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()
        }

    @property
    def scripts(self) -> str:
        """Everything that was run."""
        return "\n".join(str(word) for command, _, _ in self.asked for word in command)


@pytest.fixture(autouse=True)
def _made_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compile and download nothing; a download leaves the version that it was for."""

    def compiled(source: Path, target: Path, **_: Any) -> Path:
        del source
        target.write_bytes(b"program")
        return target

    def downloaded(wheel: Path, directory: Path, python: str) -> Path:
        del wheel, directory
        (tmp_path / WHEELS).mkdir()
        (tmp_path / WHEELS / python).write_bytes(b"")
        return tmp_path / WHEELS

    monkeypatch.setattr(inputs, "compile_static", compiled)
    monkeypatch.setattr(inputs, "download_wheels", downloaded)


def put(guest: Guest, tmp_path: Path) -> Mapping[str, str]:
    """Install a wheel."""
    wheel = tmp_path / "locald.whl"
    wheel.write_bytes(make_wheel())
    return install.install(guest, install.Product(wheel, None), tmp_path, ("plain",), debian=False)


def test_wheels_are_those_of_the_guests_python(tmp_path: Path) -> None:
    """Its own interpreter is asked, and is the one that makes the environment."""
    guest = Guest("/usr/bin/python3.13")

    put(guest, tmp_path)

    assert "wheels/3.13" in guest.pushed
    assert "shim" not in guest.pushed
    assert "/usr/bin/python3.13 -m venv" in guest.scripts


def test_every_worker_has_a_home(tmp_path: Path) -> None:
    """Of each user, however many workers a run will have: a test without one is red as if the product were."""
    guest = Guest("")
    wheel = tmp_path / "locald.whl"
    wheel.write_bytes(make_wheel())

    product = install.Product(wheel, None)
    install.install(guest, product, tmp_path, ("plain",), debian=False, workers=12)

    homes = [line for line in guest.scripts.splitlines() if "/homes/plain-" in line]
    assert [line.rpartition("-")[2] for line in homes] == [
        *("main", "shared"),
        *(f"gw{number}" for number in range(12)),
    ]


def test_a_guest_without_a_python_gets_the_shim(tmp_path: Path) -> None:
    """That of the wheel, setuid, with a policy; nothing of locald is run or asked."""
    guest = Guest("")

    put(guest, tmp_path)

    assert guest.pushed["shim"] != b""
    assert not any(name.startswith("wheels") for name in guest.pushed)
    assert "install -o root -g root -m 4755" in guest.scripts
    assert "allow-user = plain" in guest.scripts
    assert "venv" not in guest.scripts
    assert "admin" not in guest.scripts


def test_a_registry_shares_the_blobs_of_a_layout(tmp_path: Path) -> None:
    """Only those that both have; what the registry alone has stays its own."""
    layout, storage = tmp_path / "layout" / "blobs" / "sha256", tmp_path / "storage"
    layout.mkdir(parents=True)
    for name in ("aa1", "bb2"):
        (layout / name).write_text(name)
    for name in ("aa1", "cc3"):
        data = storage / inputs.STORED / name[:2] / name / "data"
        data.parent.mkdir(parents=True)
        data.write_text(name)

    inputs.share_blobs(tmp_path / "layout", storage)

    shared, own = (storage / inputs.STORED / name[:2] / name / "data" for name in ("aa1", "cc3"))
    assert shared.samefile(layout / "aa1")
    assert own.read_text() == "cc3"


def test_what_was_used_last_is_kept(tmp_path: Path) -> None:
    """As many of a kind as are wanted at once; another kind is not counted."""
    made = [tmp_path / f"wheels-{number}" for number in range(inputs.KEPT + 2)]
    for age, directory in enumerate([*made, tmp_path / "registry-image"]):
        (directory / "some").mkdir(parents=True)
        os.utime(directory, (age, age))

    inputs.keep_newest(made[0], "wheels-*")

    gone = {directory.name for directory in made if not directory.exists()}
    assert gone == {"wheels-1", "wheels-2"}
    assert (tmp_path / "registry-image").exists()


def test_what_is_installed_is_what_was_told(tmp_path: Path) -> None:
    """Also after another run has built its wheel, or its shim, in the same place."""
    wheel, shim, own = tmp_path / "locald.whl", tmp_path / "shim", tmp_path / "own"
    wheel.write_bytes(make_wheel(b"of this run"))
    shim.write_bytes(b"shim of this run")
    own.mkdir()
    told = install.Product(wheel, shim).describe()

    product = install.Product(wheel, shim).copy_to(own)
    wheel.write_bytes(make_wheel(b"of another"))
    shim.write_bytes(b"of another")
    guest = Guest("")
    install.install(guest, product, tmp_path, ("plain",), debian=False)

    assert product.describe() == told
    assert guest.pushed["shim"] == b"shim of this run"
    assert install.Product(wheel, None).copy_to(tmp_path).shim is None
