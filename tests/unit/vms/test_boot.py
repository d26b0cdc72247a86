"""The boot of a machine: tried once more, and said, if the first try does not reach ssh. Vagrant is a stand-in."""

from pathlib import Path

import pytest

import vms
from vms import home, host, process, vagrant
from vms.boxes import Box
from vms.deadline import Deadline
from vms.errors import BootError, CommandTimedOut, VmsError


class Boots:
    """Vagrant that fails so often, and notes what is done."""

    def __init__(self, failures: int, directory: Path) -> None:
        self.failures, self.done = failures, list[str]()
        self.directory = directory

    def declare(self, *arguments: object) -> dict[str, object]:
        """Number the attempt."""
        self.done.append(f"declare {arguments[-1]}")
        return {"boots": arguments[-1]}

    def boot(self, *_: object) -> None:
        """Fail, or not."""
        self.done.append("boot")
        (self.directory / "console").write_text("Kernel panic\n")
        if self.failures:
            self.failures -= 1
            raise VmsError("ssh does not answer")

    def destroy(self, *_: object) -> None:
        """Take away what there is."""
        self.done.append("destroy")


def boot(
    monkeypatch: pytest.MonkeyPatch, directory: Path, failures: int, limit_s: float = 60
) -> tuple[list[str], list[str], str]:
    """Boot; return what was done, what was reported, and what the caller was told at the end."""
    boots, reported = Boots(failures, directory), list[str]()
    monkeypatch.setattr(vagrant, "_declare", boots.declare)
    monkeypatch.setattr(vagrant, "_boot", boots.boot)
    monkeypatch.setattr(vagrant, "_keep", lambda *_, **__: None)
    monkeypatch.setattr(vagrant, "_greet", lambda *_: None)
    monkeypatch.setattr(vagrant, "destroy", boots.destroy)
    monkeypatch.setattr(home, "machine", lambda _: directory)
    box = Box(name="b", directory=directory, archive=directory, sha256="")
    try:
        vagrant._up(
            vms.read("debian12-selinux"), box, "tcg", report=reported.append, deadline=Deadline.after(limit_s)
        )
    except BootError as error:
        return boots.done, reported, str(error)
    return boots.done, reported, ""


def test_the_login_key_is_whole_or_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty one would be taken for the key ever after; ssh wants it private."""
    key = tmp_path / "vagrant"
    monkeypatch.setattr(home, "root", lambda: tmp_path / "home")
    monkeypatch.setattr(host, "find_vagrant_key", lambda _: key)
    (tmp_path / "home").mkdir()

    with pytest.raises(FileNotFoundError):
        vagrant._login_key()
    key.write_bytes(b"secret")
    with monkeypatch.context() as full:
        full.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="no space"):
            vagrant._login_key()
    assert list((tmp_path / "home").iterdir()) == []

    made = vagrant._login_key()
    key.unlink()

    assert vagrant._login_key() == made
    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (b"secret", 0o600)
    assert list((tmp_path / "home").iterdir()) == [made]


def refuse(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError("no space")


def test_a_vagrant_that_hangs_is_shown_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it said last is there, and nowhere else."""

    def run(*_: object, log: Path, **__: object) -> None:
        with log.open("a") as file:
            file.write("==> m: Waiting for domain to get an IP address...\n")
        raise CommandTimedOut(["vagrant", "up"], 480.0)

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(vagrant.BoundedVagrant, "_make_vagrant_command", lambda *_: ["vagrant", "up"])

    with pytest.raises(VmsError, match=r"(?s)killed after 480.0 s: vagrant up\n.*an IP address\.\.\.$"):
        vagrant.BoundedVagrant(tmp_path)._call_vagrant_command(["up"])


def test_a_boot_that_succeeds_is_the_only_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its time."""
    done, (line,), error = boot(monkeypatch, tmp_path, 0)
    assert (done, error) == (["declare 1", "boot"], "")
    assert line.startswith("debian12-selinux booted in ")


def test_a_boot_that_fails_is_repeated_once_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is left of the first is taken away; the number of boots is in the machine's facts."""
    done, reported, error = boot(monkeypatch, tmp_path, 1)
    assert (done, error) == (["declare 1", "boot", "destroy", "declare 2", "boot"], "")
    assert reported[0].startswith("the first boot failed and is repeated once: ssh does not answer")
    assert "Kernel panic" in reported[0]
    assert '"boots": 2' in (tmp_path / "machine.json").read_text()


def test_two_boots_that_fail_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a third; the message has the console's last lines, and no machine stays."""
    done, _, error = boot(monkeypatch, tmp_path, 9)
    assert done == ["declare 1", "boot", "destroy", "declare 2", "boot", "destroy"]
    assert error.startswith("debian12-selinux did not come up: ssh does not answer\nconsole:\nKernel panic")


def test_no_boot_is_repeated_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limit is for both."""
    done, _, error = boot(monkeypatch, tmp_path, 1, limit_s=0)
    assert (done, error != "") == (["declare 1", "boot", "destroy"], True)
