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
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        known = json.loads((home.root() / "accelerator.json").read_text())
    except (FileNotFoundError, ValueError):
        return "tcg"
    found = str(known.get("key", "")).startswith(f"{boot} ") and known.get("accelerator") == "kvm"
    return "kvm" if found else "tcg"


def choose(kernel: Path, sha256: str) -> Accelerator:
    """Return `kvm` if `kernel` reaches its panic (it is given no root) on it in time, else `tcg`.

    The answer is remembered for this kernel until this machine boots again.
    """
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = home.root() / "accelerator.json"
    try:
        known = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    key = f"{boot} {sha256}"
    if known.get("key") != key:
        known = {"key": key, "accelerator": "kvm" if _boots(kernel) else "tcg"}
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(known))
    return "kvm" if known["accelerator"] == "kvm" else "tcg"


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
