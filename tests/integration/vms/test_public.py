"""A box that others publish, for real: served over loopback, verified, booted from its own disk, adopted, proven.

No such box can be had here by its publisher's address, so our Debian 12 is made into one: its kernel inside the disk
behind a boot loader, none of our kernel arguments, and nobody but `vagrant` can log in.

ci/nox -s vms      # with the other tests that boot machines
"""

import hashlib
import json
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import vms
from vms import box_build, boxes, home, public, vagrant
from vms.profile import KNOWN_USERS, Fact, Profile

NAME = "public-debian"
CLOSED = ("/root", *(f"/home/{name}" for name in KNOWN_USERS))
DOWN = """
for card in /sys/class/net/*; do
    if grep -q 52:54:00:1d:00:01 "$card/address"; then cat "$card/operstate"; fi
done
"""
SECTOR_BYTES = 512
GRUB = Path("/usr/lib/grub/i386-pc")
START = """\
set root=(hd0)
linux /boot/vmlinuz root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1
initrd /boot/initrd.img
boot
"""
PROFILE = Profile(
    name=NAME,
    says="a public box that is a Debian 12",
    kind="vm",
    users=("plain", "bare", "asker"),
    box=NAME,
    public=True,
    memory_mib=1024,
    cpus=1,
    watched=("/proc/sys/user/max_user_namespaces",),
    facts=(
        Fact(
            "own-kernel",
            "the loader of its disk started it",
            "plain",
            ("grep", "-c", "BOOT_IMAGE", "/proc/cmdline"),
        ),
        Fact("subordinate", "plain has subordinate ids", "plain", ("grep", "-q", "^plain:", "/etc/subuid")),
        Fact("asked", "asker has to give a password", "asker", ("sudo", "-n", "true"), exit_code=1),
        Fact(
            "no-way-out",
            "the card that leads out is down",
            "root",
            ("sh", "-c", DOWN),
            stdout="^down$",
        ),
    ),
)


def run(*command: str, stdin: str = "") -> None:
    """Run a program that has to work."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (command, done.stderr)


def make_bootable(disk: Path, kernel: Path, initrd: Path, work: Path) -> None:
    """Put kernel and initrd into the file system of a raw disk, and a loader before and behind it.

    ext4 leaves its first two sectors alone: the first is the loader's first stage, which reads the second from behind
    the file system. Where that is stands at 0x5c of the first; where its own rest is, at the end of its first sector.
    """
    accounts = "".join(f"rm {home}/.ssh/authorized_keys\n" for home in CLOSED)
    run(
        "debugfs",
        "-w",
        "-f",
        "-",
        str(disk),
        stdin=f"write {kernel} /boot/vmlinuz\nwrite {initrd} /boot/initrd.img\n{accounts}",
    )
    (work / "start.cfg").write_text(START)
    modules = ("biosdisk", "ext2", "linux", "normal")
    run(
        "grub-mkimage",
        "-O",
        "i386-pc",
        "-o",
        str(work / "core.img"),
        "-c",
        str(work / "start.cfg"),
        "-p",
        "(hd0)/boot",
        *modules,
    )
    first, second = bytearray((GRUB / "boot.img").read_bytes()), bytearray((work / "core.img").read_bytes())
    second += bytes(-len(second) % SECTOR_BYTES)
    place = disk.stat().st_size // SECTOR_BYTES
    first[0x5C:0x64] = struct.pack("<Q", place)
    second[0x1F4:0x1FE] = struct.pack("<QH", place + 1, len(second) // SECTOR_BYTES - 1)
    with disk.open("r+b") as file:
        file.write(first[:440])
        file.seek(510)
        file.write(b"\x55\xaa")
        file.seek(0, 2)
        file.write(second)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Serve the box; hand over its address and digest."""
    work = tmp_path_factory.mktemp("public")
    with home.alone():
        box = boxes.find_or_build("debian12", report=print)
    assert box.kernel_image is not None
    assert box.initrd is not None
    run("tar", "-C", str(work), "-xf", str(box.archive))
    disk = work / "disk.raw"
    run("qemu-img", "convert", "-O", "raw", str(work / "box.img"), str(disk))
    make_bootable(disk, box.kernel_image, box.initrd, work)
    run("qemu-img", "convert", "-O", "qcow2", str(disk), str(work / "box.img"))
    disk.unlink()
    facts = json.loads((work / "metadata.json").read_text())
    (work / "metadata.json").write_text(json.dumps(facts | {"virtual_size": facts["virtual_size"] + 1}))
    (work / "served").mkdir()
    box_build.pack(work / "served/some.box", work, ("metadata.json", "box.img"))
    digest = hashlib.sha256((work / "served/some.box").read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(work / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/some.box", digest
        server.shutdown()
        thread.join()
    shutil.rmtree(work)


@pytest.mark.vm
def test_a_public_box_boots_and_is_proven(
    served: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched by the user's address and digest, booted by its own loader, given the profile's accounts."""
    url, digest = served
    (tmp_path / "boxes.toml").write_text(f'[{NAME}]\nurl = "{url}"\nsha256 = "{digest}"\n')
    monkeypatch.setenv(public.VARIABLE, str(tmp_path / "boxes.toml"))
    try:
        vagrant.up(PROFILE, report=print, limit_s=1200.0)
        guest = vagrant.connect(PROFILE)
        proof = vms.prove(guest)
        assert proof.in_force, proof.missing
        assert guest.identity["box_sha256"] == digest
        assert guest.identity["command_line"] == ""
    finally:
        vagrant.destroy(PROFILE)
