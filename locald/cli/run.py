"""`locald run`: read the command line, see that the shim may be used, run, tidy up.

Loaded by every run: no click, nothing of the registry (tests/test_architecture.py has the list).
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from locald import bundle, shim
from locald.cli.options import RUN_OPTIONS, Value
from locald.cli.options import parse as parse_options
from locald.cli.progress import make_progress
from locald.errors import UsageError
from locald.errors.run import (
    BundleUnwritable,
    EnvironmentFileUnreadable,
    LimitsUnavailable,
    TerminalMissing,
    VolumeUnusable,
)
from locald.errors.shim import ShimError
from locald.host import cache_directory, data_directory, read_host
from locald.images.pull import pull
from locald.images.store import Store
from locald.log import note, write
from locald.process import converse
from locald.runtime import LinuxRuntime, Request, make_remover, new_id
from locald.spec import Bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from locald.host import Host
    from locald.images.store import Image

# The options that limits.py reads.
LIMITS = ("memory", "memory_swap", "pids_limit", "cpus", "cpu_shares")
NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
MAX_NAME_LENGTH = 64
# Not from PATH: what is found there would get the administrator's password.
SUDO_PLACES = ("/usr/bin/sudo", "/bin/sudo", "/usr/local/bin/sudo", "/run/wrappers/bin/sudo")


class CommandLine(NamedTuple):
    """A `locald run` that was understood."""

    request: Request
    may_ask: bool


def parse(words: list[str]) -> tuple[dict[str, Value], list[str]] | None:
    """Return options and the other words, or None if click has something to explain."""
    parsed = parse_options(words, RUN_OPTIONS)
    if parsed is None or not parsed[1]:
        return None
    return parsed


def run(parsed: tuple[dict[str, Value], list[str]]) -> int:
    """Run a container to its end; return its exit status.

    Raises:
        LocaldError: Whatever went wrong before the shim was started; nothing is left behind.
    """
    line = make_command_line(*parsed)
    request = line.request
    check_terminal(request)
    host = read_host()
    installation = shim.find_installation()
    abilities = ask_abilities(installation, may_ask=line.may_ask)
    check_limits(request, abilities)
    bundles = os.path.join(cache_directory(host), "bundles")
    remover = make_remover(installation.shim)
    store = open_store(host, remover)
    runtime = LinuxRuntime(
        request,
        host=host,
        shim_path=installation.shim,
        abilities=abilities,
        store=store,
        bundles=bundles,
        note=note,
    )
    bundle.remove_dead_bundles(bundles, remover)
    image = find_image(request.reference, store)
    made = bundle.make_bundle(bundles)
    try:
        try:
            runtime.prepare_bundle(image, made.path)
        except OSError as error:
            raise BundleUnwritable(made.path, error.strerror or str(error)) from error
        return runtime.run_container(made.path, request.name or new_id())
    finally:
        # A second Ctrl-C would leave half of it behind, until the next start.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        made.remove(remover)


# --- reading the command line ------------------------------------------------------------------------


def make_command_line(values: dict[str, Value], words: list[str]) -> CommandLine:
    """Check what options and words say; read the files that they name.

    Raises:
        UsageError: They do not go together (exit 2).
        EnvironmentFileUnreadable, VolumeUnusable: (exit 125).
    """
    image, *command = words
    if command[:1] == ["--"]:
        del command[0]

    def text(name: str) -> str | None:
        value = values[name]
        return value if isinstance(value, str) else None

    def texts(name: str) -> list[str]:
        value = values[name]
        return value if isinstance(value, list) else []

    environment: dict[str, str] = {}
    for path in texts("env_file"):
        environment.update(read_environment_file(path))
    environment.update(pair for entry in texts("env") for pair in make_variable(entry))
    request = Request(
        reference=image,
        command=tuple(command),
        name=make_name(text("name")),
        environment=tuple(environment.items()),
        workdir=text("workdir"),
        user=text("user"),
        volumes=tuple(make_volume(volume) for volume in texts("volume")),
        entrypoint=text("entrypoint"),
        network=text("network") or "host",
        mode=text("mode") or "auto",
        read_only=bool(values["read_only"]),
        init=not values["no_init"],
        interactive=bool(values["interactive"]),
        terminal=bool(values["tty"]),
        terminal_size=terminal_size() if values["tty"] else None,
        resources=make_resources(values),
    )
    return CommandLine(request, may_ask=not values["no_input"])


def make_resources(values: dict[str, Value]) -> dict[str, Any]:
    """Return what is limited; most runs limit nothing, and load nothing for it."""
    asked = {name: value for name in LIMITS if isinstance(value := values[name], str)}
    if not asked:
        return {}
    from locald import limits  # noqa: PLC0415  # as the docstring says

    return limits.make_resources(asked)


def make_name(name: str | None) -> str | None:
    """Return a container name that the shim takes as an id."""
    if name is not None and not (
        set(name) <= NAME_LETTERS and name[:1].isalnum() and len(name) <= MAX_NAME_LENGTH
    ):
        raise UsageError(
            f"{name!r} is no container name.",
            hint="Use up to 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or a digit.",
        )
    return name


def make_variable(entry: str) -> "Iterator[tuple[str, str]]":
    """Yield the variable that `NAME=VALUE` sets, or that `NAME` takes from here, if it is set here."""
    name, equals, value = entry.partition("=")
    if not name:
        raise UsageError(f"-e {entry!r} names no variable.", hint="Write -e NAME=VALUE or -e NAME.")
    if equals:
        yield name, value
    elif name in os.environ:
        yield name, os.environ[name]


def read_environment_file(path: str) -> "Iterator[tuple[str, str]]":
    """Yield what a file sets, as docker and podman read it: no quotes, no expansion.

    Raises:
        EnvironmentFileUnreadable: (exit 125, `run.env-file`).
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise EnvironmentFileUnreadable(path, error.strerror or str(error)) from error
    for number, raw in enumerate(lines, 1):
        line = os.fsdecode(raw.removesuffix(b"\r")).lstrip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or name.split() != [name]:
            raise EnvironmentFileUnreadable(path, f"line {number} names no variable")
        yield from make_variable(line)


def make_volume(text: str) -> Bind:
    """Read SRC:DST[:ro|rw].

    Raises:
        VolumeUnusable: (exit 125, `run.volume`).
    """
    source, _, rest = text.partition(":")
    destination, _, option = rest.partition(":")
    if option not in {"", "ro", "rw"}:
        raise VolumeUnusable(text, f"{option!r} is neither ro nor rw")
    if not destination.startswith("/"):
        raise VolumeUnusable(text, "its destination is not absolute")
    if not source.startswith(("/", "./", "../")) and source not in {".", ".."}:
        raise VolumeUnusable(text, "its source is neither absolute nor begins with ./ or ../")
    if not os.path.exists(source):
        raise VolumeUnusable(text, "its source does not exist")
    return Bind(os.path.realpath(source), destination, readonly=option == "ro")


# --- the terminal and the person at it ---------------------------------------------------------------


def check_limits(request: Request, abilities: shim.Abilities) -> None:
    """Refuse limits that cannot be kept here, before anything is pulled for them (`run.limits`)."""
    for name in request.resources:
        found = abilities.limits.get(name)
        if found is not None and not found.allowed:
            raise LimitsUnavailable(name, found.code or "", found.why or "")


def check_terminal(request: Request) -> None:
    """Refuse `-t` away from a terminal (`run.no-terminal`)."""
    if not request.terminal:
        return
    if request.interactive and not os.isatty(0):
        raise TerminalMissing("stdin")
    if not os.isatty(1):
        raise TerminalMissing("stdout")


def terminal_size() -> tuple[int, int] | None:
    """Return columns and lines of the terminal at stdout, if there is one that knows."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return None
    return (size.columns, size.lines) if size.columns and size.lines else None


def ask_abilities(installation: shim.Installation, *, may_ask: bool) -> shim.Abilities:
    """Ask the shim; where only a set-up is missing, offer it to a person at a terminal.

    Raises:
        ShimError: (exit 125, `shim.*`).
    """
    try:
        return shim.ask_abilities(installation)
    except ShimError as error:
        sudo = next((place for place in SUDO_PLACES if os.access(place, os.X_OK)), None)
        if not may_ask or error.setup is None or sudo is None or not (os.isatty(0) and os.isatty(2)):
            raise
        write(f"locald: [{error.code}]: {error}")
        if not agree(f"  Run `{' '.join(error.setup)}` now? [Y/n] "):
            raise
        converse([sudo, *error.setup[1:]], env=os.environ)
        return shim.ask_abilities(installation)


def agree(question: str) -> bool:
    """Ask a person; anything but an empty line or a yes is a no."""
    sys.stderr.write(question)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return answer.endswith("\n") and answer.strip().lower() in {"", "y", "yes"}


# --- the image ---------------------------------------------------------------------------------------


def open_store(host: "Host", remover: "Callable[[Path], None]") -> Store:
    """Return this user's store."""
    return Store(Path(data_directory(host), "store"), remove_foreign=remover)


def find_image(reference: str, store: Store) -> "Image":
    """Return the image, pulled if it is not here."""
    with make_progress(quiet=not os.isatty(2)) as progress:
        return pull(reference, store=store, progress=progress)
