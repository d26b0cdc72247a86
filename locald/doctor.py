"""Look at this host and say what works, what does not, and what would mend it. Reads; never repairs.

Imports shim, host and below. Ids of checks are stable: --json and the manual use them.
"""

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from locald import shim
from locald.errors import LocaldError
from locald.errors.shim import ShimError, ShimPolicyDenied
from locald.host import cache_directory, data_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locald.host import Host

MIN_KERNEL = (5, 12)
WANTED_IDS = 65536
WANTED_FREE_BYTES = 1 << 30

# By the code that the shim's `check` gives for a controller.
LIMIT_MENDS = {
    "resources.hierarchy": "An administrator can boot with systemd.unified_cgroup_hierarchy=1.",
    "resources.controller": "Run inside systemd-run --user --scope -p MemoryAccounting=yes -p TasksAccounting=yes "
    "-p CPUWeight=100. An administrator can give users the controller (Delegate= of user@.service), or boot "
    "with systemd.unified_cgroup_hierarchy=1 where cgroup v1 has it.",
    "resources.delegation": "Run inside systemd-run --user --scope -p MemoryAccounting=yes -p TasksAccounting=yes "
    "-p CPUWeight=100, or have an administrator give you a cgroup.",
}

Status = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """One line: what was looked at, how it is, and what to do if it is not well."""

    id: str
    status: Status
    found: str
    mend: str = ""


def run_checks(host: "Host") -> "Iterator[Check]":
    """Yield one check after another; none raises."""
    abilities = None
    installation = None
    try:
        installation = shim.find_installation()
        path = shim.find_shim(installation)
        yield Check("shim.file", "ok", f"{path} is root's, setuid and nobody else's to write")
    except ShimError as error:
        yield Check("shim.file", "fail", f"[{error.code}] {error}", error.hint)
    else:
        try:
            abilities = shim.ask_abilities(installation)
            yield Check("shim.protocol", "ok", f"it speaks protocol {shim.PROTOCOL}")
            yield Check("shim.policy", "ok", f"the policy lets in {host.user}")
        except ShimPolicyDenied as error:
            yield Check("shim.protocol", "ok", f"it speaks protocol {shim.PROTOCOL}")
            yield Check("shim.policy", "fail", str(error), error.hint)
        except LocaldError as error:
            yield Check("shim.protocol", "fail", f"[{error.code}] {error}", error.hint)
    if abilities is not None and abilities.policy is not None:
        yield from check_policy(abilities.policy)
    yield check_kernel(os.uname().release)
    if abilities is not None:
        yield from check_modes(abilities)
        yield from check_subordinate_ids(abilities, host.user)
        yield Check("cgroup.layout", "ok", abilities.cgroup)
        yield from check_limits(abilities)
    yield check_lsm()
    yield from check_places(host)


def check_policy(policy: shim.Policy) -> "Iterator[Check]":
    """Say what the policy allows whom it lets in; a mode that it does not list is missing."""
    modes = " and ".join(policy.modes) or "none"
    if policy.modes:
        yield Check("policy.modes", "ok", f"the policy allows {modes} mode")
    else:
        mend = "An administrator can list some: `modes` in /etc/locald/policy."
        yield Check("policy.modes", "warn", "the policy allows no containers, in neither mode", mend)
    ports = ", ".join(map(str, policy.bind_ports)) or "none"
    addresses = ", ".join(policy.bind_addresses) or "none"
    yield Check("policy.bind", "ok", f"ports that can be bound: {ports}; addresses: {addresses}")
    yield Check("policy.containers", "ok", f"{policy.max_containers} containers at a time")
    found = f"shims from version {policy.min_shim} on" if policy.min_shim else "a shim of any version"
    yield Check("policy.version", "ok", f"the policy takes {found}")


def check_kernel(release: str) -> Check:
    """Compare the kernel's release with the oldest that the shim can use."""
    numbers = release.split(".")
    try:
        known = (int(numbers[0]), int(numbers[1].partition("-")[0]))
    except (IndexError, ValueError):
        return Check(
            "host.kernel", "warn", f"Linux {release}", "The shim itself will tell whether it suffices."
        )
    least = ".".join(map(str, MIN_KERNEL))
    if known < MIN_KERNEL:
        mend = f"Upgrade to Linux {least} or newer: mount_setattr(2) came with it."
        return Check("host.kernel", "fail", f"Linux {release} is too old", mend)
    return Check("host.kernel", "ok", f"Linux {release}")


def check_modes(abilities: shim.Abilities) -> "Iterator[Check]":
    """Say which modes work; without mapped mode images of several owners lose them, without both nothing runs."""
    mapped, direct = abilities.mapped, abilities.direct
    if mapped.allowed:
        yield Check("host.userns", "ok", "mapped mode works: user namespaces can be made")
    else:
        mends = {
            "host.userns-limit": "An administrator can raise it: sysctl user.max_user_namespaces=15000. "
            "Direct mode runs without.",
            "host.userns-denied": "A sysctl (kernel.unprivileged_userns_clone) or a security module denies them. "
            "Direct mode runs without.",
            # Neither mode does: host.kernel says it too.
            "host.kernel-old": f"Upgrade to Linux {'.'.join(map(str, MIN_KERNEL))} or newer.",
        }
        found = f"mapped mode does not work: {mapped.why}"
        yield Check("host.userns", "warn", found, mends.get(mapped.code or "", "Direct mode runs without."))
    if direct.allowed:
        yield Check("host.direct", "ok", "direct mode works")
    elif mapped.allowed:
        yield Check("host.direct", "warn", f"direct mode does not work: {direct.why}", "Mapped mode works.")
    else:
        yield Check(
            "host.direct", "fail", f"neither mode works: {direct.why}", "Mend what host.userns names."
        )


def check_subordinate_ids(abilities: shim.Abilities, user: str) -> "Iterator[Check]":
    """See whether images with several owners can be shown as they are."""
    for kind, granted in (("uid", abilities.subordinate_uids), ("gid", abilities.subordinate_gids)):
        if granted >= WANTED_IDS:
            yield Check(f"subids.{kind}", "ok", f"{granted} subordinate {kind}s")
            continue
        mend = (
            f"Run: sudo usermod --add-sub{kind}s FIRST-LAST {user}, with a free range of {WANTED_IDS}. "
            "Without, images whose files have several owners run in direct mode."
        )
        yield Check(f"subids.{kind}", "warn", f"{granted} subordinate {kind}s in /etc/sub{kind}", mend)


def check_limits(abilities: shim.Abilities) -> "Iterator[Check]":
    """See which resource limits can be kept; containers without limits need none of it."""
    for name, found in abilities.limits.items():
        if found.allowed:
            yield Check(f"cgroup.{name}", "ok", f"a container's {name} can be limited")
            continue
        yield Check(
            f"cgroup.{name}",
            "warn",
            f"a container's {name} cannot be limited: {found.why}",
            LIMIT_MENDS.get(found.code or "", "Run without limits."),
        )


def check_lsm() -> Check:
    """Name the security modules in force and the caller's own domain, which containers keep."""
    modules = _read("/sys/kernel/security/lsm") or "unknown (securityfs is not mounted)"
    domain = _read("/proc/self/attr/current").strip("\0\n")
    enforcing = _read("/sys/fs/selinux/enforce").strip() == "1"
    found = f"{modules.strip()}; you are {domain or 'unconfined'}; SELinux is {'' if enforcing else 'not '}enforcing"
    user = domain.partition(":")[0]
    if enforcing and user not in {"unconfined_u", "root", "system_u", ""}:
        mend = "An administrator can map this login to unconfined_u (semanage login)."
        return Check("host.lsm", "warn", found, mend)
    return Check("host.lsm", "ok", found)


def check_places(host: "Host") -> "Iterator[Check]":
    """See whether images and bundles have room, and may be executed from."""
    for name, directory in (("images", data_directory(host)), ("bundles", cache_directory(host))):
        place = _existing(directory)
        facts = os.statvfs(place)
        free = facts.f_bavail * facts.f_frsize
        if not os.access(place, os.W_OK | os.X_OK):
            mend = "Make it yours, or set XDG_DATA_HOME and XDG_CACHE_HOME."
            yield Check(f"store.{name}", "fail", f"{directory} cannot be written", mend)
        elif facts.f_flag & os.ST_NOEXEC:
            mend = "Containers run from there: set XDG_DATA_HOME and XDG_CACHE_HOME to where that is allowed."
            yield Check(f"store.{name}", "fail", f"{directory} is on a file system mounted noexec", mend)
        elif free < WANTED_FREE_BYTES:
            mend = "Make room: `locald images` and `locald rmi` help."
            yield Check(f"store.{name}", "warn", f"{directory} has {free >> 20} MiB left", mend)
        else:
            yield Check(f"store.{name}", "ok", f"{directory} has {free >> 20} MiB left")


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return ""
