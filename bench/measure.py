"""The measurements: time of one start, starts in a second, memory of the runtime, system calls."""

import random
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

from bench.contenders import Contender

START_LIMIT_S = 60
PAYLOAD = ("/bin/true",)
WARM_UP_ROUNDS = 10
BURST_ROUNDS = 5
SEED = 20_261_122


class BenchError(Exception):
    """A contender could not be measured; says its command and its words."""


class Spawner:
    """One contender's starter (spawn.c), kept running so that only the start is measured."""

    def __init__(self, program: Path, contender: Contender, payload: Sequence[str] = PAYLOAD) -> None:
        self.contender = contender
        self.command = contender.command(payload)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self._process = subprocess.Popen(  # noqa: S603  # argv lists of contenders.py
            contender.wrapped([str(program), *self.command]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **dict(contender.environment)},
            cwd="/",
            text=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise BenchError("a pipe that was asked for is not there")
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def order(self, order: str) -> tuple[int, int]:
        """Send one order and return its two numbers."""
        self._orders.write(order + "\n")
        self._orders.flush()
        answer = self._answers.readline().split()
        if len(answer) != 2 or answer[1] != "0":  # noqa: PLR2004  # two numbers, the second being no failure
            raise BenchError(f"{self.contender.name}: `{order}` gave {answer}; {self.errors()}")
        return int(answer[0]), int(answer[1])

    def errors(self) -> str:
        """Return the command and the last words on stderr."""
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-800:]
        return f"command: {' '.join(self.command)}; stderr: {words}"

    def close(self) -> None:
        """End the starter."""
        self._orders.close()
        self._process.wait(timeout=START_LIMIT_S)
        self._errors.close()


def measure_latency(spawners: Sequence[Spawner], rounds: int) -> dict[str, list[float]]:
    """Return each contender's starts in milliseconds; every round takes all of them, in a random order."""
    times: dict[str, list[float]] = {spawner.contender.name: [] for spawner in spawners}
    shuffled = random.Random(SEED)  # noqa: S311  # an order, not a secret
    for number in range(-WARM_UP_ROUNDS, rounds):
        order = list(spawners)
        shuffled.shuffle(order)
        for spawner in order:
            nanoseconds, _ = spawner.order("run")
            if number >= 0:
                times[spawner.contender.name].append(nanoseconds / 1e6)
    return times


def summarise(times: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile."""
    return {"median_ms": round(median(times), 3), "p95_ms": round(quantiles(times, n=20)[18], 3)}


def measure_throughput(
    spawners: Sequence[tuple[Spawner, int]], in_flight: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Return each contender's starts in a second with `in_flight` of them at once, and who failed with which words.

    Medians of bursts; every round takes one of each contender (with its own number of starts), in a random order.
    """
    rates: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    shuffled = random.Random(SEED)  # noqa: S311  # an order, not a secret
    for _ in range(BURST_ROUNDS):
        order = list(spawners)
        shuffled.shuffle(order)
        for spawner, total in order:
            name = spawner.contender.name
            try:
                nanoseconds, _ = spawner.order(f"burst {total} {in_flight}")
            except BenchError as error:
                failed[name] = str(error)
                continue
            rates.setdefault(name, []).append(total / (nanoseconds / 1e9))
    # A start that failed is no start: whoever failed once has no figure.
    return {name: median(found) for name, found in rates.items() if name not in failed}, failed


def measure_memory(contender: Contender) -> dict[str, int]:
    """Return the peak resident sizes of the runtime while its payload sleeps, in KiB: all of it, and unshared.

    VmHWM of the process that the caller waits for, read while the payload runs: getrusage would add the payload
    and the image before execve.
    """
    command = contender.command(("/bin/sleep", "1000"))
    command = [word.replace("@ID@", f"m{int(time.monotonic() * 1e6)}") for word in command]
    process = subprocess.Popen(  # noqa: S603  # argv lists of contenders.py
        contender.wrapped(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/"
    )
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not _has_descendant(process.pid, "sleep"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{contender.name}: no payload came up: {' '.join(command)}")
            time.sleep(0.01)
        status = Path(f"/proc/{process.pid}/status").read_text()
        sizes = dict(re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", status, re.MULTILINE))
        return {"peak_kib": int(sizes["VmHWM"]), "anonymous_kib": int(sizes["RssAnon"])}
    finally:
        for pid in [*_descendants(process.pid), process.pid]:
            _kill(pid)
        process.wait(timeout=START_LIMIT_S)


def measure_system_calls(contender: Contender) -> int:
    """Return how many system calls one start takes, the payload's included."""
    command = [word.replace("@ID@", f"s{int(time.monotonic() * 1e6)}") for word in contender.command(PAYLOAD)]
    with tempfile.NamedTemporaryFile() as report:
        # strace as root, so that a setuid program keeps its right; it takes the user itself.
        user = ["-u", contender.user.name] if contender.user is not None else []
        tracing = ["/usr/bin/strace", "-f", "-c", "-qq", "-o", report.name, *user, *command]
        whole = Contender("strace", lambda _: [], None, contender.cgroup2).wrapped(tracing)
        result = subprocess.run(  # noqa: S603  # argv lists of contenders.py
            whole, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_LIMIT_S, check=False, cwd="/"
        )
        if result.returncode != 0:
            raise BenchError(
                f"{contender.name} below strace: {result.stderr.decode(errors='replace')[-500:]}"
            )
        (total,) = [
            line.split() for line in Path(report.name).read_text().splitlines() if line.endswith("total")
        ]
        return int(total[3])


def read_namespaces(contender: Contender) -> dict[str, str]:
    """Return the namespaces that a payload of this contender saw."""
    script = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done"
    command = [
        word.replace("@ID@", f"n{int(time.monotonic() * 1e6)}")
        for word in contender.command(("/bin/sh", "-c", script))
    ]
    result = subprocess.run(  # noqa: S603  # argv lists of contenders.py
        contender.wrapped(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=START_LIMIT_S,
        check=False,
    )
    if result.returncode != 0:
        words = result.stderr.decode(errors="replace")[-500:]
        raise BenchError(f"{contender.name}: {' '.join(command)}: {words}")
    return dict(line.split(":", 1) for line in result.stdout.decode().split())


def _kill(pid: int) -> None:
    subprocess.run(["/bin/kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL, timeout=10)  # noqa: S603


def _descendants(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(below for child in children for below in _descendants(child))]


def _has_descendant(pid: int, name: str) -> bool:
    for below in _descendants(pid):
        try:
            if Path(f"/proc/{below}/comm").read_text().strip() == name:
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False
