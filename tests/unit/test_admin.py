"""The set-up: whom it lets in, what it keeps, and where it refuses before it touches anything."""

import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from locald import admin, shim
from locald.errors import ProgramFailed
from locald.errors.admin import (
    PolicyForeign,
    SetupGroupUnknown,
    SetupPlaceRefused,
    SetupShimOlder,
    SetupUserMissing,
    SetupUserUnknown,
)
from locald.policy import Account, MinShim

ANN = Account(1000, "ann")
DEV = Account(50, "dev")
WISHES = admin.Wishes([ANN], [])


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
    assert admin.find_users(("1234",), None) == [Account(1234, "1234")]


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


def test_groups_are_those_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name or number, a number without a name too; root's is not let in (`admin.group-unknown`)."""
    table = {
        "dev": SimpleNamespace(gr_name="dev", gr_gid=50),
        "root": SimpleNamespace(gr_name="root", gr_gid=0),
    }
    by_number = {50: table["dev"], 0: table["root"]}
    fake = SimpleNamespace(getgrnam=table.__getitem__, getgrgid=by_number.__getitem__)
    monkeypatch.setattr(admin, "grp", fake)
    assert admin.find_groups(("dev", "50", "77")) == [DEV, DEV, Account(77, "77")]
    for name in ("root", "0", "nobody-here", "4294967295", "-1", ""):
        with pytest.raises(SetupGroupUnknown):
            admin.find_groups((name,))


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
        admin.set_up(installation, WISHES, policy=policy)
    monkeypatch.setattr(admin, "file_system_of", lambda _device: "fuse.sshfs")
    with pytest.raises(SetupPlaceRefused, match="sshfs"):
        admin.set_up(installation, WISHES, policy=policy)
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((0,) * 8 + (os.ST_NOSUID, 255)))
    with pytest.raises(SetupPlaceRefused, match="nosuid"):
        admin.set_up(installation, WISHES, policy=policy)
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


def test_a_prefix_that_others_can_write_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By whom, what he can do and what not, and what to do on a shared host; root's own needs no word."""
    installation = prepared(tmp_path, monkeypatch)
    place = os.path.dirname(installation.shim)
    for writers, named in (
        ([1000], "ann"),
        ([-1], "several users"),
        ([-1, 1000, 1234], "several users, ann, 1234"),
    ):
        monkeypatch.setattr(admin, "writers_of", lambda _path, writers=writers: writers)
        *_, said = admin.set_up(installation, WISHES, policy=str(tmp_path / "policy"))
        assert said == (
            f"{place} can be changed by {named}: who owns it can remove the shim, or keep this version of it after an "
            "upgrade, but can neither change it nor make another one setuid. `min-shim` in the policy turns kept ones "
            "off. On a shared host install into a prefix of root's, such as /opt/locald."
        )
    monkeypatch.setattr(admin, "writers_of", lambda _path: [])
    assert len(admin.set_up(installation, WISHES, policy=str(tmp_path / "policy"))) == 2


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str = "0.2.0") -> shim.Installation:
    """Return an installation whose shim says that it is of `version`, and installs itself without a word."""
    as_roots(monkeypatch)
    program = tmp_path / "locald-shim"
    program.write_text("")
    monkeypatch.setattr(admin, "file_system_of", lambda _device: "ext4")
    monkeypatch.setattr(shim, "read_version", lambda _path: {"version": version})
    monkeypatch.setattr(shim, "run_install", lambda _path: {"installed": "there", "build": "b"})
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        # The directory of the policy seems to be root's.
        fields = list(real(path))
        fields[4] = 0
        return os.stat_result(fields)

    monkeypatch.setattr(os, "lstat", lstat)
    return shim.Installation(str(tmp_path / "locald"), str(program))


def test_the_set_up_raises_the_minimum_and_says_the_same_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users, groups and the version of the shim that is there; a second run changes no byte."""
    installation = prepared(tmp_path, monkeypatch)
    policy = tmp_path / "etc" / "policy"
    wishes = admin.Wishes([ANN], [DEV])
    said = admin.set_up(installation, wishes, policy=str(policy))
    assert "ann (uid 1000), group dev (gid 50)" in said[1]
    text = policy.read_text()
    assert text.endswith("allow-user = 1000  # ann\nallow-group = 50  # dev\nmin-shim = 0.2.0\n")
    again = admin.set_up(installation, wishes, policy=str(policy))
    assert "already lets in" in again[1]
    assert policy.read_text() == text


def test_an_older_shim_is_not_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`admin.min-shim`, before anything is touched; the flag that lowers it is named, and works."""
    installation = prepared(tmp_path, monkeypatch)
    policy = tmp_path / "policy"
    policy.write_text("version = 1\nallow-user = 1000\nmin-shim = 0.3.0\n")
    policy.chmod(0o644)

    def installed(_path: str) -> dict[str, object]:
        raise AssertionError("the shim was installed")

    monkeypatch.setattr(shim, "run_install", installed)
    hows: list[MinShim] = ["raise", "keep"]
    for how in hows:
        with pytest.raises(SetupShimOlder) as refusal:
            admin.set_up(installation, admin.Wishes([ANN], [], how), policy=str(policy))
        assert refusal.value.hint.endswith("admin setup --lower-min-shim")
    assert "0.3.0" in policy.read_text()
    monkeypatch.setattr(shim, "run_install", lambda _path: {})
    admin.set_up(installation, admin.Wishes([ANN], [], "lower"), policy=str(policy))
    assert policy.read_text() == "version = 1\nallow-user = 1000\nmin-shim = 0.2.0\n"


@pytest.mark.parametrize("answer", [None, {}, {"version": 1}, {"version": "dev"}])
def test_a_shim_without_a_version_is_not_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, object] | None
) -> None:
    """`program.failed`, before anything is changed."""
    installation = prepared(tmp_path, monkeypatch)
    monkeypatch.setattr(shim, "read_version", lambda _path: answer)
    with pytest.raises(ProgramFailed, match="no version"):
        admin.set_up(installation, WISHES, policy=str(tmp_path / "policy"))
    assert not (tmp_path / "policy").exists()


class Crash(BaseException):
    """The power goes."""


STEPS = ("open", "fchmod", "fsync", "rename")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_the_old_policy_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """And the next set-up makes the new one, whatever lies beside it."""
    installation = prepared(tmp_path, monkeypatch)
    policy = tmp_path / "policy"
    old = "version = 1\nallow-user = 5\n"
    policy.write_text(old)
    policy.chmod(0o644)
    real = getattr(os, step)

    def crash(*arguments: object, **options: object) -> object:
        if step == "open" and not re.search(r"policy\.[0-9a-f]{16}$", str(arguments[0])):
            return real(*arguments, **options)
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(os, step, crash)
        # Nobody cleans up after a power cut.
        broken.setattr(os, "unlink", lambda _path: None)
        with pytest.raises(Crash):
            admin.set_up(installation, WISHES, policy=str(policy))
    assert policy.read_text() == old
    admin.set_up(installation, WISHES, policy=str(policy))
    assert policy.read_text() == old + "allow-user = 1000  # ann\nmin-shim = 0.2.0\n"
    assert stat.S_IMODE(policy.stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locald-shim", "policy", "policy.lock"]
