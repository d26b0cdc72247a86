"""The product as it is installed in a guest, and everything a test may ask of it.

Knows commands only. What it did and what came back is kept as evidence for the report.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

import vms
from conformance.observation import Facts, parse_facts
from conformance.runtimes import Caller, Change, Mode, Runtime

HOME: Final = "/var/lib/locald-kit"
PREFIX: Final = "/opt/locald"
LOCALD: Final = f"{PREFIX}/bin/locald"
SHIM: Final = f"{PREFIX}/bin/locald-shim"
PEER: Final = f"{PREFIX}/peer/runtime"
"""A peer under test; under a name of the kit's, so that the search for engines finds the host's own and no other."""

PYTHON: Final = "/usr/bin/python3"

GROUP: Final = "kit"
"""A second group of every user of a profile: with his first alone nobody could see whether groups are kept."""

STRANGER: Final = "nobody"
"""An account that no policy allows."""

# What a peer leaves when it is killed would stay on the very host of the profile `local`.
# A process that was just ended holds its cgroup for a moment; what stays longer the look at the host tells of.
# libcontainer puts a prefix before the id.
SWEEP: Final = """
for turn in 1 2 3 4 5 6 7 8 9; do
    ! find /sys/fs/cgroup -depth -type d -name "*$TOKEN" -exec rmdir {} + 2>/dev/null || break
    sleep 0.2
done
"""

CALL_LIMIT_S: Final = 120.0
# For the way there and back, on top of the agent's own limit.
SLACK_S: Final = 30.0
SHOWN_CHARS: Final = 6000

_SHIM_LINE: Final = re.compile(
    r"^locald-shim: (?P<verb>refused|failed) \[(?P<code>[a-z0-9.-]+)\]: .+$", re.MULTILINE
)
_LOCALD_LINE: Final = re.compile(r"^locald: \[(?P<code>[a-z0-9.-]+)\]: .+$", re.MULTILINE)

Job = dict[str, Any]


class KitError(Exception):
    """The kit could not look; it says nothing about the subject."""


@dataclass(frozen=True)
class Result:
    """What one job showed."""

    data: Mapping[str, Any]

    @property
    def exit_code(self) -> int | None:
        """0 to 255, minus N for a death by signal N."""
        return cast("int | None", self.data["exit_code"])

    @property
    def seconds(self) -> float:
        """How long it was there, by the guest's clock."""
        return float(self.data["seconds"])

    @property
    def stdout(self) -> str:
        """Standard output, or all that a terminal showed."""
        return str(self.data["stdout"])

    @property
    def stderr(self) -> str:
        """Standard error."""
        return str(self.data["stderr"])

    @property
    def problem(self) -> str:
        """What a step waited for in vain; empty if nothing."""
        return str(self.data["problem"])

    @property
    def timed_out(self) -> bool:
        """Whether it had to be ended."""
        return bool(self.data["timed_out"])

    @property
    def leftover(self) -> list[str]:
        """The command lines of processes that were still there some seconds after the end."""
        return list(self.data["leftover"])

    @property
    def new_files(self) -> list[str]:
        """What the bundle held at the end and not before: `path uid:gid mode`."""
        return list(self.data["new_files"])

    @property
    def new_mounts(self) -> list[str]:
        """Mounts of the guest's own namespace that were not there before."""
        return list(self.data["new_mounts"])

    @property
    def before(self) -> str:
        """What the preparing script said."""
        return str(self.data.get("before", ""))

    @property
    def after(self) -> str:
        """What the closing script said."""
        return str(self.data.get("after", ""))

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The objects on the status descriptor."""
        return [self._parse(line) for line in str(self.data["status"]).splitlines()]

    @cached_property
    def answer(self) -> Any:
        """The JSON document on standard output."""
        return self._parse(self.stdout)

    def _parse(self, text: str) -> Any:
        """Return what a document says; one that is none is a fault of the subject's, not of the kit's."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise AssertionError(f"no JSON ({error}): {text!r}; {self}") from error

    @property
    def code(self) -> str:
        """The code of a refusal or failure on standard error, the shim's or locald's; empty if there is none."""
        match = _SHIM_LINE.search(self.stderr) or _LOCALD_LINE.search(self.stderr)
        return match["code"] if match else ""

    @cached_property
    def facts(self) -> Facts:
        """What the observer saw."""
        return parse_facts(self.stdout)

    @property
    def outcome(self) -> tuple[int | None, str]:
        """Exit code and refusal code, the pair that most tests compare."""
        return self.exit_code, self.code

    @cached_property
    def executed(self) -> list[tuple[int, str]]:
        """Every execve that the trace shows, failed ones too: pid and program."""
        return [
            (int(match["pid"]), match["program"])
            for match in (_EXECUTED.match(line) for line in self.data.get("trace", []))
            if match
        ]

    @cached_property
    def opened(self) -> list[str]:
        """Every path that the trace shows in an open, whether it succeeded or not."""
        return [
            match["path"] for match in (_OPENED.search(line) for line in self.data.get("trace", [])) if match
        ]

    def __repr__(self) -> str:
        """Say what a person needs when an assertion shows it."""
        shown = {
            name: self.data[name] for name in ("argv", "user", "exit_code", "problem", "stderr", "leftover")
        }
        return f"Result({shown}, stdout={self.stdout[-400:]!r})"


_EXECUTED: Final = re.compile(r'^(?P<pid>\d+)\s+execve(?:at)?\((?:\d+, |AT_FDCWD, )?"(?P<program>[^"]*)"')
_OPENED: Final = re.compile(r'open(?:at|at2)?\((?:[A-Z_0-9]+, )?"(?P<path>[^"]*)"')


class Agent:
    """The kit's process in a guest; it is started when it is first needed."""

    def __init__(self, guest: vms.Guest) -> None:
        self._guest = guest
        self._conversation: vms.Conversation | None = None

    def carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the agent's answer.

        Raises:
            KitError: It could not do its part.
            vms.GuestLost: It did not answer; the next request starts another one.
        """
        if self._conversation is None:
            self._conversation = self._guest.converse([PYTHON, "-I", f"{HOME}/agent"], user="root")
        deadline = vms.Deadline.after(request["limit_s"] + SLACK_S)
        try:
            line = self._conversation.ask(json.dumps(request).encode(), deadline=deadline)
        except vms.GuestLost:
            self._conversation = None
            raise
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise KitError(f"the agent failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """Let it end."""
        if self._conversation is not None:
            self._conversation.close()


def copy_installation(prefix: str) -> str:
    """Return the script that makes a copy of the installed product, in the same file system.

    What nobody writes to is linked: a copy takes an emulated guest longer than the call that it is for. The programs
    are copied, for a shim that has two names is refused.
    """
    return (
        f"mkdir {prefix}; cp -al {PREFIX}/lib {PREFIX}/pyvenv.cfg {prefix}; cp -a {PREFIX}/bin {prefix}\n"
        # The console script names its interpreter by its absolute path.
        f"sed -i '1s|{PREFIX}|{prefix}|' {prefix}/bin/locald\n"
    )


@dataclass
class Subject:
    """The installed product in one guest, for one test at a time."""

    guest: vms.Guest
    agent: Agent
    runtime: Runtime
    # By how much everything is slower here than on the controller.
    factor: float
    # Part of every token, so that parallel workers do not see each other.
    worker: str = "main"
    evidence: list[dict[str, Any]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _seen: dict[str, Result] = field(default_factory=dict)
    _ranges: dict[str, tuple[int, int]] | None = None
    _groups: dict[str, list[str]] = field(default_factory=dict)

    def caller(self, name: str = "plain") -> Caller:
        """Return a user of the guest with his ids."""
        if name == STRANGER:
            return Caller(name, 65534, 65534)
        user = self.guest.user(name)
        return Caller(name, user.uid, user.gid)

    def caller_with_ranges(self, name: str) -> Caller:
        """Return a user of the guest with the first of his subordinate ranges too, if he has any."""
        if self._ranges is None:
            found = self.root("grep -H : /etc/subuid /etc/subgid || true").stdout
            words = [line.removeprefix("/etc/").split(":") for line in reversed(found.splitlines())]
            self._ranges = {
                f"{table} {user}": (int(first), int(count)) for table, user, first, count in words
            }
        none = (0, 0)
        uids, gids = (self._ranges.get(f"{table} {name}", none) for table in ("subuid", "subgid"))
        return dataclasses.replace(self.caller(name), subuids=uids, subgids=gids)

    def groups_of(self, name: str) -> list[str]:
        """Return the groups of a process of `name` in no container, as /proc/self/status has them.

        Raises:
            KitError: He has one alone, so that nobody could tell whether it was kept.
        """
        if name not in self._groups:
            look = "sed -n 's/^Groups://p' /proc/self/status"
            (result,) = self.call({"argv": ["/bin/sh", "-c", look], "user": name, "env": self.host_env(name)})
            self._groups[name] = result.stdout.split()
        if len(self._groups[name]) <= 1:
            raise KitError(f"{name} is in no second group: {self._groups[name]}")
        return self._groups[name]

    def container(
        self,
        *args: str,
        mode: Mode,
        user: str = "plain",
        init: bool = False,
        change: Change | None = None,
        config: str | None = None,
        files: Mapping[str, Mapping[str, Any]] | None = None,
        status: bool = False,
        **more: Any,
    ) -> Job:
        """Return the job that runs `args` from a fresh bundle of `user`.

        Args:
            args: The payload; `/observe facts` by default.
            mode: Mapped or direct.
            user: Who calls.
            init: Ask for the init stage.
            change: Called with the config before it is written.
            config: The text of config.json instead; empty for none at all.
            files: More files of the bundle: path to {"content", "mode"}.
            status: Ask for the status descriptor.
            more: Other members of the agent's Job.
        """
        caller = self.caller_with_ranges(user) if self.runtime.wants_ranges else self.caller(user)
        made = self.runtime.make_config(args or ("/observe", "facts"), mode=mode, caller=caller, init=init)
        if change is not None:
            change(made)
        bundle: Job = {"files": dict(files or {})}
        if config != "":
            bundle["config"] = made if config is None else config
        job = {
            "argv": self.runtime.make_argv(status=status),
            "user": self.runtime.choose_user(user, mode=mode),
            "owner": user,
            "bundle": bundle,
            "env": self.host_env(user),
        }
        if self.runtime.leaves_cgroups:
            more["after"] = f"{SWEEP}\n{more.get('after', '')}"
        return job | more

    def shim(self, *words: str, user: str = "plain", program: str | None = None, **more: Any) -> Job:
        """Return the job that calls the shim with `words`."""
        return {
            "argv": [program or self.runtime.program, *words],
            "user": user,
            "env": self.host_env(user),
            **more,
        }

    def locald(
        self,
        *words: str,
        user: str = "plain",
        prefix: str = PREFIX,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Job:
        """Return the job that calls `locald` with `words`, installed in `prefix`."""
        job = {"argv": [f"{prefix}/bin/locald", *words], "user": user, "limit_s": 60.0}
        return job | {"env": {**self.host_env(user), **(env or {})}} | more

    def host_env(self, user: str) -> dict[str, str]:
        """Return what a login gives `user`, less what would make runs differ."""
        home = f"{HOME}/homes/{user}-{self.worker}"
        return {"HOME": home, "USER": user, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

    def call(self, *jobs: Job, guard: bool = False) -> list[Result]:
        """Carry the jobs out in one guest process, in their order, and return what each showed.

        Args:
            jobs: What to do.
            guard: Plant canaries and compare the machine before and after; the last job's evidence tells.

        Raises:
            KitError: The agent could not do its part.
        """
        numbered = [{"token": self.make_token(), **job} for job in jobs]
        limit_s = (CALL_LIMIT_S + sum(job.get("limit_s", 20.0) for job in jobs)) * max(1.0, self.factor / 2)
        request = {"factor": self.factor, "jobs": numbered, "guard": guard, "limit_s": limit_s}
        answer = self.agent.carry_out(request)
        results = [Result(data) for data in answer["results"]]
        for result in results:
            self.record(result)
        if guard:
            self.evidence[-1]["guard"] = answer["guard"]
        return results

    def run(self, *args: str, mode: Mode, **more: Any) -> Result:
        """Run one container to its end; see `container`."""
        return self.call(self.container(*args, mode=mode, **more))[0]

    def see(self, mode: Mode, user: str = "plain") -> Result:
        """Return what an ordinary container of `user` sees of itself; looked at once a worker, if it ran."""
        key = f"{mode} {user}"
        if key in self._seen:
            self.record(self._seen[key])
            return self._seen[key]
        result = self.run(mode=mode, user=user, status=self.runtime.tells_status)
        # One that failed is no memory: a second attempt of a test has to look again.
        if result.exit_code == 0:
            self._seen[key] = result
        return result

    def log_in(self, *words: str, user: str) -> vms.Output:
        """Run locald in a login of `user`'s, as sshd and PAM make it: what the agent starts has root's context."""
        started = self.read_clock()
        output = self.guest.run(
            [LOCALD, *words], user=user, env={"HOME": f"{HOME}/homes/{user}-{self.worker}"}
        )
        piece = {"started": started, "ended": self.read_clock(), "seconds": round(output.seconds, 3)}
        told = {"stdout": output.text, "stderr": output.error_text}
        self.record(
            Result(
                {"argv": list(output.command), "user": user, "exit_code": output.exit_code, **piece, **told}
            )
        )
        return output

    def read_clock(self) -> float:
        """Return the guest's time, in seconds since 1970: its logs are dated by it."""
        return round(float(self.guest.succeed(["date", "+%s.%N"], user="root").text), 3)

    def root(self, script: str) -> Result:
        """Run a shell script as root, for the things a test arranges."""
        (result,) = self.call(
            {"argv": ["/bin/sh", "-eu", "-c", script], "env": {"PATH": os.defpath + ":/sbin:/usr/sbin"}}
        )
        if result.exit_code != 0:
            raise KitError(f"a preparing script failed: {result!r}")
        return result

    def make_token(self) -> str:
        """Return a word that names one job: a valid container id."""
        return f"kit-{self.worker}-{os.getpid():x}-{next(self._numbers)}"

    def record(self, result: Result) -> None:
        """Keep what was done, shortened, for the report."""
        piece = {
            name: value[-SHOWN_CHARS:] if isinstance(value, str) else value
            for name, value in result.data.items()
            # An exit code of 0 says something; an empty text does not.
            if name == "exit_code" or (value and name != "trace")
        }
        if "trace" in result.data:
            piece["executed"] = [f"{pid} {program}" for pid, program in result.executed]
        self.evidence.append(piece)
