"""Runs in the guest as root: print what of the machine a run must leave as it found it, as JSON.

The standard library of Python 3.9 and nothing else. It reads and changes nothing.
"""

import contextlib
import hashlib
import json
import os
import stat
import sys

SYSCTLS = (
    "fs/protected_fifos",
    "fs/protected_hardlinks",
    "fs/protected_regular",
    "fs/protected_symlinks",
    "fs/suid_dumpable",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/core_pattern",
    "kernel/dmesg_restrict",
    "kernel/kptr_restrict",
    "kernel/unprivileged_bpf_disabled",
    "kernel/unprivileged_userns_clone",
    "kernel/yama/ptrace_scope",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "user/max_mnt_namespaces",
    "user/max_net_namespaces",
    "user/max_pid_namespaces",
    "user/max_user_namespaces",
)
ACCOUNTS = (
    "passwd",
    "group",
    "shadow",
    "gshadow",
    "subuid",
    "subgid",
    "sudoers",
    "ld.so.preload",
    "locald/policy",
)
PROGRAMS = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/libexec",
    "/usr/lib/openssh",
    "/usr/local",
    "/opt",
    "/etc",
    "/run/locald-shim",
)
ROOT = 0
# Where a caller can write: his images hold setuid files of his own, and what is root's there, somebody left.
# The last is `subject.HOME`, the homes that the clauses run in among it: this file imports nothing of the kit.
SCRATCH = ("/home", "/tmp", "/var/tmp", "/dev/shm", "/var/lib/locald-kit")  # noqa: S108  # searched, not written to
# Of what others mount and unmount, nothing can be said.
OURS = ("locald", "kit-")


def read(path: str) -> str:
    """Return a small file's text in one line; why it could not be read otherwise."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return " ".join(stream.read().split())
    except OSError as error:
        return f"({error.strerror})"


def find_accounts() -> list[str]:
    """Return who may do what: a digest of each file that says so."""
    found = []
    for name in ACCOUNTS:
        with contextlib.suppress(OSError):
            status = os.stat(f"/etc/{name}")
            owner = f"{status.st_uid}:{status.st_gid}"
            found.append(f"{name} {owner} {stat.filemode(status.st_mode)} {digest(f'/etc/{name}')}")
    return found


def find_setuid() -> list[str]:
    """Return every setuid or setgid program with its owner, mode and digest; in homes and the like root's only."""
    found = []
    for top in (*PROGRAMS, *SCRATCH):
        for directory, _, files in os.walk(top):
            for name in files:
                path = f"{directory}/{name}"
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if not stat.S_ISREG(status.st_mode) or not status.st_mode & (stat.S_ISUID | stat.S_ISGID):
                        continue
                    if top in SCRATCH and status.st_uid != ROOT:
                        continue
                    owner = f"{status.st_uid}:{status.st_gid}"
                    found.append(f"{path} {owner} {stat.filemode(status.st_mode)} {digest(path)}")
    return sorted(found)


def digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def find_devices() -> list[str]:
    """Return the nodes directly in /dev: terminals of a moment are not there."""
    found = []
    with os.scandir("/dev") as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                number = f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
                found.append(f"{entry.name} {stat.filemode(status.st_mode)} {number}")
    return sorted(found)


def find_mounts() -> list[str]:
    """Return what is mounted where, without numbers that differ each time."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        rows = [line.split() for line in stream]
    return sorted(f"{row[4]} {row[row.index('-') + 1]} {row[5]}" for row in rows)


def find_directories(top: str) -> list[str]:
    """Return the directories below `top` whose names are ours."""
    found = []
    for directory, names, _ in os.walk(top):
        found += [f"{directory}/{name}" for name in names if any(word in name for word in OURS)]
    return sorted(found)


def main() -> None:
    """Print the state of the machine."""
    mounts = find_mounts()
    state = {
        "sysctls": [f"{name} {read(f'/proc/sys/{name}')}" for name in SYSCTLS],
        "accounts": find_accounts(),
        "setuid": find_setuid(),
        "mounts of ours": [line for line in mounts if any(word in line for word in OURS)],
        "cgroups of ours": find_directories("/sys/fs/cgroup"),
        "selinux": [f"enforce {read('/sys/fs/selinux/enforce')}"],
        "mounts": mounts,
        "devices": find_devices(),
        "taint": [read("/proc/sys/kernel/tainted")],
    }
    json.dump(state, sys.stdout)


if __name__ == "__main__":
    main()
