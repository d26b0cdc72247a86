"""What the machine needs can be asked with nothing but a Python, and is said precisely."""

import subprocess
import sys
from pathlib import Path

import pytest

from vms import home, host
from vms.errors import HostNotReady

pytestmark = pytest.mark.spawns

ROOT = Path(__file__).parents[3]


def test_the_list_of_packages_needs_no_other_package() -> None:
    """`ci/nox` asks before anything is installed: -S leaves out every site directory."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "vms", "host", "packages"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )

    assert done.stdout.split() == sorted(host.packages())
    assert "vagrant-libvirt" in done.stdout.split()


def test_what_is_missing_is_one_line_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every package at once."""
    monkeypatch.setattr(host, "missing_packages", lambda: ("qemu-utils", "vagrant"))

    with pytest.raises(HostNotReady) as caught:
        host.require()

    assert caught.value.hint == "apt-get install --no-install-recommends qemu-utils vagrant"


def test_the_home_follows_one_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And two homes never share a name in libvirt."""
    monkeypatch.delenv(home.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home.root() == tmp_path / "locald-vms"
    first = home.tag()

    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "elsewhere"))

    assert home.root() == tmp_path / "elsewhere"
    assert home.tag() != first
