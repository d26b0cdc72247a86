"""Which accelerator QEMU uses: KVM only where it was seen to boot the kernel that will be booted.

A /dev/kvm that can be opened proves nothing: on some nested hosts a stock kernel hangs on it.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Literal

from vms import home, process
from vms.deadline import Deadline
from vms.errors import CommandTimedOut

Accelerator = Literal["kvm", "tcg"]

PANIC_LIMIT_S = 10.0
DEVICE = Path("/dev/kvm")


def recall() -> Accelerator:
    """Return what was last found since this machine booted; `tcg` if nobody tried.

    For a box that brings its kernel inside its disk, where it cannot be tried by itself.
    """
    return "kvm" if [*_read_known().values()][-1:] == ["kvm"] else "tcg"


def choose(kernel: Path, sha256: str) -> Accelerator:
    """Return `kvm` if `kernel` reaches its panic (it is given no root) on it in time, else `tcg`.

    The answer is remembered for the kernel of each box, by the box's digest, until this machine boots again.
    """
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return "tcg"
    known = _read_known()
    if sha256 not in known:
        known[sha256] = "kvm" if _boots(kernel) else "tcg"
        # Made aside: a run that is ended here leaves what was known.
        part = _note().with_suffix(f".{os.getpid()}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"boot": _boot_id(), "found": known}))
        part.rename(_note())
    return "kvm" if known[sha256] == "kvm" else "tcg"


def _read_known() -> dict[str, str]:
    """Return what was found since this machine booted, by the box's digest, oldest first."""
    try:
        known = json.loads(_note().read_text())
        found = known["found"] if known["boot"] == _boot_id() else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {str(sha256): str(accelerator) for sha256, accelerator in found.items()}


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _note() -> Path:
    return home.root() / "accelerator.json"


def _boots(kernel: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="vms-kvm-") as directory:
        console = Path(directory, "console")
        command = [
            *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-serial", f"file:{console}", "-kernel", str(kernel)),
            *("-append", "console=ttyS0 panic=-1 root=/dev/none"),
        ]
        try:
            process.run(command, deadline=Deadline.after(PANIC_LIMIT_S))
        except CommandTimedOut:
            return False
        return console.exists() and b"Kernel panic" in console.read_bytes()
