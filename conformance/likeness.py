"""What locald's containers and podman's showed, side by side: alike, or different for a reason that is written down.

Pure but for the file of the reasons, `departures.toml`. An unexplained difference is a fault, and so is a reason that
nothing needs any more, or that is about another difference than the one that is there.
"""

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from conformance.observation import Facts, Mount
from conformance.runtimes import MODES, Mode

DEPARTURES: Final = Path(__file__).with_name("departures.toml")
ABSENT: Final = "absent"
_REQUIRED: Final = frozenset({"what", "locald", "podman", "why"})
# File systems of the kernel's own; whatever else is mounted shows files of some disk or memory.
_KERNELS: Final = frozenset({"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"})
_MEMORIES: Final = frozenset({"tmpfs", "devtmpfs"})
_FLAGS: Final = ("ro", "nosuid", "nodev", "noexec")
_SELF: Final = frozenset({".", ".."})

View = Mapping[str, str]
"""What was seen of one container, in words: a name for each thing, and what it was."""


class DepartureError(Exception):
    """The file of the reasons is not as it must be."""


@dataclass(frozen=True, slots=True)
class Departure:
    """One thing in which locald is not like podman, on purpose."""

    clause: str
    # A name of a view, or a glob of several that differ alike.
    what: str
    # Regular expressions, of the whole value.
    locald: str
    podman: str
    why: str
    modes: tuple[Mode, ...] = MODES

    def covers(self, clause: str, name: str, mode: Mode) -> bool:
        """Say whether it is about that."""
        return clause == self.clause and mode in self.modes and fnmatch.fnmatchcase(name, self.what)

    def explains(self, ours: str, theirs: str) -> bool:
        """Say whether these two values are the ones that it is about."""
        return bool(re.fullmatch(self.locald, ours) and re.fullmatch(self.podman, theirs))


def parse_departures(text: str) -> tuple[Departure, ...]:
    """Return the departures of `departures.toml`.

    Raises:
        DepartureError: Not TOML; an unknown, missing or empty key; not a regular expression; an unknown mode; the same
            thing explained twice.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DepartureError(f"departures: {error}") from error
    found = [
        _parse(clause, entry)
        for clause, entries in document.items()
        for entry in (entries if isinstance(entries, list) else [entries])
    ]
    names = [(departure.clause, departure.what, mode) for departure in found for mode in departure.modes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DepartureError(f"departures: explained twice: {twice}")
    return tuple(found)


def _parse(clause: str, entry: Any) -> Departure:
    if not isinstance(entry, dict) or set(entry) - {"modes"} != _REQUIRED:
        raise DepartureError(
            f"departures: {clause}: needs {', '.join(sorted(_REQUIRED))}, and may have modes"
        )
    texts = {key: entry[key] for key in _REQUIRED}
    if not all(isinstance(value, str) and value for value in texts.values()):
        raise DepartureError(f"departures: {clause}: something is not a text, or empty")
    for side in ("locald", "podman"):
        try:
            re.compile(texts[side])
        except re.error as error:
            raise DepartureError(f"departures: {clause}: {texts['what']}: {side}: {error}") from error
    modes = entry.get("modes", list(MODES))
    if not isinstance(modes, list) or not modes or not set(modes) <= set(MODES):
        raise DepartureError(f"departures: {clause}: {texts['what']}: modes are some of {', '.join(MODES)}")
    return Departure(clause=clause, modes=cast("tuple[Mode, ...]", tuple(modes)), **texts)


def read_departures() -> tuple[Departure, ...]:
    """Return the departures of the tree; see `parse_departures`."""
    return parse_departures(DEPARTURES.read_text("utf-8"))


def find_faults(
    clause: str, mode: Mode, ours: View, theirs: View, departures: Iterable[Departure]
) -> list[str]:
    """Return what is different for no reason, and which reason has no difference; nothing if all is as it is to be.

    Args:
        clause: The clause that is judged: its departures count, and no other's.
        mode: locald's.
        ours: What was seen in locald's containers.
        theirs: The same of podman's.
        departures: All that are known.
    """
    names = sorted(ours.keys() | theirs.keys())
    own = [entry for entry in departures if entry.clause == clause and mode in entry.modes]
    faults = []
    for name in names:
        pair = ours.get(name, ABSENT), theirs.get(name, ABSENT)
        reasons = [entry for entry in own if entry.covers(clause, name, mode)]
        if pair[0] == pair[1]:
            faults += [f"{name}: alike ({pair[0]}), and a reason says that it is not" for _ in reasons]
        elif not any(entry.explains(*pair) for entry in reasons):
            why = "for another reason than the one that is given" if reasons else "for no reason"
            faults.append(f"{name}: locald {pair[0]!r}, podman {pair[1]!r}: different {why}")
    faults += [
        f"{entry.what}: a reason, and nothing of that name was seen"
        for entry in own
        if not any(entry.covers(clause, name, mode) for name in names)
    ]
    return faults


def name_all(case: str, view: View) -> dict[str, str]:
    """Return a view with the case that it was seen in before each name."""
    return {f"{case}: {name}": value for name, value in view.items()}


def see_process(facts: Facts) -> dict[str, str]:
    """Return what runs and where."""
    return {"argv": " ".join(facts.lines("argv")), "cwd": facts.process["cwd"]}


def see_user(facts: Facts) -> dict[str, str]:
    """Return who runs: the numbers, and the home that goes with them.

    A first group that is named once more among the others gives nothing.
    """
    groups = sorted({int(word) for word in facts.status["Groups"].split()} - {int(facts.process["gid"])})
    return {
        "uid": "/".join(facts.status["Uid"].split()),
        "gid": "/".join(facts.status["Gid"].split()),
        "groups": " ".join(map(str, groups)) or "none",
        "HOME": facts.environ.get("HOME", ABSENT),
    }


def see_mounts(facts: Facts) -> dict[str, str]:
    """Return every mount by its place; of a file system of the kernel's its kind, of anything else `files`.

    By what a file is hidden is an engine's own business; that it is hidden `see_hidden` tells.
    """
    hidden = {line.split(" ")[0] for line in facts.lines("masked")}
    return {f"mount {mount.target}": _describe(mount) for mount in facts.mounts if mount.target not in hidden}


def _describe(mount: Mount) -> str:
    # A file of a tmpfs or of the host's /dev is a file like any other.
    whole = mount.kind in _KERNELS or (mount.kind in _MEMORIES and mount.root == "/")
    kind = mount.kind if whole and mount.target != "/" else "files"
    return " ".join([kind, *(flag for flag in _FLAGS if flag in mount.options)])


def see_devices(facts: Facts) -> dict[str, str]:
    """Return what is in /dev: links as such, nodes by their numbers."""
    found = {}
    for line in facts.lines("dev"):
        name, mode, _, _, numbers = line.split(" ")
        if name not in _SELF:
            found[f"dev {name}"] = _describe_node(int(mode, 8), numbers)
    return found


def _describe_node(mode: int, numbers: str) -> str:
    kinds = {0o120000: "link", 0o040000: "directory", 0o100000: "file", 0o020000: f"character {numbers}"}
    kinds[0o060000] = f"block {numbers}"
    kind = kinds.get(mode & 0o170000, "something else")
    # A link's own mode says nothing.
    return kind if kind == "link" else f"{kind} {mode & 0o7777:o}"


def see_hidden(facts: Facts) -> dict[str, str]:
    """Return which of the host's files are hidden; how (absent, empty, denied) is an engine's own business."""
    lines = (line.split(" ") for line in facts.lines("masked"))
    return {f"masked {path}": "OPEN" if word == "OPEN" else "hidden" for path, word in lines}


def see_rights(facts: Facts) -> dict[str, str]:
    """Return what the process holds and what it may do; a refusal counts, not its errno."""
    sets = {name: f"{facts.capabilities(name):x}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    tried = {f"may {name}": "refused" if code else "allowed" for name, code in facts.attempts.items()}
    return {
        **{f"capabilities {name}": value for name, value in sets.items()},
        "no_new_privs": facts.status["NoNewPrivs"],
        "seccomp": facts.status["Seccomp"],
        "umask": facts.process["umask"],
        **tried,
    }


def see_hosts(text: str) -> dict[str, str]:
    """Return the addresses of each name in hosts(5)."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            found.setdefault(name, set()).add(address)
    return {f"address of {name}": " ".join(sorted(addresses)) for name, addresses in found.items()}


def see_namespaces(facts: Facts, host: Mapping[str, str]) -> dict[str, str]:
    """Return which namespaces are the container's own; `host` has the links of the machine's first process."""
    inside = facts.table("namespaces")
    return {f"namespace {kind}": "host's" if inside[kind] == host[kind] else "own" for kind in sorted(host)}


def render(departures: Iterable[Departure], statements: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the manual's page: the departures of each clause, whose statements are given."""
    for clause, statement in statements.items():
        yield from (f"## {clause}", "", statement, "")
        own = [entry for entry in departures if entry.clause == clause]
        if not own:
            yield from ("No difference.", "")
            continue
        yield from ("| what | locald | podman | why |", "|---|---|---|---|")
        for entry in own:
            where = "" if entry.modes == MODES else f" ({', '.join(entry.modes)})"
            cells = (f"{_code(entry.what)}{where}", _code(entry.locald), _code(entry.podman), entry.why)
            yield f"| {' | '.join(cells)} |"
        yield ""


def _code(text: str) -> str:
    """A cell of a table: a bar would end it, in code too."""
    return "`" + text.replace("|", "\\|") + "`"
