"""The only runner of Vagrant: boots a profile's box, and takes it away to the last disk.

python-vagrant builds the command lines; here they get a deadline, an environment of their own and a
log, none of which it offers. A machine's whole state is in its directory: machine.json (what the
Vagrantfile reads), vagrant.log, console, ssh_config.
"""

import contextlib
import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vagrant as python_vagrant

from vms import accel, boxes, home, host, process, saved, watch
from vms.deadline import Deadline
from vms.errors import BootError, CommandTimedOut, GuestLost, InUse, NotRunning, VmsError
from vms.profile import Profile
from vms.ssh import SshGuest, disconnect, make_config

FILES = Path(__file__).parent / "box_files"
BOOT_LIMIT_S = 480
"""Vagrant's own limit from QEMU's start to ssh; usual are 35 s, at a load of 9 on two cores 100 s, of 18 230 s."""

TRIES = 2
FIRST_ANSWER_LIMIT_S = 90.0
DESTROY_LIMIT_S = 60.0
COMMON_ARGUMENTS = ("root=/dev/vda", "rw", "console=ttyS0", "net.ifnames=0", "panic=-1")
SNAPSHOT = "clean"
TAIL_LINES = 15


class BoundedVagrant(python_vagrant.Vagrant):
    """python-vagrant, each command of which ends by a deadline and is written to a log."""

    def __init__(self, directory: Path) -> None:
        super().__init__(root=str(directory), env=_environment(directory))  # type: ignore[no-untyped-call]
        self._log = directory / "vagrant.log"
        self.deadline = Deadline.after(DESTROY_LIMIT_S)

    def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
        command: list[str] = self._make_vagrant_command(args)  # type: ignore[no-untyped-call]
        with self._log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
        try:
            done = process.run(
                command, env=self.env, cwd=Path(self.root), log=self._log, deadline=self.deadline
            )
        except CommandTimedOut as error:
            raise VmsError(f"{error}\n{read_tail(self._log)}") from error
        if done.exit_code != 0:
            tail = read_tail(self._log)
            raise VmsError(f"exit code {done.exit_code}: {' '.join(command)}\n{tail}")

    def _run_vagrant_command(self, args: Sequence[str | None]) -> str:
        command: list[str] = self._make_vagrant_command(args)  # type: ignore[no-untyped-call]
        done = process.check(command, env=self.env, deadline=self.deadline, cwd=Path(self.root))
        return done.text


@dataclass(frozen=True, slots=True)
class _Machine:
    """Where a machine's state is, and what libvirt calls it."""

    name: str
    directory: Path

    @property
    def domain(self) -> str:
        return f"{self.prefix}{self.name}"

    @property
    def prefix(self) -> str:
        # Two homes on one machine, and a libvirt of the machine's own, do not collide.
        return f"vms-{home.tag()}-"

    @property
    def facts(self) -> Path:
        return self.directory / "machine.json"

    @property
    def console(self) -> Path:
        return self.directory / "console"

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def dotfiles(self) -> Path:
        return self.directory / ".vagrant"

    @property
    def outside(self) -> saved.Machine:
        disk = host.pool_directory() / f"{self.domain}.img"
        return saved.Machine(self.name, self.domain, disk, self.dotfiles)


def _find(profile: Profile) -> _Machine:
    return _Machine(profile.name, home.machine(profile.name))


def _environment(directory: Path) -> dict[str, str]:
    """Vagrant's whole environment: nothing of a person's own Vagrant is read or changed."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home.root()),
        "LC_ALL": "C.UTF-8",
        "VAGRANT_HOME": str(home.root() / "vagrant.d"),
        "VAGRANT_CWD": str(directory),
        "VAGRANT_DOTFILE_PATH": str(directory / ".vagrant"),
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
        "VAGRANT_NO_COLOR": "1",
    }


def read_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return a log's last lines without what progress bars and consoles draw with."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return f"({path} is not there)"
    kept = []
    for line in text.replace("\r", "\n").splitlines():
        plain = "".join(char for char in line if char.isprintable()).strip()
        if plain and "Progress:" not in plain:
            kept.append(plain)
    return "\n".join(kept[-lines:])


def find_free_port() -> int:
    """Return a loopback port that nobody listens on now; another may take it before QEMU does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def up(profile: Profile, *, report: Callable[[str], None], limit_s: float, cold: bool = False) -> None:
    """Restore the machine as it was after its boot, if it was kept, or boot the profile's box.

    It is booted once more, and reported, if the first try does not reach ssh: an emulated kernel was seen to
    crash while it starts (1 in 33 with two CPUs), and a port that was free may have been taken. Neither says
    anything about what is to be tested. `cold` boots in any case.

    Raises:
        HostNotReady, BoxError: Nothing was booted.
        InUse: It is not off, and is left as it is.
        BootError: Two boots failed; the message ends with the last lines of log and console.
    """
    host.require()
    host.start_daemon()
    # Before anything that can fail: the caller takes away what a failed `up` may have left.
    saved.require_off(_find(profile).outside)
    with contextlib.ExitStack() as alone:
        alone.enter_context(home.alone())
        box = boxes.find(profile, report=report)
        host.start()
        accelerator = accel.choose(box.kernel_image, box.sha256) if box.kernel_image else accel.recall()
        _prune(box)
        if any(volume.startswith(f"{box.name}_") for volume in _volumes()):
            alone.close()
        deadline = Deadline.after(limit_s)
        if not cold and _restore(profile, box, accelerator, report=report, deadline=deadline):
            return
        _up(profile, box, accelerator, report=report, deadline=deadline)


def _restore(
    profile: Profile,
    box: boxes.Box,
    accelerator: str,
    *,
    report: Callable[[str], None],
    deadline: Deadline,
) -> bool:
    """Restore the machine if it was kept; say whether it is up."""
    machine = _find(profile)
    start = time.monotonic()
    facts = _declare(profile, machine, box, accelerator, 1)
    kept = _place(profile, machine, facts)
    if kept is None or not kept.is_there:
        return False
    try:
        facts["restored"] = kept.since
        saved.restore(machine.outside, kept, port=facts["port"])
        _configure_ssh(machine)
        connect(profile).set_clock()
        _greet(profile, deadline)
    except InUse:
        raise
    except (VmsError, OSError) as error:
        destroy(profile)
        kept.forget()
        report(f"what was kept of {profile.name} is of no use, so it is booted: {error}")
        return False
    _note(machine, facts, start)
    report(
        f"{profile.name} restored in {facts['boot_s']} s, as it had booted at {kept.since} ({accelerator})"
    )
    return True


def _keep(
    profile: Profile, machine: _Machine, facts: dict[str, Any], *, report: Callable[[str], None]
) -> None:
    """Keep the machine that has booted; VmsError if it is not up any more."""
    kept = _place(profile, machine, facts)
    if kept is None:
        return
    try:
        saved.keep(machine.outside, kept)
    except (VmsError, OSError) as error:
        if not is_up(profile):
            raise
        report(f"{profile.name} could not be kept for the next time: {error}")


def _place(profile: Profile, machine: _Machine, facts: dict[str, Any]) -> saved.Kept | None:
    """Return where the machine may be kept; none if it boots fast, or from a disk that is not ours."""
    base = next((volume for volume in _volumes() if volume.startswith(f"{facts['box']}_")), None)
    if facts["accelerator"] != "tcg" or profile.public or base is None:
        return None
    return saved.place(machine.name, facts, base, (FILES / "Vagrantfile").read_text())


def _note(machine: _Machine, facts: dict[str, Any], start: float) -> None:
    facts["boot_s"] = f"{time.monotonic() - start:.1f}"
    machine.facts.write_text(json.dumps(facts, indent=1))


def _up(
    profile: Profile, box: boxes.Box, accelerator: str, *, report: Callable[[str], None], deadline: Deadline
) -> None:
    """Boot until ssh answers, at most TRIES times; see `up`."""
    machine = _find(profile)
    for attempt in range(1, TRIES + 1):
        start = time.monotonic()
        facts = _declare(profile, machine, box, accelerator, attempt)
        try:
            _boot(profile, machine, deadline)
            _keep(profile, machine, facts, report=report)
            _greet(profile, deadline)
        except (VmsError, OSError) as error:
            said = f"{error}\nconsole:\n{read_tail(machine.console)}"
            destroy(profile)
            if attempt == TRIES or deadline.passed:
                raise BootError(f"{profile.name} did not come up: {said}") from error
            report(f"the first boot failed and is repeated once: {said}")
        else:
            _note(machine, facts, start)
            report(f"{profile.name} booted in {facts['boot_s']} s ({accelerator})")
            return


def _declare(
    profile: Profile, machine: _Machine, box: boxes.Box, accelerator: str, attempt: int
) -> dict[str, Any]:
    """Write what the Vagrantfile reads, and return it."""
    facts: dict[str, Any] = {
        "name": profile.name,
        "box": box.name,
        "box_archive": str(box.archive),
        "box_sha256": box.sha256,
        "kernel": box.kernel,
        "kernel_image": str(box.kernel_image or ""),
        "initrd": str(box.initrd or ""),
        "command_line": " ".join(_kernel_arguments(profile, accelerator)) if box.kernel else "",
        "accelerator": accelerator,
        "memory_mib": profile.memory_mib,
        "cpus": profile.cpus,
        "port": find_free_port(),
        "boot_limit_s": BOOT_LIMIT_S,
        "boots": attempt,
        "console": str(machine.console),
        "libvirt_uri": host.uri(),
        "domain_prefix": machine.prefix,
        "pool": host.POOL,
        "pool_directory": str(host.pool_directory()),
    }
    machine.console.unlink(missing_ok=True)
    (machine.directory / "vagrant.log").write_bytes(b"")
    machine.facts.write_text(json.dumps(facts, indent=1))
    shutil.copy(FILES / "Vagrantfile", machine.directory / "Vagrantfile")
    return facts


def _kernel_arguments(profile: Profile, accelerator: str) -> tuple[str, ...]:
    emulated = profile.emulated_arguments if accelerator == "tcg" else ()
    return (*COMMON_ARGUMENTS, *emulated, *profile.kernel_arguments)


def _boot(profile: Profile, machine: _Machine, deadline: Deadline) -> None:
    runner = BoundedVagrant(machine.directory)
    runner.deadline = deadline
    runner.up(vm_name=machine.name, provider="libvirt")  # type: ignore[no-untyped-call]
    _configure_ssh(machine)
    if profile.public:
        _adopt(profile, machine, deadline)


def _configure_ssh(machine: _Machine) -> None:
    # Vagrant's own ssh configuration is not asked for: a second Ruby start to learn what is known.
    facts = json.loads(machine.facts.read_text())
    config = make_config(machine.name, port=facts["port"], key=_login_key(), sockets=home.sockets())
    machine.ssh_config.write_text(config)


def _greet(profile: Profile, deadline: Deadline) -> None:
    """Have a machine that runs ready for use."""
    guest = connect(profile)
    # Every account's shared connection is opened now, one after the other: six workers that each
    # logged in as three users at once were seen to take 25 s.
    for user in ("root", *profile.users):
        guest.succeed(["true"], user=user, deadline=deadline.at_most(FIRST_ANSWER_LIMIT_S))
    watch.start(guest)


def _adopt(profile: Profile, machine: _Machine, deadline: Deadline) -> None:
    """Give a box that others publish the accounts of the profile, through the login that every Vagrant box has."""
    ssh = ["ssh", "-F", str(machine.ssh_config), f"vagrant@{machine.name}"]
    for name in ("make-users.sh", "public-setup.sh"):
        content = (FILES / name).read_bytes()
        process.check([*ssh, f"cat > {name}"], stdin=content, deadline=deadline)
    key = host.find_vagrant_key("vagrant.pub").read_text().strip()
    words = " ".join(shlex.quote(word) for word in ("./public-setup.sh", key, *profile.users))
    process.check([*ssh, f"sudo /bin/sh {words}"], deadline=deadline)
    # sshd reads its configuration anew, and resets connections until it listens again: some seconds under emulation.
    root = ["ssh", "-F", str(machine.ssh_config), f"root@{machine.name}", "true"]
    while (done := process.run(root, deadline=deadline)).exit_code != 0:
        if deadline.passed:
            raise VmsError(
                f"root cannot log in to {machine.name}: {done.stderr.decode(errors='replace').strip()}"
            )
        time.sleep(1)


def _prune(box: boxes.Box) -> None:
    """Remove old boxes with Vagrant's and libvirt's copies; not while a disk may be based on one."""
    if host.find_domains("--all"):
        return
    for name in boxes.prune(box):
        shutil.rmtree(home.root() / "vagrant.d/boxes" / name, ignore_errors=True)
        for volume in _volumes():
            if volume.startswith(f"{name}_"):
                host.virsh("vol-delete", "--pool", host.POOL, volume)


def _volumes() -> list[str]:
    lines = host.virsh("vol-list", host.POOL).text.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _login_key() -> Path:
    """Return a copy of Vagrant's well-known private key, since ssh wants it private."""
    target = home.root() / "login-key"
    if not target.exists():
        content = host.find_vagrant_key("vagrant").read_bytes()
        # Made aside: half a key would be taken for the key ever after.
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            part.touch(mode=0o600)
            part.write_bytes(content)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    return target


def is_up(profile: Profile) -> bool:
    """Whether libvirt says that the machine runs; where there are facts of one, libvirt is started to say it.

    A machine outlives a libvirt that was stopped, that crashed, or that is slow to answer.

    Raises:
        VmsError: libvirt does not say, or not in time: the machine may be up.
    """
    machine = _find(profile)
    if not machine.facts.exists():
        return False
    host.start_daemon()
    return machine.domain in host.find_domains("--state-running")


def connect(profile: Profile) -> SshGuest:
    """Return a handle; NotRunning unless the machine is up."""
    machine = _find(profile)
    if not machine.ssh_config.exists() or not is_up(profile):
        raise NotRunning(f"{profile.name} is not up", hint=f"ci/nox -s vms -- up {profile.name}")
    facts = json.loads(machine.facts.read_text())
    shown = ("box", "box_sha256", "kernel", "accelerator", "command_line", "memory_mib", "cpus")
    identity = {"profile": profile.name}
    identity |= {key: str(facts[key]) for key in (*shown, "boots", "boot_s", "restored") if key in facts}
    return SshGuest(
        profile,
        identity,
        config=machine.ssh_config,
        sockets=home.sockets(),
        snapshots=_Snapshots(machine),
    )


def destroy(profile: Profile) -> None:
    """Take the machine away: connections, domain, snapshots, disks. Harmless if there is none."""
    machine = _find(profile)
    if machine.ssh_config.exists():
        disconnect(profile.name, config=machine.ssh_config, sockets=home.sockets())
        machine.ssh_config.unlink()
    if not machine.facts.exists():
        return
    if host.missing_packages():
        return
    host.start()
    if machine.dotfiles.exists():
        # What it leaves, for example because it was killed while it made the domain, goes below.
        runner = BoundedVagrant(machine.directory)
        with contextlib.suppress(VmsError):
            runner.destroy(vm_name=machine.name)  # type: ignore[no-untyped-call]
    host.virsh("destroy", machine.domain)
    host.virsh("undefine", machine.domain, "--snapshots-metadata", "--managed-save")
    for volume in _volumes():
        if volume.startswith((f"{machine.domain}.", f"{machine.domain}-")):
            host.virsh("vol-delete", "--pool", host.POOL, volume)
    if machine.domain in host.find_domains("--all"):
        raise VmsError(f"libvirt still knows the domain {machine.domain}")
    shutil.rmtree(machine.directory / ".vagrant", ignore_errors=True)
    # Another destroy may be at it: a run that was interrupted, say.
    machine.facts.unlink(missing_ok=True)


class _Snapshots:
    """Memory and disk of a machine, kept by QEMU inside its own disk: a `Revertible`."""

    def __init__(self, machine: _Machine) -> None:
        self._domain = machine.domain

    def save(self) -> None:
        host.virsh("snapshot-delete", self._domain, SNAPSHOT, limit_s=60)
        self._run("snapshot-create-as", self._domain, SNAPSHOT)

    def revert(self) -> None:
        self._run("snapshot-revert", self._domain, SNAPSHOT)

    def _run(self, *arguments: str) -> None:
        try:
            done = host.virsh(*arguments, limit_s=120)
        except CommandTimedOut as error:
            raise GuestLost(str(error)) from error
        if done.exit_code != 0:
            raise GuestLost(f"{' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
