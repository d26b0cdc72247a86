"""`locald run` of a cached small image, beside the shim alone and an empty Python: what locald itself adds."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import Contender, User, Workshop, make_shim_contender
from bench.measure import PAYLOAD, Spawner, measure_latency, summarise
from bench.runtime import PLACE, ROOT, compile_tool, describe_machine, find_user, install_shim

STEP_LIMIT_S = 300
PYTHON = "/usr/bin/python3"
# On top of the shim, in starts of an empty Python.
LIMIT = 5.0


def must_run(argv: Sequence[str], **options: Any) -> str:
    """Run a step of the preparation; its standard output."""
    done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603  # argv lists of this file
        list(argv), check=True, capture_output=True, text=True, timeout=STEP_LIMIT_S, cwd=ROOT, **options
    )
    return done.stdout


def install_locald(wheel: Path, user: User) -> Path:
    """Install the wheel and its shim into a prefix of root's; the path of `locald`."""
    place = PLACE / "venv"
    must_run([PYTHON, "-m", "venv", str(place)])
    must_run([str(place / "bin" / "pip"), "install", "--quiet", str(wheel)])
    locald = place / "bin" / "locald"
    must_run([str(locald), "admin", "setup", f"--allow-user={user.name}"])
    return locald


def pull_image(stack: ExitStack, locald: Path, user: User, home: Path) -> str:
    """Let the user pull busybox from a registry on loopback; the reference that is in his store then."""
    fixtures = [sys.executable, "-m", "tests.fixtures"]
    started = must_run([*fixtures, "registry-start", f"--storage={home.parent / 'registry'}"])
    stack.callback(must_run, [*fixtures, "registry-stop", started])
    reference = must_run([*fixtures, "push", "busybox", json.loads(started)["address"]]).strip()
    whole = Contender("pull", lambda _: [], user).wrapped([str(locald), "pull", reference])
    must_run(whole, env={"PATH": os.environ["PATH"], "HOME": str(home)})
    return reference


def run(rounds: int, wheel: Path, output: Path) -> int:
    """Measure, print, write."""
    user = find_user()
    machine = describe_machine()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="locald-bench-")))
        directory.chmod(0o755)
        home = directory / "home"
        home.mkdir()
        os.chown(home, user.uid, user.gid)
        shim = install_shim(user)
        locald = install_locald(wheel, user)
        reference = pull_image(stack, locald, user, home)
        workshop = Workshop(directory, user, "host")
        workshop.make_rootfs(Path(shutil.which("busybox") or "/bin/busybox"))

        def locald_in(mode: str) -> Contender:
            words = [str(locald), "run", f"--mode={mode}", reference, "--"]
            environment = (("HOME", str(home)),)
            return Contender(f"locald {mode}", lambda p: [*words, *p], user, environment=environment)

        contenders = [
            Contender("python3 -c pass", lambda _: [PYTHON, "-c", "pass"], user),
            *(make_shim_contender(workshop, shim, mode, init=True) for mode in ("mapped", "direct")),
            *(locald_in(mode) for mode in ("mapped", "direct")),
        ]
        spawn = compile_tool("spawn", directory)
        spawners = [Spawner(spawn, contender, PAYLOAD) for contender in contenders]
        times = measure_latency(spawners, rounds)
        commands = {spawner.contender.name: spawner.command for spawner in spawners}
        for spawner in spawners:
            spawner.close()
    results = {name: {"command": commands[name], **summarise(found)} for name, found in times.items()}
    musts = {
        mode: (median(times[f"locald {mode}"]) - median(times[f"shim {mode} init"]))
        / median(times["python3 -c pass"])
        for mode in ("mapped", "direct")
    }
    sys.stdout.write(f"{machine['date']}, Linux {machine['kernel']}, {machine['cpus']} x {machine['cpu']}, ")
    sys.stdout.write(
        f"load {machine['load']}, {rounds} rounds\n\n| contender | median ms | p95 ms |\n|---|---|---|\n"
    )
    for name, result in results.items():
        sys.stdout.write(f"| {name} | {result['median_ms']} | {result['p95_ms']} |\n")
    for mode, ratio in musts.items():
        verdict = "met" if ratio <= LIMIT else "missed"
        text = (
            f"locald {mode}: {ratio:.2f} x `python3 -c pass` on top of the shim, at most {LIMIT}: {verdict}"
        )
        sys.stdout.write(f"\n{text}\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        json.dumps({"machine": machine, "rounds": rounds, "results": results, "musts": musts}) + "\n"
    )
    sys.stdout.write(f"\nwritten: {output}\n")
    return 0
