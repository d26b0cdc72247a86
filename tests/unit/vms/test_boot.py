"""The boot of a machine: tried once more, and said, if the first try does not reach ssh. Vagrant is a stand-in."""

from pathlib import Path

import pytest

import vms
from vms import home, vagrant
from vms.boxes import Box
from vms.deadline import Deadline
from vms.errors import BootError, VmsError


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
