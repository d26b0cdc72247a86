"""What the clauses about attacks share: two users in each mode, a guarded call, and the judgements.

An attack is carried out in every corner, that is by each of two users (with subordinate ids and without) in each mode,
in one call of the agent, which also compares the machine before and after it. Of several that differ in nothing but
what a config says, each is carried out in each mode, and the users take turns. Beside it stands a twin that looks like
the attack and is none. Twins, and attacks that are answered by a forced value and not by a refusal, share four
containers a corner: a process costs an emulated guest as much as thirty do elsewhere.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from conformance.observation import Facts
from conformance.runtimes import MODES, Change, Config, Mode
from conformance.subject import Job, Result, Subject

USERS: Final = ("plain", "bare")
"""One with subordinate ids, one without."""

UNAME26: Final = 0x0020000  # linux/personality.h: uname says 2.6
GLANCE: Final = ("/observe", "glance")

Attack = TypeVar("Attack")


@dataclass(frozen=True, slots=True)
class Corner:
    """Who attacks, and in which mode."""

    mode: Mode
    user: str


@dataclass
class Hostile:
    """One subject, attacked from every corner."""

    subject: Subject
    modes: tuple[Mode, ...] = MODES
    _kept: dict[str, dict[Corner, Result]] = field(default_factory=dict)

    def corners(self, *modes: Mode) -> list[Corner]:
        """Return every corner, or those of some modes."""
        return [Corner(mode, user) for mode in self.modes if mode in (modes or MODES) for user in USERS]

    def a_corner_each(self) -> list[Corner]:
        """Return one corner of each mode, each of another user: for what takes long and does not depend on who asks."""
        return [Corner(mode, user) for mode, user in zip(self.modes, USERS, strict=False)]

    def turns(self, *attacks: Attack) -> list[tuple[Corner, Attack]]:
        """Return each attack with a corner of each mode, its users taking turns; a single one with every corner.

        For what is refused whoever asks: who asks is tried by the attacks together.
        """
        return [
            (corner, attack)
            for number, attack in enumerate(attacks)
            for corner in self.corners()
            if len(attacks) == 1 or corner.user == USERS[number % len(USERS)]
        ]

    def call(self, *jobs: Job) -> list[Result]:
        """Carry jobs out, and judge that the machine is as it was; `guard` says what is compared."""
        results = self.subject.call(*jobs, guard=True)
        told = self.subject.evidence[-1]["guard"]
        assert told["canaries"], told
        assert told["changes"] == [], told["changes"]
        for result in results:
            assert result.leftover == [], result
            assert result.new_mounts == [], result
        return results

    def job(self, corner: Corner, *args: str, **more: Any) -> Job:
        """Return the job of a container in a corner; see `Subject.container`."""
        return self.subject.container(*(args or GLANCE), mode=corner.mode, user=corner.user, **more)

    def refused(self, code: str, *changes: Change, modes: Sequence[Mode] = (), **more: Any) -> None:
        """Judge that each change of the config is refused with `code`: see `turns`.

        Of some modes alone, it is about who the caller is, and both users ask for each.
        """
        asked: Sequence[tuple[Corner, Change | None]]
        if modes or not changes:
            asked = [(corner, change) for corner in self.corners(*modes) for change in changes or (None,)]
        else:
            asked = self.turns(*changes)
        jobs = [self.job(corner, status=True, change=change, **more) for corner, change in asked]
        self.judge_refused(code, self.call(*jobs))

    def judge_refused(self, code: str, results: Sequence[Result]) -> None:
        """Judge refusals: 125, one line with the code and what to do, nothing run, nothing made."""
        for result in results:
            assert result.outcome == (125, code), result
            assert len(result.stderr.splitlines()) == 1, result
            # A rule said no; that a call failed later, with the same code, is another thing.
            assert result.stderr.startswith("locald-shim: refused ["), result
            assert "; hint: " in result.stderr, result
            assert result.stdout == "", result
            assert not [event for event in result.events if event["event"] == "started"], result
            assert result.new_files == [], result

    def each(
        self, name: str, make: Callable[[Corner], Job], corners: Sequence[Corner] = ()
    ) -> dict[Corner, Result]:
        """Return what `make` gives in every corner, or some, carried out once a worker whoever asks again."""
        kept = self._kept.get(name)
        if kept is not None:
            for result in kept.values():
                self.subject.record(result)
            return kept
        corners = corners or self.corners()
        made = dict(zip(corners, self.call(*(make(corner) for corner in corners)), strict=True))
        # What went wrong is looked at anew by whoever asks next, and by a second attempt.
        if all(result.exit_code == 0 for result in made.values()):
            self._kept[name] = made
        return made

    def twins(self) -> dict[Corner, Facts]:
        """Return what a container sees whose config asks for all that looks like an attack and is none."""
        files: dict[str, dict[str, str]] = {"own/mark": {}}
        results = self.each(
            "twins", lambda corner: self.job(corner, change=make_twin(self, corner), files=files)
        )
        return judge_ran(results)

    def greedy(self) -> dict[Corner, Facts]:
        """Return what a container sees whose config asks for more than anybody gets."""
        files: dict[str, dict[str, str]] = {"own/mark": {}}
        results = self.each(
            "greedy",
            lambda corner: self.job(corner, "/observe", "facts", init=True, change=ask_for_all, files=files),
        )
        return judge_ran(results)

    def surrounded(self) -> dict[Corner, Facts]:
        """Return what a container sees whose caller prepared the process that became the shim."""
        return judge_ran(self.each("surrounded", lambda corner: surround(self.job(corner))))

    def traced(self, *, init: bool = False) -> dict[Corner, list[str]]:
        """Return the system calls of a whole run in each mode, with their arguments.

        Of one user each: traced, it takes ten times as long, and both have the same order of calls.
        """
        name = "traced with init" if init else "traced"
        results = self.each(
            name, lambda corner: self.job(corner, init=init, trace=True), self.a_corner_each()
        )
        judge_ran(results)
        return {corner: list(result.data["trace"]) for corner, result in results.items()}


def judge_ran(results: dict[Corner, Result]) -> dict[Corner, Facts]:
    """Judge that every container ran to its end; return what each saw."""
    for result in results.values():
        assert result.exit_code == 0, result
        assert result.stderr == "", result
    return {corner: result.facts for corner, result in results.items()}


def setting(*path: str, value: Any) -> Change:
    """Return a change that sets one member of the config, `path` leading to it."""

    def change(config: Config) -> None:
        place: Any = config
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value

    return change


def mounting(destination: str, kind: str, source: str, *options: str) -> Change:
    """Return a change that adds a mount."""
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    return lambda config: config["mounts"].append(entry)


def without_namespace(kind: str) -> Change:
    """Return a change that takes a namespace away."""

    def change(config: Config) -> None:
        spaces = config["linux"]["namespaces"]
        spaces[:] = [space for space in spaces if space["type"] != kind]

    return change


def all_of(changes: Iterable[Change]) -> Change:
    """Return a change that makes all of them."""

    def change(config: Config) -> None:
        for each in changes:
            each(config)

    return change


EVERY_CAPABILITY: Final = [
    f"CAP_{name}"
    for name in (
        *(
            "SYS_ADMIN",
            "NET_ADMIN",
            "SYS_PTRACE",
            "SYS_MODULE",
            "SYS_RAWIO",
            "DAC_READ_SEARCH",
            "MKNOD",
            "BPF",
            "PERFMON",
        ),
        *("CHOWN", "DAC_OVERRIDE", "KILL", "SETUID", "SETGID"),
    )
]
SETS: Final = ("bounding", "effective", "permitted", "inheritable", "ambient")


def ask_for_all(config: Config) -> None:
    """Ask for what is forced to something else: capabilities, privileges, propagation."""
    config["process"]["capabilities"] = {name: list(EVERY_CAPABILITY) for name in SETS}
    config["process"]["noNewPrivileges"] = False
    config["linux"]["rootfsPropagation"] = "shared"
    # What comes from the host is what could be shared with it.
    bind = {"destination": "/srv", "type": "bind", "source": "{bundle}/own", "options": ["rbind"]}
    config["mounts"].append(bind)


TWIN_MOUNTS: Final = (
    {"destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
    {"destination": "/tmp", "type": "bind", "source": "{bundle}/own", "options": ["rbind", "rw"]},  # noqa: S108
)


def make_twin(hostile: Hostile, corner: Corner) -> Change:
    """Return the change after which a config has a twin for each attack that a config can be."""
    caller = hostile.subject.caller(corner.user)
    limits = {"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}
    changes = [
        setting("hooks", value={}),
        setting("linux", "resources", value={"devices": [{"allow": False, "access": "rwm"}], **limits}),
        setting("process", "rlimits", value=[{"type": "RLIMIT_NOFILE", "soft": 30, "hard": 30}]),
        setting("process", "cwd", value="/srv"),
        setting("annotations", value={"x-new": "1", **{str(number): "" for number in range(1000)}}),
        setting("process", "args", value=["/observe", "glance", *["x"] * 1000]),
        lambda config: config["mounts"].extend(copy.deepcopy(TWIN_MOUNTS)),
        lambda config: config["linux"]["namespaces"].append({"type": "network"}),
    ]
    if corner.mode == "mapped":
        for table, own in (("uidMappings", caller.uid), ("gidMappings", caller.gid)):
            entry = {"containerID": 0, "hostID": own, "size": 1}
            changes.append(setting("linux", table, value=[entry]))
    return all_of(changes)


def surround(job: Job) -> Job:
    """Return the job, called with all that a caller can leave in the process that becomes the shim."""
    job["env"] = {
        "LD_PRELOAD": "/absent.so",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
        "LISTEN_FDS": "9",
        "RUST_LOG": "trace",
        "PATH": "/absent",
    }
    return job | {
        "close": [0],
        "extra_fds": [3, 7, 200],
        "umask": 0,
        "cwd": "/usr",
        "personality": UNAME26,
        "rlimits": {"NOFILE": [256, 512], "FSIZE": [0, 1 << 20], "CORE": [1 << 20, 1 << 20]},
        # USR1 and CHLD ignored, HUP and TERM blocked.
        "ignored": [10, 17],
        "blocked": [1, 15],
    }
