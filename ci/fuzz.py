"""Fuzz what the shim parses and decides: libFuzzer on the stable compiler, one target after the other.

`nox -s fuzz -- --seconds 60 [--target config] [--prove]`. The targets and their invariants: shim/fuzz/src/targets.
A finding ends the run red and is left below shim/fuzz/work; once mended it belongs into shim/fuzz/corpus/TARGET,
which `cargo test` replays. `--prove` builds the shim with its rules breakable and demands that the fuzzer finds
each planted defect of PLANTS.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "shim" / "fuzz"
WORK = FUZZ / "work"
TRIPLE = "x86_64-unknown-linux-gnu"
TARGETS = ("json", "config", "policy", "subids", "accounts", "policy_file", "request")
# What cargo-fuzz passes on nightly, but for the sanitizer: `-C passes` and `-C llvm-args` are stable options.
# No address sanitizer: what is fuzzed holds no `unsafe` at all (tests/unit/test_shim_hygiene.py).
COVERAGE = ("level=4", "inline-8bit-counters", "pc-table", "trace-compares")
FLAGS = ["-Cpasses=sancov-module", *(f"-Cllvm-args=-sanitizer-coverage-{each}" for each in COVERAGE)]
MUTANT_FLAGS = ["--cfg", "locald_mutants"]
# A command line and a table of accounts need no more; a config of 8 KiB holds every member.
MAX_INPUT_BYTES = 8192
MEMORY_LIMIT_MIB = 2048
# One input: a tenth of a second of processor time, which is seconds where everything else goes first.
INPUT_LIMIT_S = 60
BUILD_LIMIT_S = 1200
GRACE_S = 300
PROOF_LIMIT_S = 120
NICENESS = 19

# The rule that is switched off, and the target whose assertion then fails.
PLANTS = {
    "json": ("13-depth", "13-duplicate", "52", "54-values"),
    "config": ("13-unknown", "18", "19-devices", "26", "30", "31", "37-lists"),
    "policy": (
        "9-root",
        "13-unknown",
        "18",
        "19-devices",
        "19-resources",
        "20",
        "23-destination",
        "24-pid",
        "25-option",
        "25-size",
        "26",
        "27-mount",
        "27-path",
        "28-map",
        "28-range",
        "29-path",
        "29-resources",
        "29-values",
        "30",
        "31",
        "33-oom",
        "33-rlimit",
        "34-capabilities",
        "35-direct",
        "35-groups",
        "35-mapped",
        "36",
        "37-lists",
        "38-cwd",
        "52",
        "54-counts",
        "54-extents",
    ),
    "subids": ("28-line", "28-name", "28-range"),
    "accounts": ("28-name",),
    "policy_file": ("8-version", "45-address", "45-port", "55-caller", "55-modes"),
    "request": ("17", "32-number"),
}


@dataclass(frozen=True)
class Figures:
    """What one run of one target did."""

    target: str
    seconds: float
    execs: int
    execs_per_second: int
    edges: int
    features: int
    corpus: int
    finding: str | None

    def line(self) -> str:
        """One line for a person."""
        end = "none" if self.finding is None else self.finding
        return (
            f"{self.target:<12} {self.seconds:7.0f} s {self.execs:>12,} execs {self.execs_per_second:>8,}/s"
            f" {self.edges:>6,} edges {self.features:>7,} features {self.corpus:>6,} inputs  findings: {end}"
        )


def build(flags: list[str], directory: Path) -> Path:
    """Build the fuzzer with these flags of rustc; return the program."""
    # Named target: cargo then keeps the flags away from build scripts.
    command = [
        "cargo",
        "build",
        "--quiet",
        "--locked",
        "--release",
        f"--target={TRIPLE}",
        f"--target-dir={directory}",
    ]
    environment = {**os.environ, "RUSTFLAGS": " ".join(flags)}
    subprocess.run(command, cwd=FUZZ, check=True, env=environment, timeout=BUILD_LIMIT_S)  # noqa: S603
    return directory / TRIPLE / "release" / "fuzz"


def fuzz(program: Path, target: str, seconds: int, corpus: Path, rules: str = "") -> Figures:
    """Run one target for at most `seconds`; what is new stays in `corpus`."""
    corpus.mkdir(parents=True, exist_ok=True)
    kept = [str(FUZZ / kind / target) for kind in ("seeds", "corpus") if (FUZZ / kind / target).is_dir()]
    command = [
        str(program),
        str(corpus),
        *kept,
        f"-dict={FUZZ / 'fuzz.dict'}",
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-rss_limit_mb={MEMORY_LIMIT_MIB}",
        f"-timeout={INPUT_LIMIT_S}",
        f"-artifact_prefix={corpus.parent}/{target}-{rules}",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    environment = {"LOCALD_FUZZ_TARGET": target, **({"LOCALD_SHIM_DISABLE_RULE": rules} if rules else {})}
    started = time.monotonic()
    result = subprocess.run(  # noqa: S603
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds + GRACE_S,
        check=False,
        preexec_fn=lambda: os.nice(NICENESS),  # this program has one thread
    )
    output = result.stdout.decode(errors="replace")
    return read_figures(output, target, time.monotonic() - started, failed=result.returncode != 0)


def read_figures(output: str, target: str, seconds: float, *, failed: bool) -> Figures:
    """Read libFuzzer's own report. Pure."""
    numbers = {"execs": r"stat::number_of_executed_units: (\d+)", "edges": r"cov: (\d+)"}
    numbers |= {"features": r"ft: (\d+)", "corpus": r"corp: (\d+)"}
    last = {
        name: int(found[-1]) if (found := re.findall(rule, output)) else 0 for name, rule in numbers.items()
    }
    return Figures(
        target=target,
        seconds=round(seconds, 1),
        execs_per_second=int(last["execs"] / max(seconds, 0.1)),
        finding=find_reason(output) if failed else None,
        **last,
    )


def find_reason(output: str) -> str:
    """Return what failed and the file that shows it, in one line. Pure."""
    panic = re.search(r"panicked at (?:[^\n]*/)?(\w+\.rs:\d+):\d+:\n([^\n]{0,160})", output)
    kind = re.search(r"(?:SUMMARY|ERROR): libFuzzer: ([a-z -]+)", output)
    artifact = re.search(r"Test unit written to (\S+)", output)
    what = f"{panic[2]} ({panic[1]})" if panic else kind[1].strip() if kind else output[-200:].strip()
    return f"{what}; input: {artifact[1]}" if artifact else what


def prove(program: Path, targets: list[str]) -> list[str]:
    """Switch off each rule in turn; return what the fuzzer did not find."""
    missed = []
    for target in targets:
        for rule in PLANTS[target]:
            corpus = WORK / "prove" / f"{target}-{rule}"
            shutil.rmtree(corpus, ignore_errors=True)
            figures = fuzz(program, target, PROOF_LIMIT_S, corpus, rules=rule)
            found = figures.finding
            say(
                f"{target:<12} without {rule:<16} {figures.seconds:6.1f} s {figures.execs:>9,} execs  {found}"
            )
            # Anything but a failed assertion (a time-out, a program that does not start) proves nothing.
            if found is None or ".rs:" not in found:
                missed.append(f"{target} without {rule}")
    return missed


def say(line: str) -> None:
    """Print one line at once: runs are long."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Fuzz, or prove that fuzzing finds; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Fuzz the shim's parsers and policy.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="one target; may be given again")
    parser.add_argument("--prove", action="store_true", help="demand that each planted defect is found")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    WORK.mkdir(exist_ok=True)
    if options.prove:
        missed = prove(build([*FLAGS, *MUTANT_FLAGS], FUZZ / "target" / "mutants"), targets)
        count = sum(len(PLANTS[target]) for target in targets)
        say(f"fuzz: {count - len(missed)} of {count} planted defects found")
        for name in missed:
            say(f"fuzz: not found: {name}")
        return 1 if missed else 0
    program = build(FLAGS, FUZZ / "target")
    figures = []
    for target in targets:
        figures.append(fuzz(program, target, options.seconds, WORK / target))
        say(figures[-1].line())
    found = [each for each in figures if each.finding is not None]
    say(f"fuzz: {len(targets)} targets, {sum(each.execs for each in figures):,} execs, {len(found)} findings")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n", "utf-8")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
