"""What noxfile.py says to whom it cannot serve: what is missing, who has to run it, what was not reached; a line each.

nox itself is a stand-in: the environment of the session `tests` has none.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NoReturn, Protocol, cast

import pytest

ROOT = Path(__file__).resolve().parents[3]


class Ended(Exception):
    """The session ended with this line."""


class CommandFailed(Exception):
    """A program ended with another status than 0."""


class Session:
    """A session that is called `tests` and runs nothing."""

    name = "tests"

    def error(self, line: str) -> NoReturn:
        """End it."""
        raise Ended(line)


class Noxfile(Protocol):
    """What is tested of noxfile.py."""

    PACKAGES: Path
    require_programs: Callable[..., None]
    require_root: Callable[[Session], None]
    needs_network: Callable[[Session, str, str], AbstractContextManager[None]]
    install_groups: Callable[..., None]


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> Noxfile:
    """The noxfile of this tree."""
    nox = ModuleType("nox")
    vars(nox).update(
        options=SimpleNamespace(),
        session=lambda **_options: lambda function: function,
        command=SimpleNamespace(CommandFailed=CommandFailed),
        Session=Session,
    )
    monkeypatch.setitem(sys.modules, "nox", nox)
    spec = importlib.util.spec_from_file_location("noxfile_under_test", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Noxfile", module)


@pytest.fixture
def machine(noxfile: Noxfile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory of programs that is all of PATH, and two package lists."""
    lists = tmp_path / "packages"
    lists.mkdir()
    (lists / "base.txt").write_text("# all sessions\npresent-pkg present-tool # why\nlibrary-pkg -\n\n")
    (lists / "tests.txt").write_text("zulu-pkg zulu-tool\nalpha-pkg alpha-tool\nalpha-pkg alpha-tool\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("present-tool", "cargo"):
        add(programs, name)
    monkeypatch.setattr(noxfile, "PACKAGES", lists)
    monkeypatch.setenv("PATH", str(programs))
    return programs


def add(programs: Path, name: str) -> None:
    """Make a program."""
    (programs / name).touch(mode=0o755)


def test_all_that_is_missing_is_named_at_once(noxfile: Noxfile, machine: Path) -> None:
    """Each program once, with its package, and the command that brings them; libraries are the package manager's."""
    with pytest.raises(Ended) as ended:
        noxfile.require_programs(Session(), "base", "tests")
    assert str(ended.value) == (
        "missing: alpha-tool (Debian: alpha-pkg), zulu-tool (Debian: zulu-pkg). "
        "`ci/nox -s tests` installs system packages."
    )
    (machine / "cargo").unlink()
    with pytest.raises(Ended, match=r"cargo \(https://rustup\.rs; ci/nox brings Debian's\)"):
        noxfile.require_programs(Session(), "base")


def test_a_machine_that_has_all_is_left_alone(noxfile: Noxfile, machine: Path) -> None:
    """So is one that lacks only what the session can do without."""
    noxfile.require_programs(Session(), "base")
    add(machine, "alpha-tool")
    noxfile.require_programs(Session(), "base", "tests", optional=("zulu-tool",))
    add(machine, "zulu-tool")
    noxfile.require_programs(Session(), "base", "tests")


def test_the_lists_of_this_tree_are_found(noxfile: Noxfile) -> None:
    """The default is ci/packages, which ci/nox reads too."""
    assert noxfile.PACKAGES == ROOT / "ci/packages"


def test_who_is_not_root_is_told_the_command(noxfile: Noxfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is told nothing."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Ended, match=r"^this session needs root: sudo ci/nox -s tests$"):
        noxfile.require_root(Session())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    noxfile.require_root(Session())


def test_what_was_not_reached_is_named(noxfile: Noxfile) -> None:
    """Where a program failed that needs the network; whatever else goes wrong is not taken for it."""
    with (
        pytest.raises(Ended, match=r"^it failed: see above, and whether the crate registry can be reached$"),
        noxfile.needs_network(Session(), "it failed", "crate registry"),
    ):
        raise CommandFailed
    with pytest.raises(ZeroDivisionError), noxfile.needs_network(Session(), "it failed", "crate registry"):
        _ = 1 / 0


def test_without_uv_nothing_is_installed(noxfile: Noxfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the line says how to have it."""
    monkeypatch.setattr(noxfile, "find_uv", lambda: None)
    with pytest.raises(Ended, match=r"^uv is missing: `pip install uv`, or let ci/nox bring it$"):
        noxfile.install_groups(Session(), "dev")
