"""The packages of a box are chosen once; afterwards nobody is asked, and every byte is compared."""

from pathlib import Path
from typing import Any

import pytest

from vms import debs
from vms.errors import BoxError


class Apt:
    """Stands for apt-get and dpkg-deb: fetches two files, and counts."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, *command: str, env: Any = None) -> str:
        """Run."""
        self.commands.append(command)
        if command[0] == "apt-get" and "install" in command:
            place = Path(env["APT_CONFIG"]).parent
            for name in ("a", "b"):
                (place / "archives" / f"{name}_1_all.deb").write_bytes(name.encode())
        if command[:2] == ("dpkg-deb", "--show"):
            return f"{Path(command[-1]).name.partition('_')[0]}\n1\nall\n"
        return f"Package: {command[-1]}\n" if command[0] == "dpkg-deb" else ""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    """Return the stand-in, with a home of its own."""
    monkeypatch.setenv("LOCALD_VMS_HOME", str(tmp_path))
    return Apt()


def choose(apt: Apt, **changes: Any) -> tuple[debs.Deb, ...]:
    """Choose the packages of a box."""
    asked: dict[str, Any] = {"name": "some", "suite": "bookworm", "wanted": ("a",), "epoch": 1} | changes
    return debs.find_or_choose(**asked, run=apt)


def test_what_was_chosen_stays_chosen(apt: Apt) -> None:
    """The mirror is asked once, however often a box is built; another wish or epoch asks again."""
    first = choose(apt)
    asked = len(apt.commands)

    assert [(deb.name, deb.version) for deb in first] == [("a", "1"), ("b", "1")]
    assert choose(apt) == first
    assert len(apt.commands) == asked
    choose(apt, epoch=2)
    assert len(apt.commands) > asked


def test_only_signed_archives_of_the_suite_are_asked(apt: Apt) -> None:
    """Not the sources of the machine; the release, its updates and its security updates."""
    seen = []

    def look(*command: str, env: Any = None) -> str:
        if command[0] == "apt-get":
            seen.append((Path(env["APT_CONFIG"]).parent / "etc/sources.list").read_text().splitlines())
        return apt(*command, env=env)

    choose(look)  # type: ignore[arg-type]

    assert [line.split()[3] for line in seen[0]] == ["bookworm", "bookworm-updates", "bookworm-security"]
    assert all(f"signed-by={debs.KEYRING}" in line for line in seen[0])


def test_a_kept_file_that_changed_or_went_is_named(apt: Apt) -> None:
    """By package and version, with what mends it."""
    first, second = choose(apt)
    first.path.write_bytes(b"other")
    with pytest.raises(BoxError, match="is not the a 1 that was recorded"):
        choose(apt)
    first.path.write_bytes(b"a")
    second.path.unlink()
    with pytest.raises(BoxError, match="no such file") as caught:
        choose(apt)
    assert "rm " in caught.value.hint


def test_a_choice_that_fails_leaves_no_record(apt: Apt, tmp_path: Path) -> None:
    """A half one would be taken for the whole at the next build."""

    def fail(*command: str, env: Any = None) -> str:
        if "install" in command:
            raise BoxError("no network")
        return apt(*command, env=env)

    with pytest.raises(BoxError, match="no network"):
        choose(fail)  # type: ignore[arg-type]
    assert list((tmp_path / "locks").iterdir()) == []
    assert len(choose(apt)) == 2


def test_what_a_choice_that_was_killed_left_goes(apt: Apt) -> None:
    """Its lists and packages, before the next choice; what was chosen stays."""
    first, _ = choose(apt)
    left = debs.store() / ".choosing-abc"
    (left / "archives").mkdir(parents=True)
    choose(apt, epoch=2)
    assert (left.exists(), first.path.exists()) == (False, True)


def test_the_archive_of_a_build_has_these_packages_only(apt: Apt, tmp_path: Path) -> None:
    """With their hashes, and an index whose own hash is in the Release file."""
    chosen = choose(apt)

    line = debs.make_archive(chosen, "bookworm", tmp_path / "archive", apt)

    index = (tmp_path / "archive/Packages").read_text()
    assert line == f"deb [trusted=yes] copy:{tmp_path}/archive ./"
    assert [part.removeprefix("SHA256: ") for part in index.splitlines() if part.startswith("SHA256")] == [
        deb.sha256 for deb in chosen
    ]
    assert "Codename: bookworm\n" in (tmp_path / "archive/Release").read_text()
