"""What this machine needs for virtual machines: packages, and a libvirt of our own.

Libvirt runs in a private mount namespace, over directories of ours, on a socket of ours: a libvirt
that the machine has anyway is neither asked nor changed, and no account or setting is made on it.
It works with and without systemd, and ends by itself when it has had nothing to do for a while.
System packages are not installed here: `python -m vms host packages` names them for whoever does.
"""

import os
import signal
import time
from pathlib import Path

from vms import home, process
from vms.deadline import Deadline
from vms.errors import CommandTimedOut, HostNotReady, VmsError

PROGRAMS = {
    "vagrant": "vagrant",
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "/bin/busybox": "busybox-static",
    "cpio": "cpio",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}
"""Programs that have to be there, and Debian's package of each."""

PARTS = {
    "vagrant-libvirt": "/usr/share/doc/vagrant-libvirt",
    "libvirt-daemon-driver-qemu": (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so"
    ),
}
"""Packages without a program, and a path by which each is known."""

IDLE_S = 300
"""How long libvirt stays without a running domain and without a client."""

START_LIMIT_S = 30.0
POOL = "vms"
COVERED = ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt")

# QEMU runs as root and libvirt touches no ownership, label or cgroup: the machine is often itself a
# container or a small VM, without a cgroup v2 tree. Without virtlogd QEMU writes its logs itself.
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
remember_owner = 0
dynamic_ownership = 0
cgroup_controllers = []
stdio_handler = "file"
namespaces = []
"""
# libvirtd looks these names up while it starts, and ends without a word if one is missing.
ACCOUNTS = {
    "passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\nlibvirt:x:64056:\n",
}
PREPARE = """\
set -eu
state=$1
shift
for directory; do
    mkdir -p "$directory" "$state/private$directory"
    mount --bind "$state/private$directory" "$directory"
done
for table in passwd group; do
    mount --bind "$state/$table" "/etc/$table"
done
exec libvirtd --timeout "$IDLE_S" --config "$state/libvirtd.conf" --pid-file "$state/libvirtd.pid"
"""


def packages() -> tuple[str, ...]:
    """Return the Debian packages that virtual machines need here."""
    return tuple(sorted({*PROGRAMS.values(), *PARTS}))


def missing_packages() -> tuple[str, ...]:
    """Return those that are not there, told by what they bring."""
    missing = {package for name, package in PROGRAMS.items() if not process.find_program(name)}
    missing |= {package for package, path in PARTS.items() if not Path(path).exists()}
    return tuple(sorted(missing))


def require() -> None:
    """Raise HostNotReady, with the line that mends it, unless this machine has what it needs."""
    missing = missing_packages()
    if missing:
        line = f"apt-get install --no-install-recommends {' '.join(missing)}"
        raise HostNotReady(f"packages are missing: {', '.join(missing)}", hint=line)
    if os.geteuid() != 0:
        raise HostNotReady("boxes and libvirt need root", hint="run it by sudo")


def find_vagrant_key(name: str) -> Path:
    """Return the well-known key that Vagrant brings: `vagrant`, or its public half `vagrant.pub`."""
    query = ["dpkg", "-L", "vagrant"]
    listed = process.check(query, deadline=Deadline.after(30), error=HostNotReady).text.splitlines()
    for line in listed:
        if line.endswith(f"/keys/{name}"):
            return Path(line)
    raise HostNotReady(f"the package vagrant has no file keys/{name}")


def uri() -> str:
    """Return where our libvirt listens."""
    return f"qemu+unix:///system?socket={_socket()}"


def _socket() -> Path:
    return home.sockets() / "libvirt-sock"


def pool_directory() -> Path:
    """Return where the disks of running machines are."""
    return home.root() / "pool"


def virsh(*arguments: str, limit_s: float = 30.0) -> process.Finished:
    """Run virsh on our libvirt; CommandTimedOut at the limit, never an error for an exit code."""
    return process.run(
        ["virsh", "--quiet", "--connect", uri(), *arguments],
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        deadline=Deadline.after(limit_s),
    )


def find_domains(*filters: str) -> frozenset[str]:
    """Return the names of the domains that have a QEMU, running or paused; `filters` are virsh's, such as `--all`.

    Raises:
        VmsError: libvirt did not say: never the same as that there is none.
    """
    done = virsh("list", "--name", *filters)
    if done.exit_code != 0:
        raise VmsError(f"libvirt does not list its domains: {done.stderr.decode(errors='replace').strip()}")
    return frozenset(done.text.split())


def answers() -> bool:
    """Whether our libvirt answers now; one that is slow does not, and may be there."""
    if not _socket().exists():
        return False
    try:
        return virsh("uri", limit_s=10.0).exit_code == 0
    except CommandTimedOut:
        return False


def start() -> None:
    """Have our libvirt running, with its storage pool; HostNotReady with its log if it does not."""
    require()
    start_daemon()
    directory = pool_directory()
    directory.mkdir(parents=True, exist_ok=True)
    if virsh("pool-info", POOL).exit_code != 0:
        # The provider makes a missing pool by itself only if it is called `default`.
        virsh("pool-define-as", POOL, "dir", "--target", str(directory))
    virsh("pool-start", POOL)
    if virsh("pool-refresh", POOL).exit_code != 0:
        raise HostNotReady(f"libvirt has no storage pool: {virsh('pool-info', POOL).stderr!r}")


def start_daemon() -> None:
    """Have our libvirt answer, started if need be; HostNotReady with its log if it does not."""
    if answers():
        return
    require()
    # Of two that are started at once the later one ends, since the first has the pid file, and would be called broken.
    with home.locked("libvirt"):
        if not answers():
            _launch()


def _launch() -> None:
    state = home.root() / "libvirt"
    state.mkdir(parents=True, exist_ok=True)
    private = state / "private/etc/libvirt"
    private.mkdir(parents=True, exist_ok=True)
    (private / "qemu.conf").write_text(QEMU_CONF)
    (state / "libvirtd.conf").write_text(
        f'unix_sock_dir = "{home.sockets()}"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        'unix_sock_group = "root"\nunix_sock_ro_perms = "0700"\nunix_sock_rw_perms = "0700"\n'
    )
    for table, lines in ACCOUNTS.items():
        present = Path("/etc", table).read_text()
        names = {line.partition(":")[0] for line in present.splitlines()}
        added = [line for line in lines.splitlines() if line.partition(":")[0] not in names]
        (state / table).write_text(present + "".join(f"{line}\n" for line in added))
    log = state / "libvirtd.log"
    log.write_bytes(b"")
    prepare = PREPARE.replace("$IDLE_S", str(IDLE_S))
    command = ["unshare", "--mount", "--propagation=private", "--"]
    command += ["/bin/sh", "-c", prepare, "libvirtd", str(state), *COVERED]
    daemon = process.start(command, log=log)
    deadline = Deadline.after(START_LIMIT_S)
    while not answers():
        if process.has_ended(daemon) or deadline.passed:
            said = log.read_text()[-2000:].strip()
            raise HostNotReady(f"libvirtd does not answer; {log} says: {said or 'nothing'}")
        time.sleep(0.1)


def stop() -> None:
    """End our libvirt, if it is there; running machines stay, and are found again by the next one."""
    file = home.root() / "libvirt/libvirtd.pid"
    try:
        pid = int(file.read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ValueError):
        return
    if name == "libvirtd":
        os.kill(pid, signal.SIGTERM)
