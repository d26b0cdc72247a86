"""What tests need of the shim cannot get into a release build: its sources refuse it, whoever passes the flag."""

import os
import subprocess
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).resolve().parents[2]
# A directory of its own, kept: other flags than the other builds' would make cargo build all of those again.
TARGET = ROOT / "shim" / "target-flags"
BUILD_LIMIT_S = 300
# The flag, and the profile in which it is taken.
FLAGS = {"locald_mutants": "mutants", "locald_coverage": "coverage"}


def try_build(flag: str, profile: str) -> "subprocess.CompletedProcess[str]":
    """Have the compiler look at the shim's library with this flag, in this profile."""
    inherited = {name: value for name, value in os.environ.items() if "RUSTFLAGS" not in name}
    command = ["cargo", "check", "--quiet", "--lib", "--locked", f"--profile={profile}"]
    return subprocess.run(
        [*command, f"--target-dir={TARGET}"],
        cwd=ROOT / "shim",
        env={**inherited, "RUSTFLAGS": f"-C target-feature=+crt-static --cfg {flag}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=BUILD_LIMIT_S,
        check=False,
        text=True,
    )


@pytest.mark.spawns
@pytest.mark.parametrize("flag", FLAGS)
def test_no_release_is_built_for_tests(flag: str) -> None:
    """The compiler ends with the reason and the profile to use."""
    done = try_build(flag, "release")

    assert done.returncode != 0
    assert f"a release build has no `--cfg {flag}`: use `--profile={FLAGS[flag]}`" in done.stderr


@pytest.mark.spawns
@pytest.mark.parametrize("flag", FLAGS)
def test_the_profile_that_is_named_serves(flag: str) -> None:
    """Else the refusal could be of anything."""
    done = try_build(flag, FLAGS[flag])

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("mark", "flag"), hatch_build.TEST_BUILDS.items())
def test_a_wheel_takes_no_program_of_the_tests(mark: bytes, flag: str, tmp_path: Path) -> None:
    """What a flag brought in that claims that this is no release; any other program is taken."""
    program = tmp_path / "locald-shim"
    program.write_bytes(b"\x7fELF before " + mark + b" after")
    with pytest.raises(hatch_build.ShimBuildError, match=f"`--cfg {flag}`"):
        hatch_build.refuse_test_build(program)

    program.write_bytes(b"\x7fELF before after")
    hatch_build.refuse_test_build(program)


def test_the_marks_are_the_shims_own() -> None:
    """By the names that its sources have."""
    sources = b"".join(path.read_bytes() for path in sorted((ROOT / "shim" / "src").rglob("*.rs")))
    assert [mark for mark in hatch_build.TEST_BUILDS if mark not in sources] == []
