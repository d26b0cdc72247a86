"""`bundle run` beside crun, runc, bubblewrap and a floor in C: one table, one JSON file."""

import datetime as dt
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders import Contender, Network, User, Workshop, make_contenders, name_beside
from bench.measure import (
    PAYLOAD,
    BenchError,
    Spawner,
    measure_latency,
    measure_memory,
    measure_system_calls,
    measure_throughput,
    read_namespaces,
    summarise,
)

ROOT = Path(__file__).resolve().parent.parent
PLACE = Path("/opt/locald-bench")
BUILD_LIMIT_S = 900
USER_NAME = "locald-a"
IN_FLIGHT = 100
SLOW_MS = 15
MAX_CONTAINERS = 4096


@dataclass(frozen=True)
class Must:
    """A ratio that a release must not exceed (or fall short of)."""

    what: str
    measure: str
    peer: str
    limit: float
    at_least: bool = False


MUSTS = (
    Must("median to crun (root)", "median_ms", "crun (root)", 0.50),
    Must("median to bwrap", "median_ms", "bwrap", 0.80),
    Must("median to runc (root)", "median_ms", "runc (root)", 0.15),
    Must("throughput to crun (root)", "per_second", "crun (root)", 2.0, at_least=True),
)
# For a start of this build in starts of the one beside it.
MAX_SLOWDOWN = 1.05
MEMORY_LIMIT_KIB = 1536
SUBJECTS = ("shim mapped", "shim direct")


@dataclass(frozen=True)
class Plan:
    """What one run measures."""

    rounds: int
    burst: int
    network: Network
    beside: Path | None = None  # another build of the shim


def compile_tool(name: str, directory: Path) -> Path:
    """Compile one of our C programs, statically."""
    output = directory / name
    source = ROOT / "bench" / f"{name}.c"
    command = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(output), str(source)]
    subprocess.run(command, check=True, timeout=BUILD_LIMIT_S, stdin=subprocess.DEVNULL)  # noqa: S603
    return output


def install_shim(user: User) -> Path:
    """Build the shim and install it, with its policy, where only this process and its children see it."""
    environment = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--locked"],  # noqa: S607  # the user's own toolchain
        cwd=ROOT / "shim",
        env=environment,
        check=True,
        timeout=BUILD_LIMIT_S,
        stdin=subprocess.DEVNULL,
    )
    for path, mode in ((PLACE, "755"), (Path("/etc/locald"), "755"), (Path("/run/locald-shim"), "700")):
        path.mkdir(parents=True, exist_ok=True)
        mount = ["/bin/mount", "-t", "tmpfs", "-o", f"mode={mode}", "none", str(path)]
        subprocess.run(mount, check=True, timeout=BUILD_LIMIT_S)  # noqa: S603
    policy = Path("/etc/locald/policy")
    policy.write_text(f"version = 1\nallow-user = {user.uid}\nmax-containers = {MAX_CONTAINERS}\n")
    policy.chmod(0o644)
    return place_shim(ROOT / "shim" / "target" / "release" / "locald-shim", "locald-shim")


def place_shim(program: Path, name: str) -> Path:
    """Copy a build of the shim to where its set-user-id bit counts."""
    shim = PLACE / name
    shutil.copyfile(program, shim)
    shim.chmod(0o4755)
    return shim


def find_user() -> User:
    """Return the ordinary user who calls, made where he is missing."""
    command = [sys.executable, "-m", "tests.fixtures", "users"]
    answer = subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=BUILD_LIMIT_S)  # noqa: S603
    (found,) = [user for user in json.loads(answer.stdout) if user["name"] == USER_NAME]
    return User(found["name"], found["uid"], found["gid"], Path("/home") / found["name"])


def measure(contenders: list[Contender], spawn: Path, rounds: int, total: int) -> dict[str, dict[str, Any]]:
    """Measure everybody; a contender that cannot run here is named with its own words, and left out."""
    results: dict[str, dict[str, Any]] = {}
    spawners = []
    for contender in contenders:
        try:
            spaces = read_namespaces(contender)
            spawner = Spawner(spawn, contender)
            spawner.order("run")
        except BenchError as error:
            sys.stdout.write(f"left out: {error}\n")
            continue
        whole = shlex.join(contender.wrapped(spawner.command))
        results[contender.name] = {"command": whole, "namespaces": spaces}
        spawners.append(spawner)
    for name, times in measure_latency(spawners, rounds).items():
        results[name] |= summarise(times)
    # Of the slow (runc) a fifth of the starts say the same.
    slow = {name for name, result in results.items() if result["median_ms"] > SLOW_MS}
    bursts = [(each, total // 5 if each.contender.name in slow else total) for each in spawners]
    rates, failed = measure_throughput(bursts, IN_FLIGHT)
    for words in failed.values():
        sys.stdout.write(f"in part: {words}\n")
    for spawner in spawners:
        name = spawner.contender.name
        try:
            if name in rates:
                results[name]["per_second"] = round(rates[name], 1)
            results[name] |= measure_memory(spawner.contender)
            results[name]["system_calls"] = measure_system_calls(spawner.contender)
        except BenchError as error:
            sys.stdout.write(f"in part: {error}\n")
        spawner.close()
    return results


def judge(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the shim with its musts; a peer that was not measured leaves its must open."""
    verdicts: list[dict[str, Any]] = []
    for subject in SUBJECTS:
        own = results.get(subject, {})
        beside = name_beside(subject)
        before = (Must(f"median to {beside}", "median_ms", beside, MAX_SLOWDOWN),)
        for must in (*MUSTS, *(before if beside in results else ())):
            peer = results.get(must.peer, {})
            ratio = (
                own[must.measure] / peer[must.measure] if {must.measure} <= own.keys() & peer.keys() else None
            )
            holds = ratio is not None and (ratio >= must.limit if must.at_least else ratio <= must.limit)
            verdicts.append(
                {
                    "subject": subject,
                    "must": f"{must.what} {'>=' if must.at_least else '<='} {must.limit}",
                    "value": None if ratio is None else round(ratio, 3),
                    "verdict": "open" if ratio is None else "met" if holds else "missed",
                }
            )
        size = own.get("peak_kib")
        verdict = "open" if size is None else "met" if size <= MEMORY_LIMIT_KIB else "missed"
        must_text = f"peak RSS <= {MEMORY_LIMIT_KIB} KiB"
        verdicts.append({"subject": subject, "must": must_text, "value": size, "verdict": verdict})
    return verdicts


def render(results: dict[str, dict[str, Any]], verdicts: list[dict[str, Any]], network: Network) -> str:
    """Return the tables that are printed, in Markdown."""
    columns = ("median_ms", "p95_ms", "per_second", "peak_kib", "system_calls")
    base = results.get("crun (root)", {}).get("median_ms")
    lines = [
        f"Network: {network}. Payload: {' '.join(PAYLOAD)} of static busybox; {IN_FLIGHT} in flight for starts/s.",
        "",
        "| contender | median ms | p95 ms | starts/s | peak RSS KiB | system calls | median / crun (root) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        cells = [str(result.get(column, "-")) for column in columns]
        ratio = f"{result['median_ms'] / base:.2f}" if base else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    lines += ["", "| subject | must | value | verdict |", "|---|---|---|---|"]
    lines += [f"| {v['subject']} | {v['must']} | {v['value']} | {v['verdict']} |" for v in verdicts]
    return "\n".join(lines)


def describe_machine() -> dict[str, str]:
    """Return what the numbers hold for."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": models[0] if models else platform.machine(),
        "cpus": str(os.cpu_count()),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def run(plan: Plan, output: Path) -> int:
    """Measure, print, write; 0 even where a must is missed: a number is judged by who knows the machine."""
    user = find_user()
    machine = describe_machine()
    # Tools and bundles lie where the ordinary user can reach them.
    with tempfile.TemporaryDirectory(prefix="locald-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shim = install_shim(user)
        beside = None if plan.beside is None else place_shim(plan.beside, "locald-shim-beside")
        workshop = Workshop(directory, user, plan.network)
        workshop.make_rootfs(Path(shutil.which("busybox") or "/bin/busybox"))
        contenders, missing = make_contenders(workshop, shim, compile_tool("floor", directory), beside)
        for peer in missing:
            sys.stdout.write(f"missing: {peer} is not installed, and was not measured\n")
        results = measure(contenders, compile_tool("spawn", directory), plan.rounds, plan.burst)
    verdicts = judge(results)
    text = render(results, verdicts, plan.network)
    sys.stdout.write(f"{machine['date']}, Linux {machine['kernel']}, {machine['cpus']} x {machine['cpu']}, ")
    sys.stdout.write(f"load {machine['load']}, {plan.rounds} rounds\n\n{text}\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rounds": plan.rounds, "network": plan.network, "missing": missing}
    record |= {"results": results, "musts": verdicts}
    output.write_text(json.dumps(record, indent=2) + "\n")
    sys.stdout.write(f"\nwritten: {output}\n")
    return 0
