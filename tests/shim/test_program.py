"""The program that users get, as a file: hardened, and without any means to switch a rule off."""

import json
import subprocess
from pathlib import Path

import pytest

from ci.hardening import find_weaknesses
from hatch_build import MUTANT_SWITCH, ShimBuildError, build_shim
from tests.shim.conftest import MUTANT_FLAGS, ROOT
from tests.shim.harness import MUTANT_VARIABLE, Shim

VERSION_LIMIT_S = 20
# The switch's own words, and what only the planted faults open.
MUTANT_WORDS = (
    MUTANT_VARIABLE.encode(),
    b"54-extents",
    b"28-range",
    b"/proc/self/environ",
)


def test_the_release_program_is_hard(release_program: Path) -> None:
    """Static, position independent, nothing writable and executable: ci/hardening.py."""
    assert find_weaknesses(release_program.read_bytes()) == []


def test_the_release_program_has_no_switch(release_program: Path, mutant: Shim) -> None:
    """Nothing of the planted faults is in the release; all of it is in the other build, so the words are right."""
    release = release_program.read_bytes()
    assert [word for word in MUTANT_WORDS if word in release] == []
    planted = mutant.path.read_bytes()
    assert [word for word in MUTANT_WORDS if word not in planted] == []


@pytest.mark.parametrize(
    "variable", ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS"]
)
def test_no_wheel_is_made_of_a_build_with_the_switch(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wherever the flag comes from, and though it says that this is no release: what came of it is refused."""
    separator = "\x1f" if "ENCODED" in variable else " "
    flags = f"{MUTANT_FLAGS} -C debug-assertions=on"
    monkeypatch.setenv(variable, flags.replace(" ", separator))
    monkeypatch.setenv("CARGO_TARGET_DIR", str(tmp_path))
    with pytest.raises(ShimBuildError, match="locald_mutants") as refused:
        build_shim(ROOT / "shim")
    assert "\n" not in str(refused.value)


def test_the_wheels_build_knows_the_switch() -> None:
    """By the name that the tests use."""
    assert MUTANT_VARIABLE.encode() == MUTANT_SWITCH


def test_the_release_program_is_what_it_says(release_program: Path, mutant: Shim) -> None:
    """`version` needs no privilege; a variable that names no rule ends the mutant build only."""
    wrong = {MUTANT_VARIABLE: "no-such-rule"}
    statuses = {}
    for name, program in (("release", release_program), ("mutant", mutant.path)):
        done = subprocess.run(
            [program, "version"], env=wrong, stdout=subprocess.PIPE, timeout=VERSION_LIMIT_S, check=False
        )
        statuses[name] = done.returncode
        if done.returncode == 0:
            assert set(json.loads(done.stdout)) >= {"version", "protocol", "build"}
    assert statuses == {"release": 0, "mutant": 2}
