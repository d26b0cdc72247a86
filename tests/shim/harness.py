"""Bundles of an ordinary user, and calls of the installed shim as that user.

Every call starts in a fresh child of the (root) test process: what a test wants to be different there
(limits, mounts, descriptors) is done in that child, before it becomes the caller.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["mapped", "direct"]
MODES: tuple[Mode, ...] = ("mapped", "direct")

RUN_LIMIT_S = 20.0
POLL_S = 0.005
POLICY = Path("/etc/locald/policy")
STATE = Path("/run/locald-shim")
MUTANT_VARIABLE = "LOCALD_SHIM_DISABLE_RULE"
APPLETS = tuple(
    """
    cat chmod cp date echo env false grep head hostname id kill ln ls mkdir mknod mount ps pwd readlink rm sed
    seq sh sleep sort stat stty touch tr true tty umount uname wc
    """.split()  # noqa: SIM905  # a list of words is read as words
)


@dataclass(frozen=True)
class Caller:
    """Who calls the shim."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self) -> None:
        """Make this process the caller's, for good."""
        os.setgroups(list(self.groups))
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


@dataclass(frozen=True)
class Result:
    """How one call ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def code(self) -> str | None:
        """The code of a refusal or failure, `exit 0` and the like being none."""
        found = re.match(rb"locald-shim: (?:refused|failed) \[([a-z0-9.-]+)\]: ", self.stderr)
        return found[1].decode() if found else None

    @property
    def text(self) -> str:
        """What the payload wrote."""
        return self.stdout.decode(errors="replace")

    def lines(self) -> list[str]:
        """What the payload wrote, after it ended with 0; a test that reads output asks for that first."""
        assert self.status == 0, self
        return self.text.splitlines()


@dataclass
class Bundle:
    """A bundle directory of the caller's."""

    path: Path
    caller: Caller
    config: dict[str, Any]
    raw: bytes | None = None  # the text of config.json, where a test wants another than JSON makes

    @property
    def rootfs(self) -> Path:
        """Its root file system."""
        return self.path / "rootfs"

    @property
    def process(self) -> dict[str, Any]:
        """`process` of its config."""
        process: dict[str, Any] = self.config["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        """`linux` of its config."""
        linux: dict[str, Any] = self.config["linux"]
        return linux

    def write(self) -> None:
        """Write config.json, as the caller's file, unless something else lies there already."""
        target = self.path / "config.json"
        if os.path.lexists(target) and not target.is_file():
            return
        target.write_bytes(self.raw if self.raw is not None else json.dumps(self.config).encode())
        os.chown(target, self.caller.uid, self.caller.gid)

    def mkdir(self, name: str, mode: int = 0o755) -> Path:
        """Make a directory of the caller's in the bundle."""
        path = self.path / name
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        os.chown(path, self.caller.uid, self.caller.gid)
        return path

    def bind(self, source: Path, destination: str, *options: str) -> None:
        """Add a bind mount."""
        self.config["mounts"].append(
            {
                "destination": destination,
                "type": "bind",
                "source": str(source),
                "options": ["rbind", *options],
            }
        )


def make_config(mode: Mode, caller: Caller, args: Sequence[str]) -> dict[str, Any]:
    """Return the least config that runs `args` in `mode`."""
    spaces = ["pid", "mount", "ipc", "uts", *(["user"] if mode == "mapped" else [])]
    user = {"uid": 0, "gid": 0} if mode == "mapped" else {"uid": caller.uid, "gid": caller.gid}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": list(args), "env": ["PATH=/bin"], "cwd": "/", "user": user},
        "mounts": [],
        "linux": {"namespaces": [{"type": space} for space in spaces]},
    }


class Workshop:
    """Makes bundles below one directory that every user can pass through."""

    def __init__(self, root: Path, busybox: Path, probe: Path) -> None:
        self.root = root
        self._busybox = busybox
        self._probe = probe
        self._numbers = itertools.count()

    def directory(self, caller: Caller) -> Path:
        """Return a fresh directory of the caller's."""
        path = self.root / f"{caller.name}-{next(self._numbers)}"
        path.mkdir()
        os.chown(path, caller.uid, caller.gid)
        return path

    def bundle(self, mode: Mode, caller: Caller, args: Sequence[str]) -> Bundle:
        """Return a bundle whose rootfs holds busybox, probe, and nothing that is not the caller's."""
        path = self.directory(caller)
        rootfs = path / "rootfs"
        for name in ("bin", "dev", "etc", "home", "proc", "run", "srv", "sys", "tmp"):
            (rootfs / name).mkdir(parents=True)
        for program in (self._busybox, self._probe):
            os.link(self._own_copy(program, caller), rootfs / "bin" / program.name)
        for name in APPLETS:
            (rootfs / "bin" / name).symlink_to("busybox")
        (rootfs / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        for directory, _, names in os.walk(path):
            for entry in (directory, *(os.path.join(directory, name) for name in names)):
                os.lchown(entry, caller.uid, caller.gid)
        return Bundle(path, caller, make_config(mode, caller, args))

    def _own_copy(self, program: Path, caller: Caller) -> Path:
        """Return the caller's copy of a program: bundles link to it, a thousand copies would cost minutes."""
        copy = self.root / f"{program.name}-{caller.name}"
        if not copy.exists():
            shutil.copyfile(program, copy)
            copy.chmod(0o755)
        return copy


@dataclass(frozen=True)
class Call:
    """What is special about one call; each member's default is nothing special."""

    env: Mapping[str, str] = field(default_factory=dict)
    stdin: int = subprocess.DEVNULL
    stdout: int = subprocess.PIPE
    stderr: int = subprocess.PIPE
    pass_fds: Sequence[int] = ()
    prepare: Callable[[], None] | None = None  # as root, in the child
    finish: Callable[[], None] | None = None  # as the caller, in the child, last before exec
    executable: Path | None = None
    id: str | None = None
    extra: Sequence[str] = ()
    wrapper: Sequence[str] = ()  # a program that starts the shim, such as strace; it stays root
    as_root: bool = False
    limit_s: float = RUN_LIMIT_S


@dataclass
class Running:
    """A container whose payload has said `ready`."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The shim's pid."""
        return self.process.pid

    def descendants(self) -> list[int]:
        """Every process below the shim, the shim excluded."""
        found, todo = [], [self.pid]
        while todo:
            parent = todo.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for task in os.listdir(f"/proc/{parent}/task"):
                    children = Path(f"/proc/{parent}/task/{task}/children").read_text().split()
                    todo += [int(child) for child in children]
                    found += [int(child) for child in children]
        return found

    def status(self, name: str) -> str:
        """Return a field of the shim's /proc/PID/status."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.split(":", 1)[1].strip()
        raise AssertionError(f"/proc/PID/status has no {name}")


class Shim:
    """An installed shim, and rules that are switched off in it (mutant builds only)."""

    _ids = itertools.count()

    def __init__(self, path: Path, disabled: str = "") -> None:
        self.path = path
        self.disabled = disabled

    def without(self, rule: str) -> "Shim":
        """Return the same shim with one more rule switched off."""
        # A name that is given twice is one that the shim does not know.
        names = dict.fromkeys([*self.disabled.split(","), rule])
        return Shim(self.path, ",".join(filter(None, names)))

    @property
    def is_mutant(self) -> bool:
        """Whether rules can be switched off."""
        return self.path.name.endswith("-mutant")

    def start(self, arguments: Sequence[str], caller: Caller, call: Call) -> subprocess.Popen[bytes]:
        """Start the shim with `arguments` as `caller`."""

        def in_child() -> None:
            os.umask(0o022)
            if call.prepare is not None:
                call.prepare()
            if not call.as_root and not call.wrapper:
                caller.become()
            if call.finish is not None:
                call.finish()

        environment = {"PATH": "/usr/bin:/bin", **call.env}
        if self.disabled:
            environment[MUTANT_VARIABLE] = self.disabled
        return subprocess.Popen(
            [*call.wrapper, str(call.executable or self.path), *arguments],
            stdin=call.stdin,
            stdout=call.stdout,
            stderr=call.stderr,
            env=environment,
            cwd="/",
            pass_fds=call.pass_fds,
            preexec_fn=in_child,  # noqa: PLW1509  # this process has one thread
        )

    def call(self, arguments: Sequence[str], caller: Caller, call: Call | None = None) -> Result:
        """Call the shim and wait for its end; a call that outlives its limit fails the test."""
        call = call or Call()
        process = self.start(arguments, caller, call)
        try:
            out, err = process.communicate(timeout=call.limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"no end after {call.limit_s} s: {out!r} {err!r}") from None
        return Result(process.returncode, out or b"", err or b"")

    def arguments(self, bundle: Bundle, call: Call) -> list[str]:
        """Return the command line of `bundle run`."""
        container = call.id if call.id is not None else f"t{os.getpid()}-{next(self._ids)}"
        return ["bundle", "run", "--bundle", str(bundle.path), "--id", container, *call.extra]

    def run(self, bundle: Bundle, call: Call | None = None) -> Result:
        """Write the bundle's config and run it to its end."""
        call = call or Call()
        bundle.write()
        return self.call(self.arguments(bundle, call), bundle.caller, call)

    @contextlib.contextmanager
    def running(self, bundle: Bundle, call: Call | None = None) -> Iterator[Running]:
        """Run a bundle whose payload writes the line `ready`; it is killed at the end of the `with`."""
        call = call or Call()
        bundle.write()
        process = self.start(self.arguments(bundle, call), bundle.caller, call)
        below: list[int] = []
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            # A payload that outlives its shim, in a mutant, is nobody's descendant by then.
            below = Running(process).descendants()
            if line != b"ready\n":
                out, err = process.communicate(timeout=RUN_LIMIT_S)
                raise AssertionError(f"the payload did not get ready: {line + out!r} {err!r}")
            yield Running(process)
        finally:
            end(process, {*below, *Running(process).descendants()})


class Run:
    """Makes a bundle of the caller's in the mode, and runs it."""

    def __init__(self, shim: Shim, workshop: Workshop, mode: Mode, caller: Caller) -> None:
        self.shim = shim
        self.workshop = workshop
        self.mode = mode
        self.caller = caller

    def bundle(self, *args: str) -> Bundle:
        """Return a bundle that runs `args`."""
        return self.workshop.bundle(self.mode, self.caller, args or ("true",))

    def __call__(self, *args: str, call: Call | None = None) -> Result:
        """Run `args` in a bundle of nothing special."""
        return self.shim.run(self.bundle(*args), call)

    def refused(self, bundle: Bundle, code: str, call: Call | None = None) -> None:
        """Assert that running `bundle` is refused with `code`, in one line."""
        result = self.shim.run(bundle, call)
        assert (result.status, result.code, result.stderr.count(b"\n")) == (125, code, 1), result
        # A rule said no; that a system call failed later, with the same code, is another thing.
        assert result.stderr.startswith((b"locald-shim: refused ", b"locald-shim: failed [state.")), result

    def without(self, rule: str) -> "Run":
        """Return the same with one more rule switched off (mutant builds only)."""
        return Run(self.shim.without(rule), self.workshop, self.mode, self.caller)


READY = ("sh", "-c", "echo ready; exec sleep 60")


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = 5.0) -> None:
    """Poll until `holds`; say what did not come true otherwise."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(POLL_S)


def end(process: subprocess.Popen[bytes], below: Iterable[int]) -> None:
    """Kill a shim and whatever it left, and collect it."""
    process.kill()
    for pid in filter(is_alive, below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=RUN_LIMIT_S)


def is_alive(pid: int) -> bool:
    """Say whether `pid` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run_in_child(step: Callable[[], str]) -> str:
    """Run `step` in a forked (root) child, which may unshare what it likes; return what it returned."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            os.write(writer, json.dumps({"value": step()}).encode())
            code = 0
        except BaseException as error:  # noqa: BLE001  # it is told to the parent, then the child ends
            os.write(writer, json.dumps({"error": repr(error)}).encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = json.loads(stream.read())
    os.waitpid(pid, 0)
    assert "value" in told, told
    value: str = told["value"]
    return value


def read_owners(tree: Path) -> dict[str, int]:
    """Return every object below `tree` that is root's, with its mode: what a race must never make."""
    found = {}
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if status.st_uid == 0:
                    found[path] = status.st_mode
    return found


def reap(pid: int) -> None:
    """Kill a process of this test and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), f"{pid} ends")
