"""What of a machine a run must leave as it found it: a setuid file is seen wherever a caller could have it left."""

import os
from pathlib import Path

import pytest

from conformance import look, subject


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A directory of programs and a home, searched instead of the machine's."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    monkeypatch.setattr(look, "PROGRAMS", (str(programs),))
    monkeypatch.setattr(look, "SCRATCH", (str(home),))
    return programs, home


def place(path: Path, mode: int = 0o4755, text: str = "program") -> Path:
    """Make a file with this mode."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_only_setuid_and_setgid_files_count(trees: tuple[Path, Path]) -> None:
    """A program for all, and a directory whose group is inherited, are nothing."""
    programs, _ = trees
    place(programs / "plain", 0o755)
    (programs / "inherits").mkdir(mode=0o755)
    (programs / "inherits").chmod(0o2755)
    place(programs / "group", 0o2755)

    assert [line.split()[0] for line in look.find_setuid()] == [str(programs / "group")]


def test_the_same_size_is_not_the_same_program(trees: tuple[Path, Path]) -> None:
    """Its content is part of what is compared."""
    program = place(trees[0] / "sudo", text="before")
    before = look.find_setuid()
    place(program, text="after!")

    assert look.find_setuid() != before


def test_in_a_home_only_what_is_roots(trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's setuid files are its owner's: they change from run to run."""
    left = place(trees[1] / "left" / "shell")

    monkeypatch.setattr(look, "ROOT", os.geteuid())
    assert [line.split()[0] for line in look.find_setuid()] == [str(left)]
    monkeypatch.setattr(look, "ROOT", os.geteuid() + 1)
    assert look.find_setuid() == []


def test_the_homes_that_the_clauses_run_in_are_searched() -> None:
    """Nobody uses the accounts' own: what root leaves, he leaves there, and it counts only because it is root's."""
    assert any(Path(subject.HOME).is_relative_to(top) for top in look.SCRATCH)
    assert not any(Path(subject.HOME).is_relative_to(top) for top in look.PROGRAMS)
