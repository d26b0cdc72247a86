"""Make the runtime config of a container: (image config, options, account, caller) -> config.json. Pure.

Imports errors only: no I/O, clock or environment. Strings are what `os.fsdecode` makes of the bytes that
they stand for, so that an argument that is not UTF-8 reaches the container as it is (bundle.py writes it so).

What the shim replaces or refuses is decided by the shim alone; this module writes what it is meant to accept.
Sources: runtime-spec 1.2 config.md and config-linux.md, image-spec 1.1 config.md and conversion.md.
"""

import posixpath
import signal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from locald.errors.run import CommandMissing, UserUnmappable, WorkingDirectoryUnusable

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_VERSION = "1.2.0"
# What Docker and podman give an image that sets none.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What root of a container gets, over its own user namespace only; podman's list, which is also the shim's.
CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
# A launcher exported without the variable speaks at least the oldest platform API that locald does.
PLATFORM_API = "0.7"
BUILDPACK_LABELS = (
    "io.buildpacks.lifecycle.metadata",
    "io.buildpacks.build.metadata",
    "io.buildpacks.builder.metadata",
)
# StopSignal may name any; the shim forwards these.
STOP_SIGNALS: dict[str, int] = {
    name: getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
}


class Account(NamedTuple):
    """Who runs in the container, as its own passwd and group say."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class Bind(NamedTuple):
    """Something of the host shown in the container; both paths absolute, the destination free of links."""

    source: str
    destination: str
    readonly: bool = False


class Options(NamedTuple):
    """What the command line decides, after all files and names in it were looked up."""

    mode: str  # "mapped" or "direct"
    command: tuple[str, ...] = ()
    entrypoint: str | None = None  # "" clears the image's
    environment: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    network: str = "host"
    hostname: str = "locald"
    read_only: bool = False
    terminal: bool = False
    terminal_size: tuple[int, int] | None = None  # columns, lines
    init: bool = True
    resources: "Mapping[str, Any]" = MappingProxyType({})  # linux.resources, what limits.py makes


class Caller(NamedTuple):
    """The ids of whoever runs `locald`, and what the host granted him."""

    uid: int
    gid: int
    subordinate_gids: int = 0


def make_runtime_config(
    image: dict[str, Any],
    options: Options,
    account: Account,
    caller: Caller,
    *,
    reference: str,
    root: str = "rootfs",
    binds: tuple[Bind, ...] = (),
) -> dict[str, Any]:
    """Return config.json as a dict.

    Args:
        image: The image config, whole (`image["config"]` is what the container inherits).
        options: What the user asked for.
        account: Who the container's process is; in direct mode the caller himself.
        caller: Whom the process's ids are mapped to.
        reference: What the user called the image, for messages.
        root: The root filesystem, relative to the bundle or absolute.
        binds: In order; a later one may lie below an earlier one.

    Raises:
        CommandMissing: Nothing says what to run (`run.no-command`).
        WorkingDirectoryUnusable: It is relative (`run.workdir`).
    """
    process: dict[str, Any] = {
        "terminal": options.terminal,
        "user": {"uid": account.uid, "gid": account.gid},
        "args": make_command(image, options, reference),
        "env": make_environment(image, options, account),
        "cwd": make_workdir(image, options),
        "noNewPrivileges": True,
    }
    if options.terminal and options.terminal_size is not None:
        columns, lines = options.terminal_size
        process["consoleSize"] = {"height": lines, "width": columns}
    namespaces = ["pid", "mount", "ipc", "uts", "cgroup"]
    if options.network == "none":
        namespaces.append("network")
    linux: dict[str, Any] = {}
    if options.mode == "mapped":
        namespaces.append("user")
        linux["uidMappings"] = [{"containerID": account.uid, "hostID": caller.uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": account.gid, "hostID": caller.gid, "size": 1}]
        process["capabilities"] = make_capabilities(account)
        groups = [gid for gid in account.groups if is_mapped(gid, account.gid, caller.subordinate_gids)]
        # Without a granted gid the kernel denies setgroups, and the shim refuses even the one mapped group.
        if groups and caller.subordinate_gids:
            process["user"]["additionalGids"] = groups
    if options.resources:
        linux["resources"] = dict(options.resources)
    linux["namespaces"] = [{"type": kind} for kind in namespaces]
    return {
        "ociVersion": OCI_VERSION,
        "root": {"path": root, "readonly": options.read_only},
        "hostname": options.hostname,
        "process": process,
        "mounts": [make_mount(bind) for bind in binds],
        "linux": linux,
        "annotations": {"dev.locald.init": "true" if options.init else "false"},
    }


def make_command(image: dict[str, Any], options: Options, reference: str) -> list[str]:
    """Return the argument vector: the entrypoint, then the command.

    A user's entrypoint replaces the image's and drops its Cmd; a user's command replaces its Cmd only.

    Raises:
        CommandMissing: Both are empty (`run.no-command`).
    """
    inner = inherited(image)
    if options.entrypoint is None:
        entrypoint = list(inner.get("Entrypoint") or [])
        command = list(options.command or inner.get("Cmd") or [])
    else:
        entrypoint = [options.entrypoint] if options.entrypoint else []
        command = list(options.command)
    argv = entrypoint + command
    if not argv or not argv[0]:
        raise CommandMissing(reference)
    return argv


def make_environment(image: dict[str, Any], options: Options, account: Account) -> list[str]:
    """Return NAME=VALUE strings: the image's, then what is missing of PATH, HOME and TERM, then the user's.

    Nothing of the host's environment is in it, other than what the user named.
    """
    values: dict[str, str] = {}
    for entry in inherited(image).get("Env") or []:
        name, equals, value = entry.partition("=")
        if name and equals:
            values[name] = value
    values.setdefault("PATH", DEFAULT_PATH)
    values.setdefault("HOME", account.home)
    if options.terminal:
        values.setdefault("TERM", "xterm")
    labels = inherited(image).get("Labels") or {}
    if any(label in labels for label in BUILDPACK_LABELS):
        values.setdefault("CNB_PLATFORM_API", PLATFORM_API)
    values.update(options.environment)
    return [f"{name}={value}" for name, value in values.items()]


def make_workdir(image: dict[str, Any], options: Options) -> str:
    """Return the absolute working directory, without `.`, `..` or a slash at its end.

    Raises:
        WorkingDirectoryUnusable: It is relative (`run.workdir`).
    """
    path = options.workdir or inherited(image).get("WorkingDir") or "/"
    if not path.startswith("/"):
        raise WorkingDirectoryUnusable(path, "it is not absolute")
    return clean_path(path)


def make_capabilities(account: Account) -> dict[str, list[str]]:
    """Return the capability sets: root of the container has them, another user only their bound."""
    held = CAPABILITIES if account.uid == 0 else []
    return {"bounding": CAPABILITIES, "effective": held, "permitted": held}


def make_mount(bind: Bind) -> dict[str, Any]:
    """Return the entry of `mounts` for a bind."""
    return {
        "destination": bind.destination,
        "type": "bind",
        "source": bind.source,
        "options": ["rbind", "rprivate", "nosuid", "nodev", "ro" if bind.readonly else "rw"],
    }


def make_stop_signal(image: dict[str, Any]) -> int:
    """Return what the process gets when `locald` gets TERM: the image's StopSignal, if the shim forwards it."""
    name = str(inherited(image).get("StopSignal") or "SIGTERM").upper()
    if name.isascii() and name.isdecimal():
        return int(name) if int(name) in STOP_SIGNALS.values() else signal.SIGTERM
    name = name if name.startswith("SIG") else f"SIG{name}"
    return STOP_SIGNALS.get(name, signal.SIGTERM)


def make_direct_account(account: Account, caller: Caller, asked: str | None) -> Account:
    """Return who runs in direct mode: the caller, with the home of the user that the image wanted.

    Raises:
        UserUnmappable: The user asked for somebody else by `-u` (`user.unmappable`).
    """
    if asked and (account.uid, account.gid) != (caller.uid, caller.gid):
        raise UserUnmappable(asked)
    return Account(uid=caller.uid, gid=caller.gid, home=account.home)


def volumes(image: dict[str, Any]) -> list[str]:
    """Return the image's Volumes: absolute directories, parents first."""
    paths = inherited(image).get("Volumes") or {}
    return sorted({clean_path(path) for path in paths if path.startswith("/")} - {"/"})


def is_mapped(container_id: int, caller_container_id: int, granted_ids: int) -> bool:
    """Tell whether an id exists where one id is the caller and the others are his subordinate ids, in order."""
    if container_id == caller_container_id:
        return True
    return (container_id if container_id < caller_container_id else container_id - 1) < granted_ids


def needed_ids(container_ids: "tuple[int, ...]", caller_container_id: int) -> int:
    """Return how many subordinate ids it takes until `is_mapped` holds for all of `container_ids`."""
    others = [number for number in container_ids if number != caller_container_id]
    return max(
        (number + 1 if number < caller_container_id else number for number in others),
        default=0,
    )


def inherited(image: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an image config that a container inherits."""
    return image.get("config") or {}


def clean_path(path: str) -> str:
    """Return an absolute path without empty, `.` and `..` components; `..` never leads above the root."""
    # normpath keeps two leading slashes, as POSIX allows.
    return "/" + posixpath.normpath(path).lstrip("/")
