"""testinfra's ssh command line, without its shell and with our limits. Needs the kit's packages."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.vms.fakes import make_profile
from vms import process, ssh
from vms.deadline import Deadline
from vms.errors import GuestLost, NoSuchUser
from vms.guest import Revertible
from vms.local import LocalGuest
from vms.process import Finished


class Snapshots:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.asked: list[str] = []

    def save(self) -> None:
        """Note."""
        self.asked.append("save")

    def revert(self) -> None:
        """Note."""
        self.asked.append("revert")


def make_guest(tmp_path: Path) -> ssh.SshGuest:
    """Return a guest behind an ssh configuration that nobody answers."""
    config = tmp_path / "config"
    config.write_text(ssh.make_config("fake", port=1, key=tmp_path / "key", sockets=tmp_path))
    return ssh.SshGuest(make_profile(), {}, config=config, sockets=tmp_path, snapshots=Snapshots())


def test_the_configuration_shares_connections_by_a_path(tmp_path: Path) -> None:
    """Without a path testinfra's sharing shares nothing: a second a command instead of a tenth."""
    text = ssh.make_config("name", port=2222, key=Path("/k"), sockets=tmp_path)

    assert text.splitlines()[0] == "Host name"
    assert f'ControlPath "{tmp_path}/name-%r"' in text
    assert "Port 2222" in text
    assert 'IdentityFile "/k"' in text


def test_a_line_reaches_ssh_as_one_argument(tmp_path: Path) -> None:
    """Whatever is in it: the controller has no shell that could read it."""
    line = b"printf '%s' \"$HOME\" \xff; exit 3 # %d %%"

    command = make_guest(tmp_path).backend("plain").make_command(line)

    assert command[0] == b"ssh"
    assert command[-1] == line
    assert b"User=plain" in command
    assert os.fsencode(tmp_path / "config") in command


@pytest.mark.spawns
def test_silence_after_the_deadline_is_a_lost_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging ssh is ended and is no verdict."""
    guest = make_guest(tmp_path)
    monkeypatch.setattr(ssh, "SLACK_S", 0.1)
    monkeypatch.setattr(ssh.BoundedSshBackend, "make_command", lambda *_: [b"sleep", b"60"])

    with pytest.raises(GuestLost, match="killed after"):
        guest.run(["true"], deadline=Deadline.after(0.2))


def test_a_broken_connection_is_a_lost_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ssh's 255 without the mark is ssh's, not the command's."""
    lost = Finished(("ssh",), 255, b"", b"Connection closed\r\n", 0.1)
    monkeypatch.setattr(process, "run", lambda *_, **__: lost)

    with pytest.raises(GuestLost, match="Connection closed"):
        make_guest(tmp_path).run(["true"])


def test_testinfras_modules_come_through_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit; where ssh fails, that is no answer of the guest either."""
    answers = [Finished(("ssh",), 0, b"0\n", b"", 0.1), Finished(("ssh",), 255, b"", b"reset\n", 0.1)]
    monkeypatch.setattr(process, "run", lambda *_, **__: answers.pop(0))
    view = make_guest(tmp_path).testinfra()

    assert view.check_output("id -u") == "0"
    with pytest.raises(GuestLost, match="ssh failed: reset"):
        view.check_output("id -u")


def test_users_are_checked_before_anything_is_asked(tmp_path: Path) -> None:
    """Nobody logs in under a name that the profile does not promise."""
    with pytest.raises(NoSuchUser):
        make_guest(tmp_path).run(["true"], user="stranger")


def test_a_virtual_machine_can_go_back_and_this_machine_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type says so; who has gone back forgets old connections and gets the time."""
    guest = make_guest(tmp_path)
    assert isinstance(guest, Revertible)
    assert not isinstance(LocalGuest(make_profile(), {}, holder=1), Revertible)
    (tmp_path / "fake-plain").touch()
    commands: list[list[bytes]] = []

    def run(command: Sequence[str | bytes], **_: object) -> Finished:
        commands.append([os.fsencode(word) for word in command])
        if b"-O" in commands[-1]:
            return Finished(("ssh",), 0, b"", b"", 0.1)
        mark = re.findall(rb"vms-[0-9a-f]{16}", commands[-1][-1])[0]
        return Finished(("ssh",), 0, b"", b"\n" + mark + b" 0\n", 0.1)

    monkeypatch.setattr(process, "run", run)
    guest.save()
    guest.revert()

    snapshots = guest._snapshots
    assert isinstance(snapshots, Snapshots)
    assert snapshots.asked == ["save", "revert"]
    assert not (tmp_path / "fake-plain").exists()
    assert commands[0][-3:] == [b"-O", b"exit", b"plain@fake"]
    assert b"date --utc --set=@" in commands[1][-1]
