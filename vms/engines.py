"""Which programs count as a container engine, and the one search that looks for them.

The file system is searched, not $PATH: a program that finds its engine by an absolute path, or below
/usr/libexec, would not be seen otherwise. Imports nothing of this package.
"""

from collections.abc import Iterable

NAMES = (
    "runc",
    "crun",
    "youki",
    "runsc",
    "kata-runtime",
    "podman",
    "docker",
    "dockerd",
    "containerd",
    "containerd-shim*",
    "ctr",
    "nerdctl",
    "crio",
    "buildah",
    "buildkitd",
    "buildkit-runc",
    "lxc",
    "lxd",
    "incus",
    "lxc-*",
    "apptainer",
    "singularity",
    "systemd-nspawn",
    "bwrap",
)
"""File names, with the wildcards of find(1)."""

NOT_FILES = ("proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "mqueue", "securityfs")
"""File systems that hold no programs."""


# What goes away while it is looked for, on a machine at work, is no reason to doubt the rest. Of a directory that is
# gone when it comes to it find(1) is not silent, whatever -ignore_readdir_race says.
BUT_FOR_WHAT_WENT = r"""
exec 3>&1
said=$(LC_ALL=C "$@" 2>&1 >&3) && exit 0
printf '%s\n' "$said" | grep -v ': No such file or directory$' >&2 || exit 0
exit 1
"""


def make_search(allowed: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the command that prints every executable file with such a name, one a line."""
    skipped = " -o ".join(f"-fstype {kind}" for kind in NOT_FILES).split()
    wanted = " -o ".join(f"-name {name}" for name in NAMES if name not in set(allowed)).split()
    return (
        *("/bin/sh", "-c", BUT_FOR_WHAT_WENT, "search"),
        *("find", "/", "-ignore_readdir_race", "(", *skipped, ")", "-prune", "-o"),
        *("-type", "f", "-perm", "/111", "(", *wanted, ")", "-print"),
    )
