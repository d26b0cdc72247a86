"""What is kept of a machine that has booted: its key, and what happens where libvirt or the disk fails.

libvirt is a stand-in here; tests/integration/vms/test_saved.py restores a real machine.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import vms
from vms import home, host, process, saved, vagrant
from vms.boxes import Box
from vms.deadline import Deadline
from vms.errors import VmsError

FACTS = {
    "box_sha256": "ab",
    "kernel_image": "/k",
    "command_line": "quiet",
    "accelerator": "tcg",
    "memory_mib": 512,
    "cpus": 1,
    "console": "/c",
    "pool_directory": "/p",
    "port": 1234,
    "boots": 1,
}
DOMAIN_XML = "<arg value='user,hostfwd=tcp:127.0.0.1:49909-10.0.3.15:22'/><source path='/1-2'/>"


def finished(output: bytes, exit_code: int = 0) -> process.Finished:
    """Return how a program ended."""
    return process.Finished(("it",), exit_code, output, b"error: no" if exit_code else b"", 0.0)


class Libvirt:
    """virsh that notes what it is asked, and fails at one verb."""

    def __init__(self, fails: str = "") -> None:
        self.asked: list[str] = []
        self.fails = fails

    def virsh(self, verb: str, *arguments: str, limit_s: float = 30.0) -> process.Finished:
        """Do as virsh does to the files."""
        del limit_s
        self.asked.append(verb)
        if verb == self.fails:
            return finished(b"", exit_code=1)
        if verb == "save":
            Path(arguments[1]).write_text("memory")
        return finished(DOMAIN_XML.encode())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> saved.Machine:
    """A machine with a disk and what Vagrant notes."""
    monkeypatch.setattr(home, "root", lambda: tmp_path / "home")
    (tmp_path / "disk.img").write_text("disk")
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots/id").write_text("uuid")
    return saved.Machine("m", "vms-m", tmp_path / "disk.img", tmp_path / "dots")


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Libvirt]:
    """Stand in for libvirt, which fails at the verb given."""

    def stand_in(fails: str = "") -> Libvirt:
        made = Libvirt(fails)
        monkeypatch.setattr(host, "virsh", made.virsh)
        return made

    return stand_in


def place(**changes: object) -> Path:
    """Return where a machine of these facts is kept."""
    given = {"base": "box_1.img", "vagrantfile": "v"} | {
        key: str(changes.pop(key)) for key in ("base", "vagrantfile") if key in changes
    }
    return saved.place("m", FACTS | changes, **given).directory


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "other") for key in ("box_sha256", "kernel_image", "command_line", "console", "base")),
        *((key, "other") for key in ("vagrantfile", "pool_directory", "accelerator")),
        ("memory_mib", 1024),
        ("cpus", 2),
    ],
)
def test_another_machine_has_another_place(
    machine: saved.Machine, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    """Whatever the guest could tell it by; a port and how often it took to boot are none of that."""
    del machine
    monkeypatch.setattr(process, "check", lambda *_, **__: finished(b"QEMU 7.2"))
    assert place() == place(port=4321, boots=2)
    assert place(**{key: value}) != place()


def test_another_qemu_has_another_place(machine: saved.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not read what the one before it wrote."""
    del machine
    found = []
    for version in (b"QEMU 7.2", b"QEMU 8.0"):
        answer = finished(version)
        monkeypatch.setattr(process, "check", lambda *_, answer=answer, **__: answer)
        found.append(place())
    assert found[0] != found[1]


def test_it_is_kept_and_goes_on(
    machine: saved.Machine, libvirt: Callable[[str], Libvirt], tmp_path: Path
) -> None:
    """What was kept of it before, under another key, goes away; that of another machine stays."""
    virsh = libvirt("")
    kept = saved.Kept(tmp_path / f"saved/m-{'1' * 16}")
    others = [tmp_path / f"saved/{name}-{'2' * 16}" for name in ("m", "m-too")]
    for other in others:
        other.mkdir(parents=True)
    saved.keep(machine, kept)
    assert virsh.asked == ["save", "restore"]
    assert {path.name for path in kept.directory.iterdir()} == {"memory", "disk", "dotfiles", "sha256sums"}
    assert [other.exists() for other in others] == [False, True]
    assert [path.name for path in kept.directory.parent.glob(".*")] == []


@pytest.mark.parametrize(("fails", "asked"), [("save", ["save"]), ("restore", ["save", "restore"])])
def test_half_of_it_is_not_kept(
    machine: saved.Machine, libvirt: Callable[[str], Libvirt], tmp_path: Path, fails: str, asked: list[str]
) -> None:
    """Nor is what was there lost."""
    virsh = libvirt(fails)
    kept = saved.Kept(tmp_path / f"saved/m-{'1' * 16}")
    before = tmp_path / f"saved/m-{'2' * 16}"
    before.mkdir(parents=True)
    with pytest.raises(VmsError, match=f"virsh {fails}: error: no"):
        saved.keep(machine, kept)
    assert virsh.asked == asked
    assert [path.name for path in kept.directory.parent.iterdir()] == [before.name]


def test_what_a_run_that_was_killed_left_goes(
    machine: saved.Machine, libvirt: Callable[[str], Libvirt], tmp_path: Path
) -> None:
    """Hundreds of MB under any of its keys; another machine's may be in the making."""
    libvirt("")
    left = [tmp_path / f"saved/.{name}-{'2' * 16}.new" for name in ("m", "m-too")]
    for path in left:
        path.mkdir(parents=True)
        (path / "memory").touch()
    saved.keep(machine, saved.Kept(tmp_path / f"saved/m-{'1' * 16}"))
    assert [path.exists() for path in left] == [False, True]


def test_a_full_disk_does_not_stop_it(
    machine: saved.Machine, libvirt: Callable[[str], Libvirt], tmp_path: Path
) -> None:
    """It goes on, and is not kept."""
    virsh = libvirt("")
    machine.disk.unlink()
    with pytest.raises(FileNotFoundError):
        saved.keep(machine, saved.Kept(tmp_path / f"saved/m-{'1' * 16}"))
    assert virsh.asked == ["save", "restore"]


def test_it_is_restored_on_another_port(
    machine: saved.Machine, libvirt: Callable[[str], Libvirt], tmp_path: Path
) -> None:
    """With its disk and Vagrant's notes in place, and nothing else of the domain changed."""
    virsh = libvirt("")
    kept = saved.Kept(tmp_path / f"saved/m-{'1' * 16}")
    saved.keep(machine, kept)
    machine.disk.write_text("changed since")
    saved.restore(machine, kept, port=777)
    assert virsh.asked[2:] == ["save-image-dumpxml", "list", "define", "restore"]
    assert machine.disk.read_text() == "disk"
    assert (machine.dotfiles / "id").read_text() == "uuid"
    assert (kept.directory / "domain.xml").read_text() == DOMAIN_XML.replace("49909", "777")


@pytest.mark.parametrize("name", ["memory", "disk", "dotfiles/id", "dotfiles/more", "sha256sums"])
def test_what_has_changed_since_is_not_restored(
    machine: saved.Machine, libvirt: Callable[[str], Libvirt], tmp_path: Path, name: str
) -> None:
    """The report would name the box's digest, and something else would run; its own record may be what has changed."""
    virsh = libvirt("")
    kept = saved.Kept(tmp_path / f"saved/m-{'1' * 16}")
    saved.keep(machine, kept)
    (kept.directory / name).write_bytes(b"another\xff")

    with pytest.raises(
        VmsError, match=f"changed since it was kept: .*{'' if name == 'sha256sums' else name}"
    ):
        saved.restore(machine, kept, port=777)
    assert virsh.asked == ["save", "restore"]


@pytest.mark.parametrize("name", ["memory", "disk", "sha256sums"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_machine_that_has_changed_is_booted(
    machine: saved.Machine,
    libvirt: Callable[[str], Libvirt],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    gone: bool,
) -> None:
    """What was kept is forgotten, and one line says why."""
    libvirt("")
    kept = saved.Kept(tmp_path / f"saved/m-{'1' * 16}")
    saved.keep(machine, kept)
    (kept.directory / name).unlink() if gone else (kept.directory / name).write_bytes(b"another")
    destroyed, reported = list[object](), list[str]()
    monkeypatch.setattr(home, "machine", lambda _: tmp_path)
    monkeypatch.setattr(vagrant, "_declare", lambda *_: {"port": 777})
    monkeypatch.setattr(vagrant, "_place", lambda *_: kept)
    monkeypatch.setattr(vagrant, "destroy", destroyed.append)
    box = Box(name="b", directory=tmp_path, archive=tmp_path, sha256="")

    up = vagrant._restore(
        vms.read("debian12-selinux"), box, "tcg", report=reported.append, deadline=Deadline.after(60)
    )

    assert (up, kept.is_there, len(destroyed)) == (False, False, 1)
    (line,) = reported
    assert line.startswith("what was kept of debian12-selinux is of no use, so it is booted: ")
    assert name in line or name == saved.RECORD
    assert "\n" not in line


def test_what_is_forgotten_is_not_there(tmp_path: Path) -> None:
    """And may be forgotten twice."""
    kept = saved.Kept(tmp_path / "saved")
    kept.directory.mkdir()
    assert kept.is_there
    kept.forget()
    kept.forget()
    assert not kept.is_there
