"""Make, find and remove bundles: a directory with config.json, the root filesystem and what is bound into it.

Imports images.files, spec and errors. Never starts anything: who removes files of subordinate ids, and who
ends the container of a `locald` that was killed, is handed in.

    <random>/             locked (flock) by the `locald run` that made it
        config.json
        rootfs/           the container's own copy of the image, unless it is read-only
        etc/              resolv.conf, hosts, hostname, in direct mode passwd and group
        volumes/N/rootfs  anonymous volumes
        status            a FIFO; the shim holds its other end for as long as it runs
        shim              the shim's pid, in decimal

The lock tells whether `locald` lives, the FIFO whether the shim does. /proc would not: hidepid=2 hides it.
"""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locald.errors.images import TreeForeign
from locald.errors.run import BundleUnwritable
from locald.images import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locald.host import Host
    from locald.spec import Account

CONFIG = "config.json"
ROOTFS = "rootfs"
STATUS = "status"
SHIM_PID = "shim"
# How long the shim of a dead `locald` may take to go once it got KILL.
ORPHAN_LIMIT_S = 2.0
POLL_S = 0.01
LOGIN_SHELL = "/bin/sh"


class Bundle:
    """A bundle of our own; locked until `remove` or until this process ends, however it ends."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def remove(self, remove_foreign: "Callable[[Path], None]") -> None:
        """Remove all of it and unlock; `remove_foreign` removes PATH/rootfs of files of subordinate ids."""
        try:
            _remove(self.path, remove_foreign)
        finally:
            os.close(self._descriptor)


def make_bundle(parent: str) -> Bundle:
    """Make an empty bundle below `parent`, which is made too if it is missing.

    Raises:
        BundleUnwritable: There is no room or no right (`run.bundle`).
    """
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        while True:
            path = f"{parent}/{os.urandom(8).hex()}"
            os.mkdir(path, 0o700)
            descriptor = files.open_locked_directory(Path(path))
            # None: a starting `locald` took it for a dead one's before it was locked.
            if descriptor is not None:
                return Bundle(path, descriptor)
    except OSError as error:
        raise BundleUnwritable(parent, error.strerror or str(error)) from error


def write_config(bundle: str, config: dict[str, Any]) -> None:
    """Write config.json; what is not UTF-8 in argv, env or paths is written as the bytes that it is."""
    text = json.dumps(config, ensure_ascii=False, separators=(",", ":"))
    write_file(bundle, CONFIG, text.encode(errors="surrogateescape"))


def write_file(bundle: str, name: str, content: bytes) -> str:
    """Write `name` below the bundle, readable for everybody in the container, and return its path."""
    path = f"{bundle}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)
    return path


def open_status(bundle: str) -> tuple[int, int]:
    """Make the FIFO and return its two ends: ours to read from, and the one for the shim."""
    path = f"{bundle}/{STATUS}"
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return reader, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def remove_dead_bundles(parent: str, remove_foreign: "Callable[[Path], None]") -> None:
    """Remove what killed `locald run`s left below `parent`, after ending what still runs of them.

    A container does not outlive its `locald run`: nobody would forward a signal to it or remove its bundle.
    What cannot be removed now waits for the next start.
    """
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return
    for name in names:
        path = f"{parent}/{name}"
        try:
            descriptor = files.open_locked_directory(Path(path), wait=False)
        except OSError:
            # No directory: nothing that we made.
            continue
        if descriptor is None:
            continue
        try:
            if _end_orphan(path):
                with suppress(OSError, TreeForeign):
                    _remove(path, remove_foreign)
        finally:
            os.close(descriptor)


def make_etc(host: "Host", hostname: str, network: str) -> dict[str, bytes]:
    """Return the files of /etc that podman gives a container, by name.

    With the host's network they are the host's own; without one, only the container itself has a name.
    """
    hosts = host.hosts
    if network == "none":
        hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.0.1\t{hostname}\n".encode()
    return {"resolv.conf": host.resolv_conf, "hosts": hosts, "hostname": f"{hostname}\n".encode()}


def add_caller(table: bytes, entry: str, column: int) -> bytes:
    """Return a passwd or group table in which the number in `column` of `entry` is known.

    An entry that the image has for this number stays: programs of the image may count on its name.
    """
    number = entry.split(":")[column].encode()
    for line in table.splitlines():
        fields = line.split(b":")
        if len(fields) > column and fields[column] == number:
            return table
    separator = b"" if not table or table.endswith(b"\n") else b"\n"
    return table + separator + entry.encode() + b"\n"


def make_accounts(host: "Host", account: "Account", passwd: bytes, group: bytes) -> dict[str, bytes]:
    """Return passwd and group of a container in direct mode: the image's, with the caller in them."""
    name = host.user if host.user.replace("-", "").replace("_", "").replace(".", "").isalnum() else "caller"
    return {
        "passwd": add_caller(
            passwd, f"{name}:x:{host.uid}:{host.gid}:{name}:{account.home}:{LOGIN_SHELL}", 2
        ),
        "group": add_caller(group, f"{name}:x:{host.gid}:", 2),
    }


def _end_orphan(path: str) -> bool:
    """Make sure that no shim works in the bundle, whose `locald` is dead; False if one cannot be ended."""
    try:
        reader = os.open(f"{path}/{STATUS}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # It was killed before it started one.
        return True
    try:
        until = time.monotonic() + ORPHAN_LIMIT_S
        killed = False
        while _has_writer(reader):
            if not killed:
                # The writer is that very shim and it is alive, so its pid is its own.
                with suppress(OSError, ValueError), open(f"{path}/{SHIM_PID}", "rb") as file:
                    os.kill(int(file.read(16)), signal.SIGKILL)
                killed = True
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True
    finally:
        os.close(reader)


def _has_writer(reader: int) -> bool:
    """Tell whether somebody holds the other end of a FIFO: read(2) says "end" only if nobody does."""
    try:
        while os.read(reader, 4096):
            pass
    except BlockingIOError:
        return True
    return False


def _remove(path: str, remove_foreign: "Callable[[Path], None]") -> None:
    try:
        files.remove_tree(Path(path))
    except TreeForeign:
        for place in _roots(path):
            remove_foreign(Path(place))
        files.remove_tree(Path(path))


def _roots(path: str) -> "Iterable[str]":
    """Yield the directories whose `rootfs` a container could write to."""
    yield path
    with suppress(FileNotFoundError):
        for name in os.listdir(f"{path}/volumes"):
            yield f"{path}/volumes/{name}"
