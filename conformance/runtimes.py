"""The runtime under test, as a small adapter: how it is called, by whom, and which config.json it is given.

A peer takes the place of the shim to get the same matrix; the catalogue says which clauses are about any runtime.
Pure, but for the standard specs that it reads from the tree.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from conformance import clauses

Mode = Literal["mapped", "direct"]
# What locald decides by itself, in whichever mode, is judged in the one that every host has: a run takes an emulated
# guest a second or two.
ONCE: Final[Mode] = "direct"
Config = dict[str, Any]
Change = Callable[[Config], None]

MODES: tuple[Mode, ...] = ("mapped", "direct")
# What a config calls a namespace, and what /proc/PID/ns does.
NAMESPACES: Final = {
    **{kind: kind for kind in ("pid", "ipc", "uts", "user", "cgroup")},
    "network": "net",
    "mount": "mnt",
}
SPECS: Final = Path(__file__).parent / "specs"


def find_modes(traits: Collection[str]) -> tuple[Mode, ...]:
    """Return the modes that a host with these traits can have; what it says of the other is HOST-001's business."""
    return ("direct",) if "no-user-namespaces" in traits else MODES


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls the runtime, by number."""

    name: str
    uid: int
    gid: int
    # First id and count of his subordinate ranges; a count of 0 is none. Only a peer is told: the shim reads its own.
    subuids: tuple[int, int] = (0, 0)
    subgids: tuple[int, int] = (0, 0)


class Runtime(Protocol):
    """What the kit needs to know of a runtime."""

    @property
    def name(self) -> str:
        """The name for the command line and the report."""

    @property
    def program(self) -> str:
        """The absolute path of the program in the guest."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that it has."""

    @property
    def tells_status(self) -> bool:
        """Whether it has the status descriptor."""

    @property
    def wants_ranges(self) -> bool:
        """Whether the config has to hold the caller's subordinate ids."""

    def choose_user(self, user: str, *, mode: Mode) -> str:
        """Return who calls it for a container of `user`."""

    @property
    def leaves_cgroups(self) -> bool:
        """Whether SIGKILL of it leaves cgroups that nobody else will take away."""

    def make_argv(self, *, status: bool) -> list[str]:
        """Return the command line that runs `{bundle}` as `{id}`; the agent fills in the braces."""

    def make_config(self, args: Sequence[str], *, mode: Mode, caller: Caller, init: bool) -> Config:
        """Return the smallest runtime config with which it runs `args`."""


@dataclass(frozen=True, slots=True)
class LocaldShim:
    """Our setuid leaf; under another name its twin, which takes the same command line and decides by the same code."""

    program: str
    name: str = clauses.OURS
    modes: tuple[Mode, ...] = MODES
    tells_status: bool = True
    wants_ranges: bool = False
    # The shim's leaves are its own business, which clauses look at; its twin sweeps nothing.
    leaves_cgroups: bool = False

    def choose_user(self, user: str, *, mode: Mode) -> str:
        """See `Runtime`; it is setuid, so that the user calls it himself."""
        del mode
        return user

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
    """runc or crun: rootless where there is a user namespace, called by root where there is none.

    Its config is what `runc spec` writes with as little changed as the payload needs, since it adds nothing by itself.
    """

    program: str
    name: str
    modes: tuple[Mode, ...] = MODES
    tells_status: bool = False
    wants_ranges: bool = True
    leaves_cgroups: bool = True

    def choose_user(self, user: str, *, mode: Mode) -> str:
        """See `Runtime`; without a user namespace only root can."""
        return user if mode == "mapped" else "root"

    def make_argv(self, *, status: bool) -> list[str]:
        """See `Runtime`; there is no status descriptor."""
        del status
        options = ["--root", f"{STATE}/{{id}}"]
        if self.name == "crun":
            # The host's cgroups stay as they are; the clauses on limits are about the shim's own leaf.
            options.append("--cgroup-manager=disabled")
        return [self.program, *options, "run", "--bundle", "{bundle}", "{id}"]

    def make_config(self, args: Sequence[str], *, mode: Mode, caller: Caller, init: bool) -> Config:
        """See `Runtime`."""
        ours = LocaldShim(self.program).make_config(args, mode=mode, caller=caller, init=init)
        config = read_spec("runc-1.1.5-rootless" if mode == "mapped" else "runc-1.1.5")
        linux = config["linux"]
        # Nobody delegated a cgroup; the clauses on limits are about the shim's own leaf.
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
        linux.pop("resources", None)
        linux["namespaces"] = [*ours["linux"]["namespaces"], {"type": "cgroup"}]
        if mode == "mapped":
            linux["uidMappings"] = make_map(caller.uid, caller.subuids)
            linux["gidMappings"] = make_map(caller.gid, caller.subgids)
        return {**config, **{key: ours[key] for key in ("root", "process", "hostname")}}


STATE: Final = "/run/locald-kit"
"""Where peers keep what they know of a container; a directory of everybody's, made by the kit."""


@cache
def _spec_text(name: str) -> str:
    return (SPECS / f"{name}.json").read_text("utf-8")


def read_spec(name: str) -> Config:
    """Return a standard spec of `specs/`, the caller's own to change."""
    config: Config = json.loads(_spec_text(name))
    return config


def make_map(own: int, subordinate: tuple[int, int]) -> list[dict[str, int]]:
    """Return the map that the shim makes by itself: container id 0 is the caller, the next are his subordinate ids."""
    first, count = subordinate
    entries = [{"containerID": 0, "hostID": own, "size": 1}]
    return [*entries, {"containerID": 1, "hostID": first, "size": count}] if count else entries


RUNTIMES: Final = (clauses.OURS, "runc", "crun", "twin")
TWIN_MODES: Final[tuple[Mode, ...]] = ("mapped",)


def make_runtime(name: str, *, shim: str, peer: str) -> Runtime:
    """Return the adapter for `name`: `shim` and `peer` are the programs' places in the guest.

    Raises:
        ValueError: No runtime of that name is known.
    """
    match name:
        case clauses.OURS:
            return LocaldShim(shim)
        case "runc" | "crun":
            return Peer(peer, name)
        case "twin":
            return LocaldShim(peer, name, TWIN_MODES, leaves_cgroups=True)
        case _:
            raise ValueError(f"unknown runtime {name}; there are {', '.join(RUNTIMES)}")
