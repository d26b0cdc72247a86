"""Who is measured: how each starts the same program in the same namespaces.

A contender is a command and the user who runs it. Each has bundles of its own, all with the same root filesystem.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

Network = Literal["new", "host"]
PREPARE_LIMIT_S = 60
INIT = "dev.locald.init"


@dataclass(frozen=True)
class User:
    """An ordinary user."""

    name: str
    uid: int
    gid: int
    home: Path


@dataclass(frozen=True)
class Contender:
    """One way to start a container."""

    name: str
    command: Callable[[Sequence[str]], list[str]]  # for a payload; @ID@ stands for a fresh container id
    user: User | None = None  # None: root
    cgroup2: bool = False  # needs /sys/fs/cgroup to be cgroup2, in a mount namespace of its own
    environment: tuple[tuple[str, str], ...] = ()  # beside PATH

    def wrapped(self, command: Sequence[str]) -> list[str]:
        """Return `command` as this contender's user, where it needs them with mounts of its own."""
        whole = list(command)
        if self.user is not None:
            ids = [f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--clear-groups"]
            whole = ["/usr/bin/setpriv", *ids, "--", *whole]
        if self.cgroup2:
            script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
            whole = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *whole]
        return whole


class Workshop:
    """Makes what contenders need below one directory."""

    def __init__(self, root: Path, user: User, network: Network) -> None:
        self.root = root
        self.user = user
        self.network = network
        self.rootfs = root / "rootfs"
        self._number = 0

    def make_rootfs(self, busybox: Path) -> None:
        """Make the one root filesystem: static busybox, and the directories that are mounted on."""
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copyfile(busybox, self.rootfs / "bin" / "busybox")
        (self.rootfs / "bin" / "busybox").chmod(0o755)
        for name in ("true", "sh", "readlink", "sleep"):
            (self.rootfs / "bin" / name).symlink_to("busybox")
        for directory, names, files in os.walk(self.rootfs):
            for entry in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
                os.lchown(entry, self.user.uid, self.user.gid)

    def bundle(self, config: dict[str, Any], owner: User | None) -> Path:
        """Write `config` into a new bundle with the common root filesystem."""
        self._number += 1
        path = self.root / f"bundle-{self._number}"
        path.mkdir()
        config["root"] = {"path": str(self.rootfs)}
        (path / "config.json").write_text(json.dumps(config))
        if owner is not None:
            for entry in (path, path / "config.json"):
                os.chown(entry, owner.uid, owner.gid)
        return path

    def standard_config(self, payload: Sequence[str], *, rootless: bool) -> dict[str, Any]:
        """Return what `runc spec` writes, with another payload, no terminal, and the network of this run."""
        self._number += 1
        directory = self.root / f"spec-{self._number}"
        directory.mkdir()
        command = ["runc", "spec", f"--bundle={directory}", *(["--rootless"] if rootless else [])]
        subprocess.run(command, check=True, timeout=PREPARE_LIMIT_S, stdin=subprocess.DEVNULL)  # noqa: S603
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        config["process"] |= {"args": list(payload), "terminal": False}
        spaces = [space for space in config["linux"]["namespaces"] if space["type"] != "network"]
        # With and without a user namespace alike: what `runc spec --rootless` leaves out is added.
        spaces = [space for space in spaces if space["type"] != "cgroup"] + [{"type": "cgroup"}]
        if self.network == "new":
            spaces.append({"type": "network"})
        config["linux"]["namespaces"] = spaces
        return config


def make_contenders(
    workshop: Workshop, shim: Path, floor: Path, beside: Path | None = None
) -> tuple[list[Contender], list[str]]:
    """Return everybody who can be measured here, and the names of the peers that are not installed.

    `beside` is a second build of the shim, called in the same ways.
    """
    found = [
        Contender(
            "floor (root)", lambda payload: [str(floor), workshop.network, str(workshop.rootfs), *payload]
        )
    ]
    found += [
        make_shim_contender(workshop, shim, mode, init=init)
        for mode in ("mapped", "direct")
        for init in (False, True)
    ]
    if beside is not None:
        pairs = [
            (each, make_shim_contender(workshop, beside, each, init=False)) for each in ("mapped", "direct")
        ]
        found += [replace(contender, name=name_beside(f"shim {mode}")) for mode, contender in pairs]
    missing = []
    for name, make in PEERS.items():
        program = shutil.which(name.split()[0])
        if program is None:
            missing.append(name)
        else:
            found.append(make(workshop, program))
    return found, missing


def name_beside(name: str) -> str:
    """Return what the second build of the contender `name` is called."""
    return f"{name} (beside)"


def make_shim_contender(workshop: Workshop, shim: Path, mode: str, *, init: bool) -> Contender:
    """Return the shim in one mode, as the ordinary user calls it."""

    def command(payload: Sequence[str]) -> list[str]:
        config = workshop.standard_config(payload, rootless=mode == "mapped")
        config["annotations"] = {INIT: "true" if init else "false"}
        if mode == "direct":
            config["process"]["user"] = {"uid": workshop.user.uid, "gid": workshop.user.gid}
        else:
            # `runc spec --rootless` was run by root here; the shim's own map is the caller's.
            for name in ("uidMappings", "gidMappings"):
                config["linux"].pop(name, None)
        bundle = workshop.bundle(config, workshop.user)
        return [str(shim), "bundle", "run", "--bundle", str(bundle), "--id", "@ID@"]

    return Contender(f"shim {mode}{' init' if init else ''}", command, workshop.user)


def make_crun_root(workshop: Workshop, program: str) -> Contender:
    """Return crun as root, without cgroups."""
    state = workshop.root / "crun-root"

    def command(payload: Sequence[str]) -> list[str]:
        bundle = workshop.bundle(workshop.standard_config(payload, rootless=False), None)
        options = [f"--root={state}", "--cgroup-manager=disabled"]
        return [program, *options, "run", f"--bundle={bundle}", "@ID@"]

    return Contender("crun (root)", command, cgroup2=True)


def make_crun_rootless(workshop: Workshop, program: str) -> Contender:
    """Return crun as the ordinary user, without cgroups."""
    state = workshop.root / "crun-rootless"
    state.mkdir(exist_ok=True)
    os.chown(state, workshop.user.uid, workshop.user.gid)

    def command(payload: Sequence[str]) -> list[str]:
        config = workshop.standard_config(payload, rootless=True)
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": workshop.user.uid, "size": 1}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": workshop.user.gid, "size": 1}]
        bundle = workshop.bundle(config, workshop.user)
        options = [f"--root={state}", "--cgroup-manager=disabled"]
        return [program, *options, "run", f"--bundle={bundle}", "@ID@"]

    return Contender("crun (rootless)", command, workshop.user, cgroup2=True)


def make_runc(workshop: Workshop, program: str) -> Contender:
    """Return runc as root, with its cgroups: it has no way to do without."""
    state = workshop.root / "runc"

    def command(payload: Sequence[str]) -> list[str]:
        bundle = workshop.bundle(workshop.standard_config(payload, rootless=False), None)
        return [program, f"--root={state}", "run", f"--bundle={bundle}", "@ID@"]

    return Contender("runc (root)", command)


def make_bwrap(workshop: Workshop, program: str) -> Contender:
    """Return bubblewrap as the ordinary user, with the same namespaces."""
    spaces = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"]
    if workshop.network == "new":
        spaces.append("--unshare-net")
    view = ["--bind", str(workshop.rootfs), "/", "--proc", "/proc", "--dev", "/dev"]

    def command(payload: Sequence[str]) -> list[str]:
        return [program, *spaces, "--die-with-parent", *view, "--", *payload]

    return Contender("bwrap", command, workshop.user)


PEERS: dict[str, Callable[[Workshop, str], Contender]] = {
    "crun (root)": make_crun_root,
    "crun (rootless)": make_crun_rootless,
    "runc (root)": make_runc,
    "bwrap": make_bwrap,
}
