"""Facts about this host and its caller, read once. Decides nothing.

Imports errors only. What the kernel allows a container is not here: the shim itself is asked (shim.py).
"""

import os
import pwd
from typing import NamedTuple

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"


class Host(NamedTuple):
    """This machine, as the caller sees it."""

    uid: int
    gid: int
    user: str  # login name, or the decimal uid of somebody without one
    home: str
    hostname: str
    resolv_conf: bytes  # empty where the host has none
    hosts: bytes


def read_host() -> Host:
    """Return the facts; what this host does not have is empty."""
    uid = os.getuid()
    try:
        entry = pwd.getpwuid(uid)
        user, home = entry.pw_name, entry.pw_dir
    except KeyError:
        user, home = str(uid), "/"
    return Host(
        uid=uid,
        gid=os.getgid(),
        user=user,
        # As every XDG program does: who sets HOME means it.
        home=os.environ.get("HOME") or home,
        hostname=os.uname().nodename,
        resolv_conf=_read(RESOLV_CONF),
        hosts=_read(HOSTS),
    )


def data_directory(host: Host) -> str:
    """Return where locald keeps images: $XDG_DATA_HOME/locald, as the XDG base directories say."""
    return _xdg("XDG_DATA_HOME", host.home, ".local/share")


def cache_directory(host: Host) -> str:
    """Return where locald makes bundles: $XDG_CACHE_HOME/locald."""
    return _xdg("XDG_CACHE_HOME", host.home, ".cache")


def _xdg(variable: str, home: str, default: str) -> str:
    chosen = os.environ.get(variable, "")
    # "All paths must be absolute. If a relative path is encountered, consider it invalid and ignore it."
    base = chosen if chosen.startswith("/") else os.path.join(home, default)
    return os.path.join(base, "locald")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
