"""Finding the shim: by the installation's record, by the file itself, and by what it says."""

import os
import stat
from pathlib import Path

import pytest

from locald import __version__, shim
from locald.errors import LocaldError
from locald.errors.shim import ShimError, ShimMissing
from locald.process import Output

GOOD = (
    '{"protocol":1,"kernel":"6.1.0","setuid":true,"modes":{"mapped":{"allowed":false,"code":"host.userns-limit",'
    '"why":"none are left"},"direct":{"allowed":true,"code":null,"why":null}},"policy":{"allowed":true,"code":null,'
    '"why":null},"subids":{"uids":65536,"gids":0},"cgroup":"unified","limits":{"memory":{"allowed":'
    'true,"code":null,"why":null},"cpu":{"allowed":false,"code":"resources.controller","why":"not here"}},'
    '"effective":{"modes":["direct"],"bind-ports":[80],"bind-addresses":["::1"],"max-containers":5,"min-shim":null}}\n'
)
ALLOWED = '"policy":{"allowed":true,"code":null'
DENIED = '"policy":{"allowed":false,"code":"shim.policy"'
OLD = '"policy":{"allowed":false,"code":"shim.outdated"'


class FakeStatus:
    """An lstat(2) answer for a shim in perfect order, changed where a test says so."""

    def __init__(self, **changed: int) -> None:
        self.st_mode = changed.get("st_mode", stat.S_IFREG | 0o4755)
        self.st_uid = changed.get("st_uid", 0)
        self.st_nlink = changed.get("st_nlink", 1)


class FakeFileSystem:
    """A statvfs(2) answer."""

    def __init__(self, flags: int) -> None:
        self.f_flag = flags


@pytest.fixture
def installation(tmp_path: Path) -> shim.Installation:
    """An installation in a directory with a space in its name."""
    return shim.Installation(command=f"{tmp_path}/my bin/locald", shim=f"{tmp_path}/my bin/locald-shim")


def look(
    monkeypatch: pytest.MonkeyPatch, installation: shim.Installation, *, flags: int = 0, **changed: int
) -> str:
    """Return what `find_shim` says of a file with this status."""
    monkeypatch.setattr(os, "lstat", lambda _path: FakeStatus(**changed))
    monkeypatch.setattr(os, "statvfs", lambda _path: FakeFileSystem(flags))
    return shim.find_shim(installation)


def test_a_shim_in_order_is_found(monkeypatch: pytest.MonkeyPatch, installation: shim.Installation) -> None:
    """4755 and stricter modes."""
    assert look(monkeypatch, installation) == installation.shim
    assert look(monkeypatch, installation, st_mode=stat.S_IFREG | 0o4511) == installation.shim


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("shim.missing", {"st_mode": stat.S_IFLNK | 0o4755}),
        ("shim.missing", {"st_mode": stat.S_IFIFO | 0o4755}),
        ("shim.not-setuid", {"st_mode": stat.S_IFREG | 0o755}),
        ("shim.not-setuid", {"st_mode": stat.S_IFREG | 0o755, "st_uid": 1000, "st_nlink": 2}),
        ("shim.owner", {"st_uid": 1000}),
        ("shim.writable", {"st_mode": stat.S_IFREG | 0o4775}),
        ("shim.writable", {"st_mode": stat.S_IFREG | 0o4757, "st_nlink": 2}),
        ("shim.linked", {"st_nlink": 2}),
        ("shim.nosuid", {"flags": os.ST_NOSUID}),
    ],
)
def test_each_fault_has_its_code_and_its_mend(
    monkeypatch: pytest.MonkeyPatch, installation: shim.Installation, code: str, changed: dict[str, int]
) -> None:
    """And the command that mends it names `locald` by its absolute path, quoted for a shell."""
    flags = changed.pop("flags", 0)
    with pytest.raises(ShimError) as caught:
        look(monkeypatch, installation, flags=flags, **changed)
    assert caught.value.code == code
    if code not in {"shim.missing", "shim.nosuid"}:
        assert caught.value.hint == f"Run: sudo '{installation.command}' admin setup"
        assert caught.value.setup == ["sudo", installation.command, "admin", "setup"]


def test_a_missing_file_is_missing(installation: shim.Installation) -> None:
    """The record names it, and somebody removed it."""
    with pytest.raises(ShimMissing):
        shim.find_shim(installation)


def write_record(place: Path, *lines: str, version: str = __version__) -> str:
    """Make an installed package whose RECORD has these lines; return the package's directory."""
    (place / "locald").mkdir(parents=True)
    information = place / f"locald-{version}.dist-info"
    information.mkdir()
    (information / "RECORD").write_text("".join(f"{line}\n" for line in lines))
    return str(place / "locald")


def test_the_record_says_where(tmp_path: Path) -> None:
    """Relative names as pip and uv write them, whatever PATH, cwd and argv[0] are."""
    place = tmp_path / "lib/python3.11/site-packages"
    package = write_record(
        place,
        "../../../bin/locald,sha256=x,12",
        '"../../../bin/locald-shim",sha256=y,34',
        "locald/shim.py,sha256=z,5",
        "locald/data/locald-shim.txt,,",
    )
    found = shim.find_installation(package)
    assert found == (f"{tmp_path}/bin/locald", f"{tmp_path}/bin/locald-shim")


@pytest.mark.parametrize(
    "lines", [(), ("../../../bin/locald,,",), ("../../../bin/locald-shim,,",), ("nonsense", "", ",,,")]
)
def test_a_record_without_both_programs_is_no_installation(tmp_path: Path, lines: tuple[str, ...]) -> None:
    """Nothing is guessed."""
    package = write_record(tmp_path / "lib/python3.11/site-packages", *lines)
    with pytest.raises(ShimMissing):
        shim.find_installation(package)


def test_another_versions_record_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted upgrade left, nor what PYTHONPATH holds."""
    decoy = tmp_path / "decoy"
    write_record(decoy, "bin/locald,,", "bin/locald-shim,,")
    monkeypatch.syspath_prepend(str(decoy))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "nowhere"))
    package = write_record(tmp_path / "real", "bin/locald,,", "bin/locald-shim,,", version="0.0.1")
    with pytest.raises(ShimMissing):
        shim.find_installation(package)


def answer(monkeypatch: pytest.MonkeyPatch, **said: str) -> None:
    """Let the shim answer its verbs with these texts."""

    def fake_capture(argv: list[str], **_options: object) -> Output:
        return Output(argv, 0 if said.get(argv[1]) else 1, said.get(argv[1], "").encode(), b"no\n")

    monkeypatch.setattr(shim, "capture", fake_capture)
    monkeypatch.setattr(shim, "find_shim", lambda installation: installation.shim)


def test_what_the_shim_allows_is_read(
    monkeypatch: pytest.MonkeyPatch, installation: shim.Installation
) -> None:
    """Modes with their codes, and the numbers of subordinate ids."""
    answer(monkeypatch, check=GOOD)
    found = shim.ask_abilities(installation)
    assert found.mode("direct").allowed
    assert found.mode("mapped") == (False, "host.userns-limit", "none are left")
    assert (found.subordinate_uids, found.subordinate_gids) == (65536, 0)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"check": GOOD.replace('"protocol":1', '"protocol":2')}, "shim.outdated"),
        ({"version": '{"version":"9","protocol":9}'}, "shim.outdated"),
        ({"check": "nonsense", "version": "[]"}, "shim.outdated"),
        ({"check": GOOD.replace("subids", "other")}, "shim.outdated"),
        ({"version": '{"version":"0.1.0","protocol":1}'}, "program.failed"),
        (
            {
                "check": GOOD.replace(
                    '"policy":{"allowed":true,"code":null', '"policy":{"allowed":false,"code":"shim.policy"'
                )
            },
            "shim.policy",
        ),
        (
            {
                "check": GOOD.replace(
                    '"policy":{"allowed":true,"code":null', '"policy":{"allowed":false,"code":"shim.outdated"'
                )
            },
            "shim.outdated",
        ),
    ],
)
def test_what_the_shim_refuses_has_a_code(
    monkeypatch: pytest.MonkeyPatch, installation: shim.Installation, said: dict[str, str], code: str
) -> None:
    """Another protocol, no answer, a policy that says no."""
    answer(monkeypatch, **said)
    with pytest.raises(LocaldError) as caught:
        shim.ask_abilities(installation)
    assert caught.value.code == code
