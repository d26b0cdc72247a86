"""The kit's hands in the guest: carry out one job and say what was seen. `serve` is who asks for it.

Runs in the guest as root, with the standard library of Python 3.9 and `looks` and nothing else. It judges nothing.

A job is a JSON object; `Job` lists its members. Words of `argv`, of `env` and of scripts may hold `{bundle}`,
`{status}`, `{id}` and `{token}`, which the agent fills in.
"""

# Python 3.9 would evaluate the annotations.
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time
from dataclasses import dataclass, field
from typing import Any

from conformance.looks import (
    find_processes,
    is_of_neighbour,
    kernel_log,
    list_mounts,
    list_processes,
    list_tree,
    read_mountinfo,
    read_state,
)

HOME = "/var/lib/locald-kit"
WORK = f"{HOME}/work"
OBSERVER = f"{HOME}/observe"
STARTER = f"{HOME}/start"
DIRECTORIES = ("proc", "sys", "dev", "tmp", "etc", "srv")
LIMIT_BYTES = 400_000
SCRIPT_LIMIT_S = 150
TRACED = (
    "execve,execveat,open,openat,openat2,open_tree,connect,sendto,sendmsg,sendmmsg,kill,pidfd_send_signal,setresuid,"
    "capset,bind,keyctl,pivot_root,lseek,pread64"
)
# Descriptors on their way to the numbers that they shall get wait from here on.
WAITING = 300
# Where the starter finds its pipe. A job may give every number below it to what it wants.
TROUBLE = WAITING - 1
# How often to look at what says nothing by itself: a state in /proc, the clock.
POLL_S = 0.02
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Job:
    """What to run, as whom, with which surroundings, and what to do while it runs."""

    argv: list[str]
    token: str  # unique; by it the agent recognises processes that stayed
    user: str = "root"
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    stdin: str | None = None  # None: /dev/null. A text: that, then end of file
    hold_stdin: bool = False  # keep the pipe open instead
    limit_s: float = 20.0
    bundle: dict[str, Any] | None = None
    owner: str = ""  # of the bundle; `user` by default
    before: str = ""  # root's shell script; $BUNDLE, $TOKEN
    after: str = ""
    close: list[int] = field(default_factory=list)
    extra_fds: list[int] = field(default_factory=list)
    status_kind: str = "pipe"  # or "file", "local", "network": what the number in {status} is
    cgroup: str = ""  # the directory of a cgroup that the program starts in
    umask: int = 0o022
    rlimits: dict[str, list[int]] = field(default_factory=dict)
    blocked: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    no_new_privs: bool = False
    personality: int = 0  # personality(2)
    timer_ms: int = 0  # SIGALRM after that long
    filter: bool = False  # a seccomp filter that allows everything, without no_new_privs: root may
    terminal: list[int] | None = None  # rows, columns
    steps: list[dict[str, Any]] = field(default_factory=list)
    trace: bool = False
    settle_s: float = 3.0


class StepFailed(Exception):
    """A step waited for something that did not come."""


class Run:
    """One job, from its bundle to what it left behind."""

    def __init__(self, job: Job, factor: float) -> None:
        self.job = job
        self.end = time.monotonic() + job.limit_s * factor
        self.settle_s = job.settle_s * factor
        self.factor = max(1.0, factor)
        self.bundle = f"{WORK}/{job.token}"
        self.output: dict[str, bytearray] = {
            "stdout": bytearray(),
            "stderr": bytearray(),
            "status": bytearray(),
        }
        self.selector = selectors.DefaultSelector()
        self.seen = 0  # how far `expect` has read
        self.older = list_processes()
        self.pid = 0
        self.exited = -1  # a descriptor that is readable once the program has ended
        self.master = -1
        self.input = -1
        # Our own hold on both ends of the terminal, and how it was.
        self.held: list[int] = []
        self.terminal_was: list[str] = []
        self.wait_status: int | None = None

    def fill(self, text: str) -> str:
        """Put the job's names into `text`."""
        names = {"bundle": self.bundle, "status": "9", "id": self.job.token, "token": self.job.token}
        return re.sub(r"\{(bundle|status|id|token)\}", lambda match: names[match[1]], text)

    def carry_out(self) -> dict[str, Any]:
        """Run the job and return everything it showed."""
        job = self.job
        result: dict[str, Any] = {
            "argv": [self.fill(word) for word in job.argv],
            "user": job.user,
            "problem": "",
        }
        with kernel_log() as lines:
            try:
                self.observe(result)
            finally:
                # Also where the preparing script or the start failed: what was begun has to be ended.
                if job.after:
                    result["after"] = self.script(job.after)
                self.remove()
        for name, data in self.output.items():
            result[name] = bytes(data).decode("utf-8", "surrogateescape")
        result["kernel"] = lines
        return result

    def observe(self, result: dict[str, Any]) -> None:
        """Prepare, run and look at what was left; everything it showed goes into `result`."""
        job = self.job
        if job.bundle is not None:
            make_bundle(self.bundle, job.bundle, job.owner or job.user, self.fill)
        if job.before:
            result["before"] = self.script(job.before)
        watched = sorted(list_tree(self.bundle)) if job.bundle is not None else []
        mounts = read_mountinfo()
        # The guest's own clock, by which its logs are dated.
        result["started"] = round(time.time(), 3)
        started = time.monotonic()
        try:
            self.start()
            self.walk()
        except StepFailed as problem:
            result["problem"] = str(problem)
        finally:
            timed_out = self.finish()
        result["seconds"] = round(time.monotonic() - started, 3)
        result["timed_out"] = timed_out
        result["exit_code"] = exit_code(self.wait_status)
        result["leftover"] = self.settle()
        if self.held:
            result["terminal"] = {"before": self.terminal_was, "after": read_terminal(*self.held)}
        result["ended"] = round(time.time(), 3)
        result["new_mounts"] = self.new_mounts(mounts, read_mountinfo())
        if job.bundle is not None:
            result["new_files"] = [entry for entry in sorted(list_tree(self.bundle)) if entry not in watched]
        if job.trace:
            with open(self.trace_file, encoding="utf-8", errors="replace") as trace:
                result["trace"] = trace.read().splitlines()[:20_000]

    @property
    def trace_file(self) -> str:
        """Where strace writes; root's, outside of what the subject may see."""
        return f"{HOME}/{self.job.token}.trace"

    def new_mounts(self, before: str, after: str) -> list[str]:
        """Return the guest's mounts that came, but those that a neighbour makes in a place of his own."""
        # To take a text of fifty lines apart takes longer than the job's own bundle.
        if before == after:
            return []
        came = set(list_mounts(after)).difference(list_mounts(before))
        return sorted(mount for mount in came if not is_of_neighbour(mount, [self.job.token]))

    def script(self, text: str) -> str:
        """Run a shell script as root and return what it said."""
        done = subprocess.run(  # noqa: S603  # the kit's own scripts
            ["/bin/sh", "-eu", "-c", text],
            env={"PATH": CLEAN_PATH, "BUNDLE": self.bundle, "TOKEN": self.job.token, "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SCRIPT_LIMIT_S * self.factor,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise SystemExit(f"a preparing script failed ({done.returncode}): {text}\n{said}")
        return said

    def start(self) -> None:
        """Start the job's program, with everything arranged that the job asks for."""
        ours, theirs = self.open_streams()
        argv = [os.fsencode(self.fill(word)) for word in self.job.argv]
        if self.job.trace:
            options = [
                "-f",
                "-qq",
                "-s",
                "256",
                "-u",
                self.job.user,
                "-o",
                self.trace_file,
                "-e",
                f"trace={TRACED}",
                "--",
            ]
            argv = [os.fsencode(word) for word in (find_strace(), *options)] + argv
        if max(theirs) >= TROUBLE:
            raise SystemExit(f"no job can have a descriptor {max(theirs)}: the starter's begin at {TROUBLE}")
        says, trouble = os.pipe()
        moved = {
            # First out of the way of the numbers they shall get, then there.
            number: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, WAITING)
            for number, source in {**theirs, TROUBLE: trouble}.items()
        }
        # Not a fork: to copy this interpreter was most of what a job cost.
        self.pid = os.posix_spawn(
            STARTER,
            [*map(os.fsencode, (STARTER, str(TROUBLE), *self.arrangements(), "--")), *argv],
            {os.fsencode(name): os.fsencode(self.fill(value)) for name, value in self.job.env.items()},
            file_actions=[(os.POSIX_SPAWN_DUP2, source, number) for number, source in moved.items()],
        )
        for number in {*theirs.values(), *moved.values(), trouble}:
            os.close(number)
        with open(says, "rb") as stream:
            message = stream.read()
        if message:
            raise SystemExit(f"cannot start {self.job.argv}: {message.decode(errors='replace')}")
        self.exited = os.pidfd_open(self.pid)
        self.selector.register(self.exited, selectors.EVENT_READ, "")
        for name, number in ours.items():
            os.set_blocking(number, False)
            self.selector.register(number, selectors.EVENT_READ, name)
        if self.input >= 0 and self.job.stdin:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.input, self.job.stdin.encode("utf-8", "surrogateescape"))
        if self.input >= 0 and not self.job.hold_stdin:
            os.close(self.input)
            self.input = -1

    def open_streams(self) -> tuple[dict[str, int], dict[int, int]]:
        """Open what the child shall have; return our ends by name, and the child's by the number they shall get."""
        job = self.job
        ours: dict[str, int] = {}
        theirs: dict[int, int] = {}
        if job.terminal is not None:
            self.master, slave = os.openpty()
            set_size(slave, job.terminal)
            theirs |= {0: slave, 1: slave, 2: slave}
            self.held = [os.dup(self.master), os.dup(slave)]
            ours["stdout"] = self.master
        else:
            for number, name in ((1, "stdout"), (2, "stderr")):
                ours[name], theirs[number] = os.pipe()
            if job.stdin is not None or job.hold_stdin:
                theirs[0], self.input = os.pipe()
        account = pwd.getpwnam(job.user)
        for number in theirs.values():
            # As in a shell of his: a stream that is the caller's own, so that /dev/stdout can be opened by name.
            os.fchown(number, account.pw_uid, account.pw_gid)
        if self.held:
            self.terminal_was = read_terminal(*self.held)
        if 0 not in theirs:
            theirs[0] = os.open(os.devnull, os.O_RDONLY)
        if any("{status}" in word for word in job.argv):
            if job.status_kind == "file":
                theirs[9] = os.open(f"{self.bundle}/status", os.O_WRONLY | os.O_CREAT, 0o666)
            else:
                ours["status"], theirs[9] = connect(job.status_kind)
        for number in job.extra_fds:
            theirs[number] = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        return ours, theirs

    def arrangements(self) -> list[str]:
        """Return what the starter has to do before the job's program, as its words; `payload/start.c` has them all."""
        job = self.job
        # A job of the agent's session, as one of a shell's: in a group that nobody could continue, nothing stops.
        words = ["group"] if job.terminal is None else ["session", "terminal"]
        if job.cgroup:
            words.append(f"cgroup={self.fill(job.cgroup)}/cgroup.procs")
        words += [f"close={number}" for number in job.close]
        for name, (soft, hard) in job.rlimits.items():
            # -1 is RLIM_INFINITY, an unsigned number in C.
            words.append(f"limit={getattr(resource, f'RLIMIT_{name}')}:{soft % 2**64}:{hard % 2**64}")
        words += [f"ignore={number}" for number in job.ignored]
        words += [f"block={number}" for number in job.blocked]
        words.append(f"umask={job.umask:o}")
        words += [f"personality={job.personality}"] if job.personality else []
        words += ["filter"] if job.filter else []
        # strace becomes the user by itself: only so does the setuid bit count for what it traces.
        if not job.trace and job.user != "root":
            account = pwd.getpwnam(job.user)
            groups = os.getgrouplist(account.pw_name, account.pw_gid)
            words.append(f"user={account.pw_uid}:{account.pw_gid}:{','.join(map(str, groups))}")
        words += ["locked"] if job.no_new_privs else []
        words.append(f"cwd={self.fill(job.cwd)}")
        # Last: it runs from then on.
        return words + ([f"timer={job.timer_ms}"] if job.timer_ms else [])

    def walk(self) -> None:
        """Do the steps, then read until the program ends."""
        for step in self.job.steps:
            try:
                self.do(step)
            except OSError as error:  # a process that is gone, a terminal that was closed
                raise StepFailed(f"{step}: {error}") from error
        self.read_until(lambda: False)

    def do(self, step: dict[str, Any]) -> None:  # noqa: C901  # one line a step
        """Carry out one step."""
        # No match statement: Debian 11 and Rocky 9 have Python 3.9.
        (verb, value), to = next(iter(step.items())), step.get("to")
        if verb == "expect":
            if not self.read_until(lambda: self.find(value)):
                raise StepFailed(f"{value!r} did not come")
        elif verb == "signal" and to == "subject":
            os.kill(self.pid, value)
        elif verb == "signal" and to == "user":
            # As the caller himself would: with his ids, so that the kernel judges.
            self.kill_as_user(self.pid, value)
        elif verb == "signal" and to == "payload":
            os.kill(self.payload(), value)
        elif verb == "write":
            text = value.replace("$SUBJECT", str(self.pid))
            os.write(self.master if self.master >= 0 else self.input, text.encode())
        elif verb == "resize":
            set_size(self.master, value)
        elif verb == "expect_stopped":
            if not self.read_until(lambda: (read_state(self.pid) == "T") is value, poll_s=POLL_S):
                raise StepFailed(f"it is {'not ' if value else ''}stopped")
        elif verb == "script":
            self.output["stderr"] += self.script(value.replace("$SUBJECT", str(self.pid))).encode()
        elif verb == "wait":
            end = time.monotonic() + value
            # epoll(7) knows no fraction of a millisecond, so a short wait is spun.
            poll_s = value / 8 if value > POLL_S else 0.0
            self.read_until(lambda: time.monotonic() >= end, poll_s=poll_s)
        else:
            raise SystemExit(f"unknown step {step}")

    def find(self, text: str) -> bool:
        """Say whether `text` came after what earlier steps saw, and go on behind it."""
        place = self.output["stdout"].find(text.encode(), self.seen)
        if place < 0:
            return False
        self.seen = place + len(text)
        return True

    def payload(self) -> int:
        """Return the pid that the status descriptor names; the payload may well have spoken before that."""
        self.read_until(lambda: b'"started"' in self.output["status"])
        for line in bytes(self.output["status"]).splitlines():
            event = json.loads(line)
            if event.get("event") == "started":
                return int(event["pid"])
        raise StepFailed("no pid on the status descriptor")

    def kill_as_user(self, pid: int, number: int) -> None:
        """Send a signal with the ids of the job's user."""
        account = pwd.getpwnam(self.job.user)
        child = os.fork()
        if child == 0:
            try:
                os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
                os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
                os.kill(pid, number)
            except OSError as error:
                os._exit(error.errno or 1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WEXITSTATUS(status):
            raise StepFailed(
                f"the caller may not send signal {number}: {os.strerror(os.WEXITSTATUS(status))}"
            )

    def read_until(self, done: Any, poll_s: float | None = None) -> bool:
        """Read what comes until `done()`, the program's end or the deadline; say whether `done()`.

        Args:
            done: Asked after each piece of output.
            poll_s: Ask as often as that, too: what it is about makes nothing readable.
        """
        while self.wait_status is None:
            patience_s = self.end - time.monotonic()
            # An earlier step may have read what this one is about.
            if done():
                return True
            if patience_s <= 0:
                return False
            for key, _ in self.selector.select(patience_s if poll_s is None else min(patience_s, poll_s)):
                if key.fd == self.exited:
                    self.wait_status = os.waitpid(self.pid, 0)[1]
                else:
                    self.read(key)
        # The program is gone; what it wrote is in the pipes already.
        self.drain()
        return bool(done())

    def read(self, key: selectors.SelectorKey) -> bool:
        """Take what one descriptor has; False at its end."""
        try:
            data = os.read(key.fd, 65536)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # a pty without another end
                raise
            data = b""
        if not data:
            self.selector.unregister(key.fd)
            os.close(key.fd)
            if key.fd == self.master:
                self.master = -1
            return False
        if len(self.output[key.data]) < LIMIT_BYTES:
            self.output[key.data] += data
        return True

    def drain(self) -> None:
        """Take what is left without waiting: somebody who stayed may hold the other end."""
        for key in list(self.selector.get_map().values()):
            while key.fd != self.exited and self.read(key):
                pass

    def finish(self) -> bool:
        """Make sure that the program has ended; say whether it had to be ended."""
        timed_out = False
        if self.pid and self.wait_status is None:
            timed_out = True
            for number, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
                end = time.monotonic() + patience_s
                while self.wait_status is None and time.monotonic() < end:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                    if pid:
                        self.wait_status = status
                    else:
                        time.sleep(0.02)
            self.drain()
        for key in list(self.selector.get_map().values()):
            self.selector.unregister(key.fd)
            os.close(key.fd)
        if self.input >= 0:
            os.close(self.input)
        return timed_out

    def settle(self) -> list[str]:
        """Wait for the job's processes to be gone; return those that stayed, and end them."""
        end = time.monotonic() + self.settle_s
        while (left := find_processes(self.job.token, self.older)) and time.monotonic() < end:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return list(left.values())

    def remove(self) -> None:
        """Take the bundle away again, and the trace."""
        for number in self.held:
            os.close(number)
        shutil.rmtree(self.bundle, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.trace_file)


def make_bundle(path: str, spec: dict[str, Any], user: str, fill: Any) -> None:
    """Write a bundle that belongs to `user`: config.json as given, and a root filesystem with the observer."""
    account = pwd.getpwnam(user)
    os.makedirs(WORK, mode=0o755, exist_ok=True)
    made = [path, f"{path}/rootfs", *(f"{path}/rootfs/{name}" for name in DIRECTORIES)]
    for directory in made:
        os.mkdir(directory, 0o755)
    os.chmod(f"{path}/rootfs/tmp", 0o1777)  # noqa: S103  # as in every root
    # A link, not a copy: nothing may write to it anyway, and it is on the same file system.
    os.link(OBSERVER, f"{path}/rootfs/observe")
    for name, entry in spec.get("files", {}).items():
        target = f"{path}/{name}"
        made += make_parents(target)
        with open(target, "wb") as stream:
            stream.write(entry.get("content", "").encode("utf-8", "surrogateescape"))
            os.fchmod(stream.fileno(), entry.get("mode", 0o644))
        made.append(target)
    if "config" in spec:
        given = spec["config"]
        # Not escaped: what is not UTF-8 has to be in the file as bytes.
        text = json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given
        with open(f"{path}/config.json", "wb") as stream:
            stream.write(fill(text).encode("utf-8", "surrogateescape"))
        made.append(f"{path}/config.json")
    for name in made:
        os.lchown(name, account.pw_uid, account.pw_gid)


def make_parents(path: str) -> list[str]:
    """Make the directories that `path` lies in; return those that were not there."""
    directory, made = os.path.dirname(path), []
    while not os.path.isdir(directory):
        made.append(directory)
        directory = os.path.dirname(directory)
    for missing in reversed(made):
        os.mkdir(missing)
    return made


def find_strace() -> str:
    """Return strace's path; a job that is traced needs it."""
    return shutil.which("strace", path=CLEAN_PATH) or "/usr/bin/strace"


def connect(kind: str) -> tuple[int, int]:
    """Return both ends of a stream: of a pipe, of a socket of the host alone (`local`) or of its network."""
    if kind == "pipe":
        return os.pipe()
    if kind == "local":
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            far = socket.create_connection(server.getsockname())
            near = server.accept()[0]
    return near.detach(), far.detach()


def read_terminal(master: int, slave: int) -> list[str]:
    """Return a terminal's modes, its owner, its file's mode and its descriptor's flags, such as O_NONBLOCK.

    The near end tells its modes also after the far one hung up; the flags are those of all who have the far end.
    """
    status = os.fstat(slave)
    flags = fcntl.fcntl(slave, fcntl.F_GETFL)
    return [
        str(termios.tcgetattr(master)),
        f"{status.st_uid}:{status.st_gid}",
        oct(status.st_mode),
        oct(flags),
    ]


def set_size(number: int, size: list[int]) -> None:
    """Give a terminal its rows and columns."""
    fcntl.ioctl(number, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))


def exit_code(status: int | None) -> int | None:
    """Return 0 to 255 for an exit, minus N for a death by signal N, None for neither."""
    if status is None:
        return None
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
