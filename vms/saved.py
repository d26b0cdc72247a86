"""Booted machines that are kept: memory and disk of the moment when ssh first answered, back in seconds.

A boot under emulation takes most of a minute and comes to the same state each time. Whatever that state depends on is
in the key. What is kept is a cache: it is made beside its place and renamed, and whoever cannot use it boots.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vms import home, host, process
from vms.deadline import Deadline
from vms.digests import read_digest
from vms.errors import InUse, VmsError

MEMORY: Final = "memory"
DISK: Final = "disk"
DOTFILES: Final = "dotfiles"
# As sha256sum writes it.
RECORD: Final = "sha256sums"
# Of a machine's facts those that its guest can tell. The two paths are in what libvirt keeps of the domain.
SHAPING: Final = (
    *("box_sha256", "kernel_image", "command_line", "accelerator", "memory_mib", "cpus"),
    *("console", "pool_directory"),
)
# Some 200 MB; a second each on an idle machine.
LIMIT_S: Final = 120.0
PORT: Final = re.compile(r"(?<=hostfwd=tcp:127\.0\.0\.1:)[0-9]+(?=-)")


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is of one machine outside of its guest."""

    name: str
    domain: str
    disk: Path
    # Where Vagrant notes which domain is its own.
    dotfiles: Path


@dataclass(frozen=True, slots=True)
class Kept:
    """The place of a machine that is, or may be, kept."""

    directory: Path

    @property
    def is_there(self) -> bool:
        """Whether it can be restored."""
        return self.directory.is_dir()

    @property
    def since(self) -> str:
        """When it was booted: ISO 8601, UTC."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((self.directory / MEMORY).stat().st_mtime))

    def forget(self) -> None:
        """Have it not there any more."""
        shutil.rmtree(self.directory, ignore_errors=True)


def place(name: str, facts: Mapping[str, Any], base: str, vagrantfile: str) -> Kept:
    """Return where the machine of these facts is kept.

    Args:
        name: The profile's.
        facts: What its Vagrantfile reads.
        base: The volume that its disk is an overlay of; its name holds the box's hash and the time of its upload.
        vagrantfile: Its text.
    """
    qemu = process.check(["qemu-system-x86_64", "--version"], deadline=Deadline.after(30)).text
    shape = {key: facts[key] for key in SHAPING} | {"base": base, "qemu": qemu, "vagrantfile": vagrantfile}
    key = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]
    return Kept(home.root() / "saved" / f"{name}-{key}")


def keep(machine: Machine, kept: Kept) -> None:
    """Keep a machine that is up, and have it go on; what was kept of it before goes away.

    Raises:
        VmsError, OSError: It does not go on, or could not be kept and goes on: `vms.vagrant.is_up` tells.
    """
    # Under other keys as well; whoever brings this machine up holds its lock.
    home.remove_leftovers(kept.directory.parent, f".{machine.name}-{'?' * 16}.new")
    fresh = kept.directory.with_name(f".{kept.directory.name}.new")
    fresh.mkdir(parents=True)
    try:
        # The domain is off when this returns. Where it fails, it goes on.
        _virsh("save", machine.domain, str(fresh / MEMORY))
        try:
            shutil.copyfile(machine.disk, fresh / DISK)
            shutil.copytree(machine.dotfiles, fresh / DOTFILES)
        finally:
            _virsh("restore", str(fresh / MEMORY))
        (fresh / RECORD).write_text("".join(f"{line}\n" for line in _read_digests(fresh)))
        for old in kept.directory.parent.glob(f"{machine.name}-{'?' * 16}"):
            shutil.rmtree(old)
        fresh.rename(kept.directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def restore(machine: Machine, kept: Kept, *, port: int) -> None:
    """Have the machine run as it was kept, with its ssh forwarded from another loopback port.

    Its clock stands where it stood.

    Raises:
        InUse: See `require_off`.
        VmsError, OSError: It is not what was kept, or does not run; what there is of it has to be destroyed.
    """
    _verify(kept)
    memory = str(kept.directory / MEMORY)
    described = _virsh("save-image-dumpxml", memory, "--security-info")
    changed = kept.directory / "domain.xml"
    changed.write_text(PORT.sub(str(port), described))
    require_off(machine)
    shutil.copyfile(kept.directory / DISK, machine.disk)
    shutil.rmtree(machine.dotfiles, ignore_errors=True)
    shutil.copytree(kept.directory / DOTFILES, machine.dotfiles)
    # Defined first: what is only restored is gone as soon as it is off, and Vagrant would not find it.
    _virsh("define", str(changed))
    _virsh("restore", memory, "--xml", str(changed))


def require_off(machine: Machine) -> None:
    """Raise InUse where the machine has a QEMU, running or paused: its disk would be written over beneath it."""
    if machine.domain in host.find_domains():
        raise InUse(
            f"{machine.name} is not off: libvirt has it running or paused",
            hint=f"ci/nox -s vms -- destroy {machine.name}",
        )


def _read_digests(directory: Path) -> list[str]:
    """Return a line for each file that was kept, with its sha256; a restore's own file is none of them."""
    dotfiles = sorted(path for path in (directory / DOTFILES).rglob("*") if path.is_file())
    files = (directory / MEMORY, directory / DISK, *dotfiles)
    return [f"{read_digest(path)}  {path.relative_to(directory)}" for path in files]


def _verify(kept: Kept) -> None:
    """Raise VmsError unless every file is as it was kept: else another disk would run under the box's digest."""
    # 0.2 s for 300 MB, 0.6 s on a processor without SHA instructions; libvirt then finds the memory in the page cache.
    recorded = (kept.directory / RECORD).read_text(errors="replace").splitlines()
    if differing := {*recorded} ^ {*_read_digests(kept.directory)}:
        names = sorted({line.rpartition("  ")[2] for line in differing})
        raise VmsError(f"changed since it was kept: {', '.join(names)}")


def _virsh(*arguments: str) -> str:
    done = host.virsh(*arguments, limit_s=LIMIT_S)
    if done.exit_code != 0:
        raise VmsError(f"virsh {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.text
