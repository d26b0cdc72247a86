"""The set-up: whom it lets in, what it keeps, and where it refuses before it touches anything."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from locald import admin, shim
from locald.errors.admin import PolicyForeign, SetupPlaceRefused, SetupUserMissing, SetupUserUnknown

ANN = admin.Account(1000, "ann")
BOB = admin.Account(1001, "bob")


class Entry:
    """A passwd entry."""

    def __init__(self, name: str, uid: int) -> None:
        self.pw_name, self.pw_uid = name, uid


@pytest.fixture(autouse=True)
def _people(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has root and ann."""
    known = [Entry("root", 0), Entry("ann", 1000)]

    def find(key: object) -> Entry:
        return next(entry for entry in known if key in {entry.pw_name, entry.pw_uid})

    def by_key(key: object) -> Entry:
        try:
            return find(key)
        except StopIteration:
            raise KeyError(key) from None

    monkeypatch.setattr(admin, "pwd", SimpleNamespace(getpwnam=by_key, getpwuid=by_key))


def test_whoever_called_sudo_is_let_in() -> None:
    """Unless others are named."""
    assert admin.find_users((), "1000") == [ANN]
    assert admin.find_users(("ann", "1000"), "5") == [ANN, ANN]
    assert admin.find_users(("1234",), None) == [admin.Account(1234, "1234")]


@pytest.mark.parametrize("sudo_uid", [None, "0"])
def test_root_must_say_for_whom(sudo_uid: str | None) -> None:
    """`admin.no-user`."""
    with pytest.raises(SetupUserMissing):
        admin.find_users((), sudo_uid)


@pytest.mark.parametrize("name", ["root", "0", "nobody-here", "4294967295", "-1", ""])
def test_strangers_and_root_are_not_let_in(name: str) -> None:
    """`admin.user-unknown`."""
    with pytest.raises(SetupUserUnknown):
        admin.find_users((name,), None)


def test_a_policy_is_made_and_only_added_to() -> None:
    """Once for each user, by number or by name; what is there stays, byte for byte."""
    made = admin.add_users("", [ANN])
    assert made.endswith("version = 1\nallow-user = 1000  # ann\n")
    assert admin.add_users(made, [ANN]) == made
    own = "# mine\nversion=1\nallow-user = ann # she\nmax-containers = 3"
    assert admin.add_users(own, [ANN]) == own
    assert admin.add_users(own, [ANN, BOB]) == own + "\nallow-user = 1001  # bob\n"


@pytest.mark.parametrize(
    "content",
    [
        b"version = 2\n",
        b"allow-user = 1\n",
        b"version = 1\nversion = 1\n",
        b"x\n",
        b"a = b\n",
        b"\xff",
        b"#" * 65537,
    ],
)
def test_a_policy_that_nobody_understands_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """`admin.policy`."""
    policy = tmp_path / "policy"
    policy.write_bytes(content)
    as_roots(monkeypatch)
    with pytest.raises(PolicyForeign):
        admin.read_policy(str(policy))
    assert policy.read_bytes() == content


def as_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files seem to be root's, whoever runs the test."""
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[4] = 0
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)


def test_a_policy_that_others_can_write_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a link, a FIFO, a directory; none is not an error."""
    as_roots(monkeypatch)
    (tmp_path / "loose").write_text("version = 1\n")
    (tmp_path / "loose").chmod(0o666)
    (tmp_path / "link").symlink_to("loose")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("loose", "link", "directory", "fifo"):
        with pytest.raises(PolicyForeign):
            admin.read_policy(str(tmp_path / name))
    assert admin.read_policy(str(tmp_path / "none")) == ""


def test_places_without_setuid_are_refused_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nosuid mounts and network file systems: the shim is not started, the policy not written."""
    program = tmp_path / "locald-shim"
    program.write_text("")
    installation = shim.Installation(str(tmp_path / "locald"), str(program))

    def started(_path: str) -> dict[str, object]:
        raise AssertionError("the shim was started")

    monkeypatch.setattr(shim, "run_install", started)
    policy = str(tmp_path / "policy")
    monkeypatch.setattr(admin, "file_system_of", lambda _device: "nfs4")
    with pytest.raises(SetupPlaceRefused, match="nfs4"):
        admin.set_up(installation, [ANN], policy=policy)
    monkeypatch.setattr(admin, "file_system_of", lambda _device: "fuse.sshfs")
    with pytest.raises(SetupPlaceRefused, match="sshfs"):
        admin.set_up(installation, [ANN], policy=policy)
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((0,) * 8 + (os.ST_NOSUID, 255)))
    with pytest.raises(SetupPlaceRefused, match="nosuid"):
        admin.set_up(installation, [ANN], policy=policy)
    assert os.listdir(tmp_path) == ["locald-shim"]


def test_the_type_of_a_file_system_is_read_from_mountinfo(tmp_path: Path) -> None:
    """By device number; optional fields in between; none if no mount has it."""
    table = tmp_path / "mountinfo"
    table.write_text("22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n30 22 0:44 / /n rw - nfs4 host:/x rw\n")
    assert admin.file_system_of(os.makedev(0, 44), str(table)) == "nfs4"
    assert admin.file_system_of(os.makedev(8, 1), str(table)) == "ext4"
    assert admin.file_system_of(os.makedev(9, 9), str(table)) == ""


def test_a_prefix_that_a_user_can_change_is_named(tmp_path: Path) -> None:
    """Every directory on the way counts, a sticky one does not."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin").chmod(0o777)
    found = admin.writers_of(str(tmp_path / "bin/locald-shim"))
    assert found
    assert stat.S_ISDIR((tmp_path / "bin").stat().st_mode)
