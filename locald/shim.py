"""Find the setuid shim that this installation of locald put beside its command, and ask what it allows.

Imports process, deadline and errors. Neither $PATH nor argv[0], cwd or the environment decide what is found:
whoever sets them would decide what a user trusts as the shim. The place comes from the RECORD that pip, pipx
or uv wrote when it installed this very package; it is read directly, since importlib.metadata costs more to
import than a whole run of the shim.
"""

import json
import os
import stat
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from locald import __version__
from locald.deadline import Deadline
from locald.errors import ProgramFailed
from locald.errors.shim import (
    ShimError,
    ShimLinked,
    ShimMissing,
    ShimNosuid,
    ShimNotSetuid,
    ShimOutdated,
    ShimOwner,
    ShimPolicyDenied,
    ShimWritable,
)
from locald.process import capture

if TYPE_CHECKING:
    from collections.abc import Mapping

SHIM_NAME = "locald-shim"
COMMAND_NAME = "locald"
PROTOCOL = 1
# The shim answers in some milliseconds; a machine that swaps gets this long.
ANSWER_LIMIT_S = 20
INSTALL_LIMIT_S = 60


class Installation(NamedTuple):
    """Where the installer put our two programs; both absolute, neither looked at yet."""

    command: str
    shim: str

    def setup_command(self) -> list[str]:
        """Return what an administrator runs; absolute, since sudo's secure_path knows no venv."""
        return ["sudo", self.command, "admin", "setup"]


class Mode(NamedTuple):
    """Whether the shim can run containers in one mode, here and for this caller."""

    allowed: bool
    code: str | None
    why: str | None


class Policy(NamedTuple):
    """What the host's policy allows those whom it lets in."""

    modes: list[str]
    bind_ports: list[int]
    bind_addresses: list[str]
    max_containers: int
    min_shim: str | None


class Abilities(NamedTuple):
    """What `locald-shim check` said."""

    kernel: str
    mapped: Mode
    direct: Mode
    subordinate_uids: int
    subordinate_gids: int
    cgroup: str
    policy: Policy | None = None
    limits: "Mapping[str, Mode]" = MappingProxyType({})  # by controller: memory, pids, cpu

    def mode(self, name: str) -> Mode:
        """Return what is known of "mapped" or "direct"."""
        return self.mapped if name == "mapped" else self.direct


def find_installation(package: str | None = None) -> Installation:
    """Return where this package's own RECORD says that its programs are.

    Args:
        package: The directory of the running package; found by itself unless a test gives one.

    Raises:
        ShimMissing: There is no RECORD, or it names no shim.
    """
    package = package or os.path.dirname(os.path.abspath(__file__))
    for place in _places(package):
        record = os.path.join(place, f"locald-{__version__}.dist-info", "RECORD")
        try:
            with open(record, encoding="utf-8") as file:
                found = _read_record(place, file.read())
        except OSError:
            continue
        if found is not None:
            return found
    raise ShimMissing(
        f"The installation of locald in {os.path.dirname(package)} has no record of a {SHIM_NAME}.",
        hint="Install locald again, with pip, pipx or uv.",
    )


def read_status(path: str) -> os.stat_result:
    """Return what lstat(2) says of the shim at `path`.

    Raises:
        ShimMissing: It is no regular file.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise ShimMissing(
            f"{path} is missing ({error.strerror}).", hint="Install locald again, with pip, pipx or uv."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ShimMissing(
            f"{path} is not a regular file.", hint="Remove it and install locald again, with pip, pipx or uv."
        )
    return status


def find_shim(installation: Installation) -> str:
    """Return the shim's path after looking at the file itself.

    Raises:
        ShimError: The kind that names the first of these that does not hold: a regular file (`shim.missing`),
            setuid (`shim.not-setuid`), root's (`shim.owner`), written by root only (`shim.writable`),
            one name (`shim.linked`), a mount that honours setuid (`shim.nosuid`).
    """
    path, setup = installation.shim, installation.setup_command()
    status = read_status(path)
    # First, for it is what everybody meets once: freshly installed, or upgraded.
    if not status.st_mode & stat.S_ISUID:
        raise ShimNotSetuid.mended_by_setup(f"{path} has not been set up on this host yet.", setup)
    if status.st_uid != 0:
        raise ShimOwner.mended_by_setup(f"{path} belongs to uid {status.st_uid} and not to root.", setup)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ShimWritable.mended_by_setup(
            f"{path} can be written by others than root (mode {stat.S_IMODE(status.st_mode):04o}).", setup
        )
    if status.st_nlink != 1:
        raise ShimLinked.mended_by_setup(
            f"{path} has {status.st_nlink} names; another one could keep an old shim alive.", setup
        )
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        raise ShimNosuid(
            f"{path} lies on a file system mounted nosuid, where a setuid program has no effect.",
            hint="Install locald's wheel elsewhere, such as in /opt/locald: "
            "sudo python3 -m venv /opt/locald && sudo /opt/locald/bin/pip install ./locald-*.whl && "
            "sudo /opt/locald/bin/locald admin setup",
        )
    return path


def ask_abilities(installation: Installation) -> Abilities:
    """Find the shim, ask what it allows, and return it if this caller may use it.

    Raises:
        ShimError: As `find_shim`; or it speaks another protocol (`shim.outdated`); or the policy of this host
            does not let this caller in (`shim.policy`).
    """
    path = find_shim(installation)
    setup = installation.setup_command()
    answer = read_check(path, setup)
    policy = answer["policy"]
    if policy["code"] == ShimOutdated.code:
        raise ShimOutdated.mended_by_setup(f"{path} cannot be used: {policy['why']}.", setup)
    if not policy["allowed"]:
        raise ShimPolicyDenied.mended_by_setup(
            f"The policy of this host does not let you run containers: {policy['why']}.", setup
        )
    try:
        return Abilities(
            kernel=answer["kernel"],
            mapped=_mode(answer["modes"]["mapped"]),
            direct=_mode(answer["modes"]["direct"]),
            subordinate_uids=answer["subids"]["uids"],
            subordinate_gids=answer["subids"]["gids"],
            cgroup=answer["cgroup"],
            policy=_policy(answer["effective"]),
            limits={name: _mode(found) for name, found in answer["limits"].items()},
        )
    except (KeyError, TypeError) as error:
        raise _outdated(path, setup) from error


def read_check(path: str, setup: list[str]) -> dict[str, Any]:
    """Return the answer of `check` once the protocol is known to be ours (else `shim.outdated`)."""
    output = capture([path, "check"], deadline=Deadline.after(seconds=ANSWER_LIMIT_S))
    answer = _parse(output.stdout)
    if answer is None or answer.get("protocol") != PROTOCOL or "policy" not in answer:
        # A shim too old to answer `check` still knows `version`.
        version = read_version(path)
        if version is None or version.get("protocol") != PROTOCOL:
            raise _outdated(path, setup)
        output.checked()
        raise _outdated(path, setup)
    return answer


def read_version(path: str) -> dict[str, Any] | None:
    """Return the answer of `version`, or None if it is none."""
    return _parse(capture([path, "version"], deadline=Deadline.after(seconds=ANSWER_LIMIT_S)).stdout)


def run_install(path: str) -> dict[str, Any]:
    """Make the shim at `path` root's and setuid; root only. Return what the shim says it did.

    Raises:
        ProgramFailed: It refused; its line is in the message.
    """
    said = capture([path, "install"], deadline=Deadline.after(seconds=INSTALL_LIMIT_S)).checked()
    answer = _parse(said)
    if answer is None:
        raise ProgramFailed([path, "install"], "its answer is no JSON", said)
    return answer


def run_argv(path: str, bundle: str, container_id: str) -> list[str]:
    """Return the command that runs a bundle; the status pipe is descriptor 3."""
    return [path, "bundle", "run", "--bundle", bundle, "--id", container_id, "--status-fd", "3"]


def cleanup_argv(path: str, bundle: str) -> list[str]:
    """Return the command that removes what a container left in `bundle`/rootfs under subordinate ids."""
    return [path, "cleanup", "--bundle", bundle]


def bind_argv(path: str, port: int, address: str) -> list[str]:
    """Return the command that sends a listening socket over its stdin."""
    return [path, "bind", "--port", str(port), "--address", address]


def _places(package: str) -> list[str]:
    """Return where the package's dist-info can be: beside it, or, for an editable install, in this Python."""
    beside = os.path.dirname(package)
    if os.path.isdir(os.path.join(beside, f"locald-{__version__}.dist-info")):
        return [beside]
    # Only developers come here. Not sys.path: PYTHONPATH would have a say.
    import site  # noqa: PLC0415  # loaded at start-up anyway, unless Python runs with -S
    import sysconfig  # noqa: PLC0415  # dear, and only needed here

    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if sys.prefix == sys.base_prefix:
        places.append(site.getusersitepackages())
    return places


def _read_record(place: str, text: str) -> Installation | None:
    """Return the two programs that a RECORD names (its paths are relative to `place`)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        # A quoted path holds a comma or a quote; neither of our two names does, their directory may.
        path = line.rpartition(",")[0].rpartition(",")[0]
        if path.startswith('"') and path.endswith('"'):
            path = path[1:-1].replace('""', '"')
        name = os.path.basename(path)
        if name in {SHIM_NAME, COMMAND_NAME}:
            found[name] = os.path.normpath(os.path.join(place, path))
    if SHIM_NAME not in found or COMMAND_NAME not in found:
        return None
    return Installation(command=found[COMMAND_NAME], shim=found[SHIM_NAME])


def _mode(answer: dict[str, Any]) -> Mode:
    return Mode(allowed=bool(answer["allowed"]), code=answer["code"], why=answer["why"])


def _policy(answer: dict[str, Any]) -> Policy:
    return Policy(
        modes=answer["modes"],
        bind_ports=answer["bind-ports"],
        bind_addresses=answer["bind-addresses"],
        max_containers=answer["max-containers"],
        min_shim=answer["min-shim"],
    )


def _outdated(path: str, setup: list[str]) -> ShimError:
    return ShimOutdated.mended_by_setup(
        f"{path} does not speak protocol {PROTOCOL}, as locald {__version__} does.", setup
    )


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
