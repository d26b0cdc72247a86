"""Read what the observer printed inside a container into facts with names. Pure."""

from dataclasses import dataclass
from functools import cached_property


class ObservationError(AssertionError):
    """The payload did not say what the observer says: it did not run, or not to its end."""


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo."""

    root: str
    target: str
    options: frozenset[str]
    tags: tuple[str, ...]  # "shared:5", "master:2": propagation
    kind: str
    source: str
    super_options: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """The sections of `observe facts`."""

    sections: dict[str, list[str]]

    def lines(self, name: str) -> list[str]:
        """Return the lines of a section; ObservationError if it was never printed."""
        if name not in self.sections:
            raise ObservationError(f"the observer printed no section {name}")
        return self.sections[name]

    def text(self, name: str) -> str:
        """Return a section of one line."""
        return "\n".join(self.lines(name)).strip()

    def table(self, name: str) -> dict[str, str]:
        """Return a section of `key value` lines."""
        pairs = (line.partition(" ") for line in self.lines(name))
        return {key: value.strip() for key, _, value in pairs}

    @cached_property
    def status(self) -> dict[str, str]:
        """/proc/self/status."""
        pairs = (line.partition(":") for line in self.lines("status"))
        return {key: value.strip() for key, _, value in pairs}

    @cached_property
    def process(self) -> dict[str, str]:
        """Ids, umask, cwd and the like."""
        return self.table("process")

    @cached_property
    def attempts(self) -> dict[str, int]:
        """The errno of each attempt; 0 where it was allowed, -1 where a signal ended it."""
        return {
            name: int(value) if value.lstrip("-").isdigit() else -1
            for name, value in self.table("attempts").items()
        }

    @cached_property
    def environ(self) -> dict[str, str]:
        """The environment."""
        return dict(line.partition("=")[::2] for line in self.lines("environ"))

    @cached_property
    def mounts(self) -> list[Mount]:
        """The mounts, in their order."""
        return [parse_mount(line) for line in self.lines("mountinfo")]

    def mount_at(self, target: str) -> Mount:
        """Return the topmost mount at `target`; ObservationError if there is none."""
        for mount in reversed(self.mounts):
            if mount.target == target:
                return mount
        raise ObservationError(f"nothing is mounted at {target}")

    def id_map(self, name: str) -> list[tuple[int, int, int]]:
        """Return uid_map or gid_map as (inside, outside, count)."""
        return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in self.lines(name))]

    def limit(self, name: str) -> tuple[str, str]:
        """Return soft and hard of a line of /proc/self/limits, such as `Max open files`."""
        for line in self.lines("limits"):
            if line.startswith(name):
                soft, hard = line[len(name) :].split()[:2]
                return soft, hard
        raise ObservationError(f"no limit {name}")

    def capabilities(self, name: str) -> int:
        """Return a capability set by its letter(s) in /proc/self/status: Inh, Prm, Eff, Bnd, Amb."""
        return int(self.status[f"Cap{name}"], 16)


def parse_facts(text: str) -> Facts:
    """Return the facts in the observer's output.

    Raises:
        ObservationError: It is not there, or does not go to its end.
    """
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith("== "):
            current = sections.setdefault(line[3:], [])
        elif line:
            current.append(line)
    if "end" not in sections:
        raise ObservationError(f"the observer did not speak to its end: {text[-300:]!r}")
    return Facts(sections)


def parse_mount(line: str) -> Mount:
    """Return the mount that a line of mountinfo describes; proc(5)."""
    left, _, right = line.partition(" - ")
    _, _, _, root, target, options, *tags = left.split(" ")
    kind, source, super_options = right.split(" ", 2)
    return Mount(
        root=root,
        target=target,
        options=frozenset(options.split(",")),
        tags=tuple(tags),
        kind=kind,
        source=source,
        super_options=frozenset(super_options.split(",")),
    )
