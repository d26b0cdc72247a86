"""The build of the shim that counts does so in each of its processes, whatever ends it; the release does not.

Which lines the counts stand for is LLVM's to read: `nox -s coverage`.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.measure.guest import PLACE
from conformance.measure.raw_profile import ProfileError, measure_counters
from conformance.measure.shim import build_counting_shim
from tests.shim.harness import MODES, READY, Caller, Mode, Run, Shim, Workshop, wait_until
from tests.shim.kernel import mount

ROOT = Path(__file__).resolve().parents[2]
VERSION_LIMIT_S = 20
INIT = {"dev.locald.init": "true"}
COUNTER_BYTES = 8
# The compiler's sections and the file that is counted in.
WORDS = (b"__llvm_prf_cnts", b"__llvm_covfun", f"{PLACE}/shim".encode(), b"coverage")


@pytest.fixture(scope="session")
def counting_program() -> Path:
    """The build that counts."""
    return build_counting_shim(ROOT / "shim" / "target-coverage")


@pytest.fixture
def counters(counting_program: Path, place: Path) -> Iterator[Path]:
    """The file that its processes share, in memory that only this process's mounts have."""
    del place
    directory = Path(PLACE)
    directory.mkdir()
    try:
        mount("tmpfs", directory, "tmpfs", 0, "mode=755")
        file = directory / "shim"
        file.write_bytes(bytes(measure_counters(counting_program.read_bytes())))
        file.chmod(0o666)
        yield file
        subprocess.run(["umount", "--lazy", directory], check=True, timeout=VERSION_LIMIT_S)  # noqa: S607
    finally:
        directory.rmdir()


@pytest.fixture
def counting(counting_program: Path, place: Path) -> Shim:
    """The build that counts, installed."""
    target = place / "bin" / "locald-shim-counting"
    target.write_bytes(counting_program.read_bytes())
    target.chmod(0o4755)
    return Shim(target)


def reached(counters: Path) -> int:
    """Return how many of the counters are not 0."""
    content = counters.read_bytes()
    return sum(any(content[at : at + COUNTER_BYTES]) for at in range(0, len(content), COUNTER_BYTES))


def test_the_release_program_counts_nothing(release_program: Path, counting_program: Path) -> None:
    """None of it is in the release; all of it is in the other build, so the words are right."""
    release, counting = release_program.read_bytes(), counting_program.read_bytes()
    assert [word for word in WORDS if word in release] == []
    assert [word for word in WORDS if word not in counting] == []
    assert measure_counters(counting) > 0
    with pytest.raises(ProfileError):
        measure_counters(release)


def test_a_build_that_counts_says_so(release_program: Path, counting: Shim, counters: Path) -> None:
    """`version` of it, and of no other."""
    del counters
    said = []
    for program in (release_program, counting.path):
        done = subprocess.run(
            [program, "version"], stdout=subprocess.PIPE, timeout=VERSION_LIMIT_S, check=True
        )
        said.append(json.loads(done.stdout).get("coverage"))
    assert said == [None, True]


def test_where_it_cannot_count_it_does_nothing(counting: Shim, callers: dict[str, Caller]) -> None:
    """On a host that was not made for it: one line, and no container that nobody measures."""
    assert not os.path.lexists(PLACE)
    done = counting.call(["version"], callers["locald-a"])
    assert (done.status, done.code, done.stdout) == (125, "coverage.file", b"")


@pytest.mark.parametrize("mode", MODES)
def test_every_process_counts_until_it_is_killed(
    counting: Shim, counters: Path, workshop: Workshop, callers: dict[str, Caller], mode: Mode
) -> None:
    """As a user: the set-up, PID 1 and the payload before its execve have counted while all of them still run."""
    caller = callers["locald-a"]
    assert counting.call(["version"], caller).status == 0
    asked = reached(counters)
    bundle = Run(counting, workshop, mode, caller).bundle(*READY)
    bundle.config["annotations"] = INIT
    with counting.running(bundle) as running:
        wait_until(lambda: len(running.descendants()) >= 2, "PID 1 and the payload run")
        started = reached(counters)
    # Killed: nothing was written at an end. The child's part alone is some hundred places.
    assert started > 4 * asked > 0
    assert reached(counters) >= started
