"""Judge the shim's unit tests: cargo-mutants changes the pure modules, and some test must turn red each time.

`nox -s mutants -- code [--file policy.rs …]`. A mutant that no test notices is accepted only by an entry of
shim/mutants.toml with its reason; an entry that no longer fits is an error too. It works on a copy of the tree: the
tests read pages of the manual, which lie outside of the crate that cargo-mutants would copy.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REVIEWED = ROOT / "shim" / "mutants.toml"
# The decision and what it reads; `json.rs` and `config.rs` cost as long again, so they can be named by --file.
FILES = (
    "src/policy.rs",
    "src/policy/*.rs",
    "src/request.rs",
    "src/policy_file.rs",
    "src/subids.rs",
    "src/accounts.rs",
)
# What `cargo test` of the shim reads.
COPIED = ("shim", "docs/manual")
LEFT_OUT = ("target", "target-*", "work", "__pycache__")
MUTANT_LIMIT_S = 60
RUN_LIMIT_S = 4 * 3600
NICENESS = 10


def copy_tree(target: Path) -> Path:
    """Copy what the tests need to `target`; return the crate in it."""
    shutil.rmtree(target, ignore_errors=True)
    for name in COPIED:
        source = ROOT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        elif source.is_file():
            shutil.copy2(source, target / name)
    return target / "shim"


def run_mutants(crate: Path, files: tuple[str, ...], output: Path) -> dict[str, list[str]]:
    """Run cargo-mutants; return the names of the mutants by outcome."""
    command = [
        "cargo",
        "mutants",
        "--in-place",
        "--no-shuffle",
        "--colors=never",
        f"--timeout={MUTANT_LIMIT_S}",
    ]
    command += [f"--output={output}", *(f"--file={name}" for name in files), "--", "--lib", "--test=corpus"]
    environment = {**os.environ, "CARGO_PROFILE_DEV_DEBUG": "0"}
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    subprocess.run(  # noqa: S603
        command,
        cwd=crate,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=RUN_LIMIT_S,
        check=False,  # 2 is "some were missed", which is judged here
        preexec_fn=lambda: os.nice(NICENESS),  # this program has one thread
    )
    results = output / "mutants.out"
    kinds = ("caught", "missed", "timeout", "unviable")
    return {kind: (results / f"{kind}.txt").read_text("utf-8").splitlines() for kind in kinds}


def name_of(mutant: str) -> str:
    """Return a mutant's name without its line and column, which every edit moves. Pure."""
    return re.sub(r"^(\S+?):\d+:\d+: ", r"\1: ", mutant)


def judge(
    outcomes: dict[str, list[str]], reviewed: list[dict[str, object]], files: tuple[str, ...]
) -> list[str]:
    """Return one sentence for each survivor without a reason and each reason without a survivor. Pure."""
    survivors = Counter(name_of(mutant) for mutant in outcomes["missed"] + outcomes["timeout"])
    allowed = Counter({str(entry["mutant"]): int(str(entry.get("count", 1))) for entry in reviewed})
    complaints = [f"no test notices: {name} (times {count})" for name, count in (survivors - allowed).items()]
    looked_at = {name.split(":")[0] for mutants in outcomes.values() for name in mutants}
    for name, count in (allowed - survivors).items():
        if name.split(":")[0] in looked_at:
            complaints.append(f"shim/mutants.toml: {name} is noticed now (times {count})")
    complaints += [
        f"shim/mutants.toml: no reason for {each['mutant']}" for each in reviewed if not each.get("reason")
    ]
    if not outcomes["caught"]:
        complaints.append(f"no mutant of {', '.join(files)} was caught: cargo-mutants did not work")
    return complaints


def main() -> int:
    """Run, judge, print figures; 1 if a survivor has no reason."""
    parser = argparse.ArgumentParser(description="Change the shim's pure modules; some test must turn red.")
    parser.add_argument("--file", action="append", help="below shim/, a glob; may be given again")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "shim" / "target-mutants", help="for the copy of the tree"
    )
    options = parser.parse_args()
    files = tuple(options.file or FILES)
    outcomes = run_mutants(copy_tree(options.work / "tree"), files, options.work / "out")
    reviewed = tomllib.loads(REVIEWED.read_text("utf-8"))["survivor"] if REVIEWED.is_file() else []
    complaints = judge(outcomes, reviewed, files)
    counts = ", ".join(f"{len(mutants)} {kind}" for kind, mutants in outcomes.items())
    sys.stdout.write(f"mutants: {counts}; {len(reviewed)} survivors have a reason\n")
    for complaint in complaints:
        sys.stderr.write(f"mutants: {complaint}\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
