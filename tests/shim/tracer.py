"""Runs the shim below tracer.c: what it calls, and what becomes of it when one call goes wrong.

A boundary is one system call of one of the shim's processes, named by that process and by its count. One
Tracer serves thousands of runs: a run costs a few milliseconds, starting a program from here would double that.
"""

import contextlib
import errno
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.shim.harness import MUTANT_VARIABLE, Caller, Shim

LIMIT_MS = 10_000
# The tracer gives up by itself; this is for a tracer that does not.
ANSWER_LIMIT_S = 60.0
CALL_NUMBERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
SHIM = "0"
CHILD = "0.0"
# The constants of a call's first or second argument that tell its uses apart: prctl(2), fcntl(2), ioctl(2).
PRCTL = {
    1: "PDEATHSIG",
    3: "GET_DUMPABLE",
    4: "DUMPABLE",
    8: "KEEPCAPS",
    21: "GET_SECCOMP",
    22: "SECCOMP",
    23: "CAPBSET_READ",
    24: "CAPBSET_DROP",
    27: "GET_SECUREBITS",
    36: "CHILD_SUBREAPER",
    38: "NO_NEW_PRIVS",
    39: "GET_NO_NEW_PRIVS",
    47: "CAP_AMBIENT",
}
FCNTL = {1: "GETFD", 2: "SETFD", 3: "GETFL", 4: "SETFL"}


@cache
def call_names() -> dict[int, str]:
    """Return the name of each system call of x86_64, as the kernel's own header has them."""
    found = re.findall(r"#define __NR_(\w+) (\d+)", CALL_NUMBERS.read_text())
    return {int(number): name for name, number in found}


@dataclass(frozen=True)
class Boundary:
    """One system call of a run."""

    where: str  # the process: "0" the shim, "0.0" its first child, and so on
    index: int  # among the calls of that process
    call: str  # what is called, with what tells its uses apart: "openat2", "prctl:DUMPABLE"
    text: str  # the first path in its arguments, if there is one

    def __str__(self) -> str:
        """As a failure names it."""
        return f"{self.where}#{self.index} {self.call} {self.text}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """How a traced run ended."""

    status: int  # as a shell has it: 128+N for a signal
    hit: bool  # whether the boundary was reached
    hangs: bool
    left: int  # processes that outlived the shim and did not end by themselves
    boundaries: tuple[Boundary, ...]  # all of them if they were asked for, else the one that was hit
    stdout: str
    stderr: str
    received: str = ""  # over the other end of its stdin: each descriptor in a line, then the text

    @property
    def code(self) -> str | None:
        """The code in the shim's one line; none if there is not exactly one line of its kind."""
        found = re.fullmatch(
            r"locald-shim: (?:refused|failed) \[([a-z0-9.-]+)\]: [^\n]+; hint: [^\n]+\n", self.stderr
        )
        return found[1] if found else None


@dataclass(frozen=True)
class Nothing:
    """Let it run."""

    def __str__(self) -> str:
        """As tracer.c reads it."""
        return "none"


@dataclass(frozen=True)
class Fail:
    """Let the call at a boundary fail without being made."""

    at: Boundary
    error: int

    def __str__(self) -> str:
        """As tracer.c reads it."""
        return f"error {self.at.where} {self.at.index} {self.error}"

    def describe(self) -> str:
        """As a failure names it."""
        return f"{self.at} fails with {errno.errorcode[self.error]}"


@dataclass(frozen=True)
class Kill:
    """SIGKILL a process when the call at a boundary is about to be made."""

    at: Boundary
    victim: str

    def __str__(self) -> str:
        """As tracer.c reads it."""
        return f"kill {self.at.where} {self.at.index} {self.victim}"

    def describe(self) -> str:
        """As a failure names it."""
        return f"{self.victim} is killed before {self.at}"


@dataclass(frozen=True)
class Stop:
    """SIGSTOP, as the caller, the process whose call at a boundary is about to be made."""

    at: Boundary

    def __str__(self) -> str:
        """As tracer.c reads it."""
        return f"stop {self.at.where} {self.at.index}"


@dataclass(frozen=True)
class Swap:
    """Exchange two names as the caller when the call at a boundary is about to be made."""

    at: Boundary
    first: Path
    second: Path
    back: int = 0  # exchange them again, so many calls later; 0: never

    def __str__(self) -> str:
        """As tracer.c reads it."""
        return f"swap {self.at.where} {self.at.index} {self.back} {self.first} {self.second}"

    def describe(self) -> str:
        """As a failure names it."""
        back = f" and back {self.back} later" if self.back else ""
        return f"{self.first.name} and {self.second.name} are exchanged before {self.at}{back}"


Action = Nothing | Fail | Kill | Stop | Swap


@dataclass(frozen=True)
class Surroundings:
    """Where the shim is started."""

    cgroup: Path | None = None  # None: that of the test
    receives: bool = False  # stdin is one end of a pair of the caller's, the other is read after the run


class Tracer:
    """One running tracer, for one shim."""

    def __init__(self, program: Path, shim: Shim) -> None:
        switch = {"TRACER_ENV": f"{MUTANT_VARIABLE}={shim.disabled}"} if shim.disabled else {}
        self._shim = shim
        self._process = subprocess.Popen(
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=switch,
            bufsize=0,
        )
        self._text = b""

    def run(
        self,
        caller: Caller,
        arguments: Sequence[str],
        action: Action | None = None,
        *,
        record: bool = False,
        limit_ms: int = LIMIT_MS,
        around: Surroundings = Surroundings(),
    ) -> Outcome:
        """Run the shim with `arguments` as `caller`."""
        words = [
            caller.uid,
            caller.gid,
            limit_ms,
            int(record),
            "/",
            around.cgroup or "-",
            "socket" if around.receives else "null",
            action or Nothing(),
            "--",
            self._shim.path,
        ]
        line = " ".join([*(str(word) for word in words), *arguments]) + "\n"
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        numbers = [int(word) for word in self._take_line().split()]
        wait_status, hit, hangs, left, _, *lengths = numbers
        trace, out, err, received = (self._take(length).decode(errors="replace") for length in lengths)
        code = os.waitstatus_to_exitcode(wait_status)
        status = code if code >= 0 else 128 - code
        boundaries = tuple(parse_trace(trace))
        return Outcome(status, bool(hit), bool(hangs), left, boundaries, out, err, received)

    def close(self) -> None:
        """End the tracer, and with it whatever it still traces."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def _take_line(self) -> bytes:
        while b"\n" not in self._text:
            self._read()
        line, self._text = self._text.split(b"\n", 1)
        return line

    def _take(self, length: int) -> bytes:
        while len(self._text) < length:
            self._read()
        piece, self._text = self._text[:length], self._text[length:]
        return piece

    def _read(self) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_LIMIT_S)
        piece = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
        if not piece:
            time.sleep(0.1)  # for its last words
            raise AssertionError(f"the tracer ended or hangs: {self._process.poll()}")
        self._text += piece


def parse_trace(text: str) -> Iterator[Boundary]:
    """Read what tracer.c wrote of a run."""
    for line in text.splitlines():
        where, index, number, *arguments, path = line.split(" ")
        values = [int(argument) for argument in arguments]
        call = call_names()[int(number)]
        detail = ""
        if call == "prctl":
            detail = PRCTL.get(values[0], str(values[0]))
        elif call == "fcntl":
            detail = FCNTL.get(values[1], str(values[1]))
        elif call == "ioctl":
            detail = f"{values[1]:#x}"
        takes_path = call.endswith("at") or call in ("openat2", "open_tree", "mount", "execve", "chdir")
        shown = path if takes_path else ""
        yield Boundary(where, int(index), f"{call}:{detail}" if detail else call, shown)
