"""A machine that runs is never taken for one that is down, and one run has it at a time. libvirt is a stand-in."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vms
from vms import boxes, home, host, process, saved, vagrant
from vms.deadline import Deadline
from vms.errors import CommandTimedOut, HostNotReady, InUse, VmsError

NAME = "debian12-selinux"
DOMAIN = f"vms-tag-{NAME}"


class Libvirt:
    """A libvirt that answers once it was started, and has one domain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.answering, self.starts = "running", False, True
        self.fails: Exception | None = None
        self.launched = 0
        monkeypatch.setattr(host, "require", lambda: None)
        monkeypatch.setattr(host, "answers", lambda: self.answering)
        monkeypatch.setattr(host, "_launch", self.launch)
        monkeypatch.setattr(host, "virsh", self.virsh)

    def launch(self) -> None:
        """Start, or not."""
        self.launched += 1
        if not self.starts:
            raise HostNotReady("libvirtd does not answer")
        self.answering = True

    def virsh(self, *words: str, limit_s: float = 30.0) -> process.Finished:
        """List, as virsh does: the active domains unless told otherwise."""
        del limit_s
        if self.fails:
            raise self.fails
        if not self.answering:
            return process.Finished(("virsh",), 1, b"", b"error: no connection", 0.0)
        shown = {"--state-running": self.state == "running", "--all": True}
        listed = shown.get(words[-1], self.state in ("running", "paused"))
        said = DOMAIN if words[0] == "list" and listed else ""
        return process.Finished(("virsh",), 0, said.encode(), b"", 0.0)


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Libvirt:
    """Stand in for libvirt, in a home of its own."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path))
    monkeypatch.setattr(home, "tag", lambda: "tag")
    return Libvirt(monkeypatch)


def write_facts() -> Path:
    """Have a machine that was brought up."""
    facts = home.machine(NAME) / "machine.json"
    facts.write_text(json.dumps({"boots": 1}))
    return facts


def test_a_machine_outlives_its_libvirt(libvirt: Libvirt) -> None:
    """After `vms host stop` it is up still, and libvirt is started to say so."""
    write_facts()
    assert vms.status(NAME) == "up"
    assert libvirt.launched == 1
    libvirt.state = "shut off"
    assert vms.status(NAME) == "down"
    assert libvirt.launched == 1


def test_nobody_is_asked_about_a_machine_that_never_was(libvirt: Libvirt) -> None:
    """Nothing is started for it."""
    assert vms.status(NAME) == "down"
    assert libvirt.launched == 0


@pytest.mark.parametrize("fault", ["no start", "no time", "no list"])
def test_a_libvirt_that_does_not_say_is_an_error(
    libvirt: Libvirt, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never down: `up` leaves the machine's facts and disk as they are, and takes nothing away."""
    facts = write_facts()
    before = facts.read_text()
    libvirt.starts = fault != "no start"
    if fault == "no time":
        libvirt.fails = CommandTimedOut(["virsh", "list"], 30.0)
    if fault == "no list":
        monkeypatch.setattr(host, "answers", lambda: True)
    monkeypatch.setattr(vagrant, "up", forbid)
    monkeypatch.setattr(vagrant, "destroy", forbid)
    for ask in (vms.status, vms.up):
        with pytest.raises(VmsError):
            ask(NAME)
    assert facts.read_text() == before


def forbid(*_: object, **__: object) -> None:
    """Stand for what must not be done."""
    raise AssertionError("it was done")


def test_a_machine_that_is_paused_is_left_alone(libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not up, and its disk is in use: neither is it brought up over that, nor taken away for having failed."""
    facts = write_facts()
    before = facts.read_text()
    libvirt.state = "paused"
    # Whatever `up` does before it asks may fail, and a failed `up` takes away what there is.
    monkeypatch.setattr(boxes, "find", forbid)
    monkeypatch.setattr(vagrant, "destroy", forbid)
    with pytest.raises(InUse, match=f"{NAME} is not off"):
        vms.up(NAME)
    assert facts.read_text() == before


@pytest.mark.parametrize("state", ["running", "paused"])
def test_nothing_is_restored_over_a_machine_that_is_not_off(
    libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    """Its disk and what was kept of it stay, whatever the caller took it for."""
    libvirt.answering, libvirt.state = True, state
    kept = saved.Kept(tmp_path / "kept")
    kept.directory.mkdir()
    (kept.directory / "memory").write_text("memory")
    disk = tmp_path / f"pool/{DOMAIN}.img"
    disk.parent.mkdir()
    disk.write_text("in use")
    monkeypatch.setattr(saved, "_verify", lambda _: None)
    monkeypatch.setattr(vagrant, "_declare", lambda *_: {"port": 777})
    monkeypatch.setattr(vagrant, "_place", lambda *_: kept)
    monkeypatch.setattr(vagrant, "destroy", forbid)
    box = boxes.Box(name="b", directory=tmp_path, archive=tmp_path, sha256="")
    with pytest.raises(InUse, match=f"{NAME} is not off"):
        vagrant._restore(vms.read(NAME), box, "tcg", report=forbid, deadline=Deadline.after(60))
    assert (disk.read_text(), kept.is_there) == ("in use", True)


def test_no_box_goes_while_libvirt_does_not_say_what_is_based_on_it(
    libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An error is not an empty list."""
    del libvirt
    monkeypatch.setattr(boxes, "prune", forbid)
    with pytest.raises(VmsError, match="does not list its domains: error: no connection"):
        vagrant._prune(boxes.Box(name="b", directory=tmp_path, archive=tmp_path, sha256=""))


def test_what_libvirt_does_not_say_is_gone_can_be_destroyed_again(
    libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its facts nobody would look for the machine any more."""
    facts = write_facts()
    monkeypatch.setattr(host, "missing_packages", lambda: ())
    monkeypatch.setattr(host, "start", lambda: None)
    libvirt.answering = False
    with pytest.raises(VmsError, match="does not list its domains"):
        vms.destroy(NAME)
    assert facts.exists()


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, for other processes as well."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path))
    return tmp_path


def hold_elsewhere(*, ending: str) -> subprocess.Popen[str]:
    """Have another process hold the machine, which then does as told; return it once it holds."""
    script = f"import sys, vms\nwith vms.hold('local'):\n    print('held', flush=True)\n    {ending}"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


@pytest.mark.spawns
@pytest.mark.usefixtures("own_home")
def test_a_machine_is_held_by_one_run() -> None:
    """The other is told at once, in one line, who has it; another machine is free, and this one is afterwards."""
    with hold_elsewhere(ending="sys.stdin.read()") as child:
        said = f"local is in use by another run (pid {child.pid})"
        for _ in range(2):
            with pytest.raises(InUse, match=f"^{re.escape(said)}$"), vms.hold("local"):
                forbid()
        with vms.hold(NAME):
            pass
        child.communicate("")
    with vms.hold("local"):
        pass


@pytest.mark.spawns
@pytest.mark.usefixtures("own_home")
def test_what_a_run_started_does_not_hold_its_machine() -> None:
    """A daemon that stays behind a run that was killed: it has none of its descriptors."""
    daemon = "subprocess.Popen(['sleep', '60'], close_fds=False).pid"
    start = f"import os, subprocess; print({daemon}, flush=True); os._exit(9)"
    with hold_elsewhere(ending=start) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.wait(10)
        try:
            with vms.hold("local"):
                assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        finally:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("own_home")
def test_a_machine_is_held_once_in_one_process() -> None:
    """And free again where the run failed; one that no profile declares cannot be held."""
    with vms.hold("local"), pytest.raises(InUse), vms.hold("local"):
        forbid()
    with pytest.raises(KeyError), vms.hold("local"):
        raise KeyError
    with vms.hold("local"):
        pass
    with pytest.raises(VmsError), vms.hold("no-such-profile"):
        forbid()
