"""What the machine needs can be asked with nothing but a Python, and is said precisely."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vms import home, host, local, process
from vms.errors import HostNotReady
from vms.process import Finished

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


@pytest.mark.parametrize("kind", [host, local], ids=lambda kind: kind.__name__)
def test_programs_of_root_are_found_without_roots_path(
    kind: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Root after `su` without `-` has the $PATH of a user."""
    program = tmp_path / "only-roots"
    program.touch(mode=0o755)
    monkeypatch.setattr(kind, "PROGRAMS", {"only-roots": "some", "never-there": "other"})
    monkeypatch.setattr(host, "PARTS", {})
    monkeypatch.setattr(process, "ROOTS_DIRECTORIES", (str(tmp_path),))

    assert kind.missing_packages() == ("other",)


def test_vagrants_keys_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package has put them; one that is not there is said, not guessed."""
    listed = Finished(("dpkg",), 0, b"/x/keys\n/x/keys/vagrant.pub\n/x/keys/vagrant\n", b"", 0.1)
    monkeypatch.setattr(process, "run", lambda *_, **__: listed)

    assert host.find_vagrant_key("vagrant") == Path("/x/keys/vagrant")
    assert host.find_vagrant_key("vagrant.pub") == Path("/x/keys/vagrant.pub")
    with pytest.raises(HostNotReady, match=r"keys/vagrant\.old"):
        host.find_vagrant_key("vagrant.old")


def test_the_home_follows_one_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And two homes never share a name in libvirt."""
    monkeypatch.delenv(home.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home.root() == tmp_path / "locald-vms"
    first = home.tag()

    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "elsewhere"))

    assert home.root() == tmp_path / "elsewhere"
    assert home.tag() != first
