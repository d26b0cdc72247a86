"""Read a profile: the declaration of one host, pure data in `profiles/NAME.toml`.

Strict: an unknown key, a missing one or a wrong type is an error that names the place, since a fact
that is silently left out would be a precondition that is silently not proven.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vms.errors import ProfileError
from vms.table import Table

DIRECTORY = Path(__file__).parent / "profiles"
KNOWN_USERS = ("plain", "bare", "asker", "confined")
"""plain: subordinate ids. bare: none. asker: sudo asks for a password. confined: SELinux user_u."""

TRAITS: Mapping[str, str] = {
    "selinux": "SELinux enforces a Debian-like policy; an ordinary login is in unconfined_t",
    "user-u": "there is a login confined to SELinux' user_u",
    "no-user-namespaces": "nobody who logs in gets a user namespace, root neither",
    "user-namespaces-of-root": "root gets one; whoever else logs in gets none, or one without its capabilities",
    "apparmor": "it is AppArmor that refuses them",
    "hardened": "/proc hides other users' processes, /home is nosuid and nodev, ptrace is for root",
    "cgroup2": "memory, pids and cpu are controllers of cgroup v2, so that what it delegates can have limits",
    "oracle": "podman and crun are installed; what the product does is compared with what they do",
    "unsupported": "the product has to refuse this host; only clauses that name this trait apply",
}
"""What a profile may say of its host for clauses to be chosen by; each is proven by the profile's facts."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that has to be seen on the machine for the profile to be in force."""

    id: str
    says: str
    user: str
    command: tuple[str, ...]
    exit_code: int | None = 0
    stdout: str | None = None
    stderr: str | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The private view that a `local` profile gives of this machine; paths are absolute.

    overlays: directories that are seen as they are and may be changed, without a trace outside.
    fresh: directories that are empty at the start.
    """

    overlays: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """One host.

    traits: What clauses are chosen by; names of `TRAITS`.
    watched: Files that nobody may write, and directories whose mounts nobody may change, while the machine is up.
    public: The box is one that others publish; the user says which file it is (see `vms.public`).
    emulated_arguments: Of the kernel too, where no hardware runs the guest's code: what makes emulation faster.
    python: The interpreter of the guest that is new enough for the product; empty if it has none.
    allowed_engines: The container engines that may be found on it.
    """

    name: str
    says: str
    kind: Literal["vm", "local"]
    users: tuple[str, ...]
    facts: tuple[Fact, ...]
    traits: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"
    watched: tuple[str, ...] = ()
    box: str = ""
    public: bool = False
    kernel_arguments: tuple[str, ...] = ()
    emulated_arguments: tuple[str, ...] = ()
    memory_mib: int = 0
    cpus: int = 0
    allowed_engines: tuple[str, ...] = ()
    sandbox: Sandbox = field(default_factory=Sandbox)


def names(directory: Path = DIRECTORY) -> tuple[str, ...]:
    """Return the names of all profiles, sorted."""
    return tuple(sorted(path.stem for path in directory.glob("*.toml")))


def read(name: str, directory: Path = DIRECTORY) -> Profile:
    """Return the profile `name`.

    Raises:
        ProfileError: There is none of that name, or its file is not as it must be.
    """
    path = directory / f"{name}.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise ProfileError(path, name, f"no such profile; there are {', '.join(names(directory))}")
    try:
        return parse(tomllib.loads(path.read_text("utf-8")), path)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(path, "syntax", str(error)) from error


def parse(data: Mapping[str, object], path: Path) -> Profile:
    """Return the profile that `data`, the content of `path`, declares; see `read`."""
    table = Table(dict(data), path, "profile")
    kind = table.text("kind")
    if kind not in ("vm", "local"):
        raise ProfileError(path, "kind", f"vm or local, not {kind!r}")
    users = table.texts("users")
    for user in users:
        if user not in KNOWN_USERS:
            raise ProfileError(path, "users", f"{user!r} is none of {', '.join(KNOWN_USERS)}")
    traits = table.texts("traits", ())
    for trait in traits:
        if trait not in TRAITS:
            raise ProfileError(path, "traits", f"{trait!r} is none of {', '.join(TRAITS)}")
    common = {
        "name": path.stem,
        "says": table.text("says"),
        "users": users,
        "traits": traits,
        "allowed_engines": table.texts("allowed_engines", ()),
        "facts": _facts(table, users, path),
    }
    if kind == "vm":
        public = table.flag("public")
        profile = Profile(
            kind="vm",
            box=table.text("box"),
            public=public,
            # A public box boots by itself, with what its own disk says.
            kernel_arguments=() if public else table.texts("kernel_arguments"),
            emulated_arguments=() if public else table.texts("emulated_arguments", ()),
            watched=_absolute(table, "watched"),
            python=_python(table),
            memory_mib=table.number("memory_mib", least=128),
            cpus=table.number("cpus", least=1),
            **common,  # type: ignore[arg-type]  # a dict of what both kinds have in common
        )
    else:
        inner = table.table("sandbox")
        sandbox = Sandbox(overlays=inner.texts("overlays"), fresh=inner.texts("fresh"))
        inner.end()
        for directory in (*sandbox.overlays, *sandbox.fresh):
            if not directory.startswith("/") or ".." in directory.split("/"):
                raise ProfileError(path, "sandbox", f"{directory!r} is not an absolute path")
        profile = Profile(kind="local", sandbox=sandbox, **common)  # type: ignore[arg-type]
    table.end()
    return profile


def _absolute(table: Table, key: str) -> tuple[str, ...]:
    paths = table.texts(key, ())
    for path in paths:
        if not path.startswith("/"):
            raise table.error(key, f"{path!r} is not an absolute path")
    return paths


def _python(table: Table) -> str:
    """`none` has to be said: a host on which the product cannot be installed is not one by accident."""
    path = table.text("python", "/usr/bin/python3")
    if path != "none" and not path.startswith("/"):
        raise table.error("python", f"an absolute path or none, not {path!r}")
    return "" if path == "none" else path


def _facts(table: Table, users: tuple[str, ...], path: Path) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    for inner in table.tables("facts"):
        fact = _fact(inner)
        inner.end()
        if fact.user != "root" and fact.user not in users:
            raise ProfileError(path, fact.id, f"the profile has no user {fact.user!r}")
        if fact.id in (known.id for known in facts):
            raise ProfileError(path, fact.id, "this id is there twice")
        facts.append(fact)
    return tuple(facts)


def _fact(table: Table) -> Fact:
    """A fact runs a `command`, or a `script` by /bin/sh -euc; `errno` stands for a stderr."""
    fact_id = table.text("id")
    if not _NAME.fullmatch(fact_id):
        raise table.error("id", f"{fact_id!r} is not of the form words-and-hyphens")
    table.where = f"fact {fact_id}"
    command, script = table.texts("command", ()), table.text("script", "")
    if bool(command) == bool(script):
        raise table.error("command", "a fact has a command or a script, one of them")
    name = table.text("errno", "")
    stderr = table.text("stderr", "") or None
    exit_code: int | None = table.number("exit_code", least=0, default=0)
    if name:
        if name not in ERRNO_TEXTS or stderr:
            raise table.error("errno", f"{name!r} is not known, or there is a stderr too")
        # Refusals are recognised by the words of strerror(3): the only form in which the tools of
        # a guest pass an errno on. Which non-zero exit code goes with it is the tool's business.
        stderr, exit_code = re.escape(ERRNO_TEXTS[name]) + "$", None
    stdout = table.text("stdout", "") or None
    for key, pattern in (("stdout", stdout), ("stderr", stderr)):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise table.error(key, f"not a regular expression: {error}") from error
    return Fact(
        id=fact_id,
        says=table.text("says"),
        user=table.text("user"),
        command=command or ("/bin/sh", "-euc", script),
        exit_code=exit_code,
        stdout=stdout,
        stderr=stderr,
    )


ERRNO_TEXTS: Mapping[str, str] = {
    "EPERM": "Operation not permitted",
    "EACCES": "Permission denied",
    "ENOSPC": "No space left on device",
    "EUSERS": "Too many users",
    "ENOSYS": "Function not implemented",
    "EINVAL": "Invalid argument",
}
"""strerror(3) of glibc in the C locale; the guest's C library decides, not the controller's."""
