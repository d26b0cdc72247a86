"""The runtime under test, as a small adapter: how it is called and which config.json it is given.

Pure. A peer (runc, crun) takes the place of the shim to get the same matrix; what is about the shim's own command
line or refusal codes then fails, and the report says so.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Mode = Literal["mapped", "direct"]
Config = dict[str, Any]
Change = Callable[[Config], None]

MODES: tuple[Mode, ...] = ("mapped", "direct")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls the runtime, by number."""

    name: str
    uid: int
    gid: int


class Runtime(Protocol):
    """What the kit needs to know of a runtime."""

    @property
    def name(self) -> str:
        """The name for the command line and the report."""

    @property
    def program(self) -> str:
        """The absolute path of the program in the guest."""

    def make_argv(self, *, status: bool) -> list[str]:
        """Return the command line that runs `{bundle}` as `{id}`; the agent fills in the braces."""

    def make_config(self, args: Sequence[str], *, mode: Mode, caller: Caller, init: bool) -> Config:
        """Return the smallest runtime config with which it runs `args`."""


@dataclass(frozen=True, slots=True)
class LocaldShim:
    """Our setuid leaf."""

    program: str
    name: str = "locald-shim"

    def make_argv(self, *, status: bool) -> list[str]:
        """See `Runtime`."""
        argv = [self.program, "bundle", "run", "--bundle", "{bundle}", "--id", "{id}"]
        return [*argv, "--status-fd", "{status}"] if status else argv

    def make_config(self, args: Sequence[str], *, mode: Mode, caller: Caller, init: bool) -> Config:
        """See `Runtime`."""
        namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        if mode == "mapped":
            namespaces.append({"type": "user"})
        user = {"uid": 0, "gid": 0} if mode == "mapped" else {"uid": caller.uid, "gid": caller.gid}
        config: Config = {
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": False},
            "process": {
                "terminal": False,
                "user": user,
                "args": list(args),
                # The token is how the kit recognises a process that stayed behind.
                "env": ["PATH=/bin", "CONFORMANCE_TOKEN={token}"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "hostname": "conformance",
            "mounts": [],
            "linux": {"namespaces": namespaces},
        }
        if init:
            config["annotations"] = {"dev.locald.init": "true"}
        return config


@dataclass(frozen=True, slots=True)
class Peer:
    """runc or crun, rootless: a baseline that knows neither our modes' rules nor the status descriptor."""

    program: str
    name: str

    def make_argv(self, *, status: bool) -> list[str]:
        """See `Runtime`; there is no status descriptor."""
        del status
        return [self.program, "--root", "{bundle}/state", "run", "--bundle", "{bundle}", "{id}"]

    def make_config(self, args: Sequence[str], *, mode: Mode, caller: Caller, init: bool) -> Config:
        """See `Runtime`; it needs a user namespace with its map, and the usual mounts spelt out."""
        config = LocaldShim(self.program).make_config(args, mode="mapped", caller=caller, init=init)
        del mode
        config["process"]["user"] = {"uid": 0, "gid": 0}
        config["mounts"] = copy.deepcopy(list(STANDARD_MOUNTS))
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": caller.uid, "size": 1}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": caller.gid, "size": 1}]
        return config


# As `runc spec --rootless` writes them (runtime-spec 1.0.2), less the cgroup mount.
STANDARD_MOUNTS: tuple[Mapping[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    },
    {
        "destination": "/dev/shm",  # noqa: S108  # a place in the container
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"],
    },
)


def make_runtime(name: str, *, shim: str) -> Runtime:
    """Return the adapter for `name`.

    Raises:
        ValueError: No runtime of that name is known.
    """
    match name:
        case "locald-shim":
            return LocaldShim(shim)
        case "runc":
            return Peer("/usr/sbin/runc", "runc")
        case "crun":
            return Peer("/usr/bin/crun", "crun")
        case _:
            raise ValueError(f"unknown runtime {name}")
