"""Installs the shim where only these tests see it, and says as whom it is called.

The test process takes a mount namespace of its own: /etc/locald, /run/locald-shim and the place of the setuid
files are memory there, so the machine keeps its policy and no setuid file outlives the run, whatever happens.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures import ensure_users
from tests.shim import figures, oracle
from tests.shim.harness import (
    MODES,
    POLICY,
    POLL_S,
    STATE,
    Caller,
    Mode,
    Run,
    Shim,
    Workshop,
)
from tests.shim.kernel import detach, mount, private_mounts
from tests.shim.tracer import Tracer

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path("/opt/locald-test")
BUILD_LIMIT_S = 900
# What .cargo/config.toml sets, which RUSTFLAGS replaces, and the switch.
RACE_ROUNDS = 300
ENDING_LIMIT_S = 3.0
MUTANT_FLAGS = "-C target-feature=+crt-static --cfg locald_mutants"
POLICY_TEXT = "version = 1\nallow-user = locald-a\nallow-user = locald-b\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is tried: `tests` takes a selection, `hostile` takes everything."""
    group = parser.getgroup("hostile")
    group.addoption("--hostile", action="store_true", help="every fault and exchange, in every setting")
    group.addoption("--rounds", type=int, default=RACE_ROUNDS, help="rounds of each random race")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Close with the figures that the manual quotes."""
    passed = len(terminalreporter.stats.get("passed", []))
    lines = {"cases": passed, **figures.COUNT, "snapshots of the host compared": oracle.COUNT.compared}
    terminalreporter.section("hostile corpus")
    for name, number in {**lines, "canaries touched": oracle.COUNT.touched}.items():
        terminalreporter.write_line(f"{name}: {number}")


def build(target: str, profile: str = "release", **environment: str) -> Path:
    """Build the shim with this profile of its Cargo.toml and return the program."""
    inherited = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    subprocess.run(
        ["cargo", "build", "--quiet", f"--profile={profile}", "--locked", f"--target-dir={target}"],  # noqa: S607
        cwd=ROOT / "shim",
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        timeout=BUILD_LIMIT_S,
        check=True,
    )
    return ROOT / "shim" / target / profile / "locald-shim"


def install(program: Path, name: str) -> Path:
    """Copy `program` to its setuid place."""
    path = PLACE / "bin" / name
    shutil.copyfile(program, path)
    path.chmod(0o4755)
    return path


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Where setuid files may lie: memory, in a mount namespace of this process."""
    if os.geteuid() != 0:
        pytest.fail("tests/shim needs root: sudo ci/nox -s tests")
    private_mounts()
    made = []
    for path, mode in ((PLACE, 0o755), (POLICY.parent, 0o755), (STATE, 0o700)):
        if not path.exists():
            # The whole machine sees the mount point, and keeps it if this process is killed: with the mode that the
            # product gives it, since the shim refuses a state directory that others may read.
            path.mkdir(mode=mode, parents=True)
            made.append(path)
        mount("tmpfs", path, "tmpfs", 0, f"mode={mode:o}")
    (PLACE / "bin").mkdir()
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o644)
    yield PLACE
    for path in made:
        detach(path)
        # Not empty if somebody else uses it by now.
        with contextlib.suppress(OSError):
            path.rmdir()


@pytest.fixture(scope="session")
def release_program() -> Path:
    """The program that users get."""
    return build("target")


@pytest.fixture(scope="session")
def shim(place: Path, release_program: Path) -> Shim:
    """The program that users get, installed."""
    del place
    return Shim(install(release_program, "locald-shim"))


@pytest.fixture(scope="session")
def mutant(place: Path) -> Shim:
    """The build whose rules can be switched off, installed."""
    del place
    return Shim(install(build("target-mutants", "mutants", RUSTFLAGS=MUTANT_FLAGS), "locald-shim-mutant"))


@pytest.fixture(scope="session")
def callers() -> dict[str, Caller]:
    """The two ordinary users, by name."""
    return {user.name: Caller(user.name, user.uid, user.gid) for user in ensure_users()}


@pytest.fixture(scope="session")
def hostile(request: pytest.FixtureRequest) -> bool:
    """Whether everything is to be tried."""
    return bool(request.config.getoption("--hostile", default=False))


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How many rounds a random race has."""
    return int(request.config.getoption("--rounds", default=RACE_ROUNDS))


@pytest.fixture(scope="session")
def host(place: Path, callers: dict[str, Caller]) -> Iterator[oracle.Host]:
    """The host, with canaries planted."""
    del place
    homes = [user.home for user in ensure_users()]
    with oracle.Host(homes, list(callers.values())).canaries_planted() as planted:
        yield planted


@pytest.fixture(autouse=True)
def _host_stays(host: oracle.Host) -> Iterator[None]:
    """Compare the host before and after every single case."""
    before = host.snapshot()
    yield
    # What a case has killed may take a moment to end.
    deadline = time.monotonic() + ENDING_LIMIT_S
    while oracle.changes(before, after := host.snapshot()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    assert host.differences(before, after) == []


@pytest.fixture(scope="session")
def tracer_program(workshop: Workshop) -> Path:
    """The compiled tracer.c."""
    return compile_tool("tracer", workshop.root)


@pytest.fixture
def start_tracer(tracer_program: Path) -> Iterator[Callable[[Shim], Tracer]]:
    """Starts a tracer for a shim; it ends with the test."""
    started: list[Tracer] = []

    def start(shim: Shim) -> Tracer:
        started.append(Tracer(tracer_program, shim))
        return started[-1]

    yield start
    for tracer in started:
        tracer.close()


@pytest.fixture
def tracer(shim: Shim, start_tracer: Callable[[Shim], Tracer]) -> Tracer:
    """A tracer of the shim that users get."""
    return start_tracer(shim)


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Where bundles are made; gone after the run."""
    root = Path(tempfile.mkdtemp(prefix="locald-shim-"))
    root.chmod(0o755)
    probe = compile_tool("probe", root)
    yield Workshop(root, Path(shutil.which("busybox") or "/bin/busybox").resolve(), probe)
    shutil.rmtree(root, ignore_errors=True)


def compile_tool(name: str, directory: Path) -> Path:
    """Compile a C program of these tests, static: it runs in a container too."""
    program = directory / name
    source = ROOT / "tests" / "shim" / f"{name}.c"
    compiler = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    subprocess.run(compiler, stdin=subprocess.DEVNULL, timeout=BUILD_LIMIT_S, check=True)
    return program


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    """With and without a user namespace."""
    chosen: Mode = request.param
    return chosen


@pytest.fixture(params=["locald-a", "locald-b"])
def caller(request: pytest.FixtureRequest, callers: dict[str, Caller]) -> Caller:
    """With and without subordinate ids."""
    return callers[request.param]


@pytest.fixture
def run(shim: Shim, workshop: Workshop, mode: Mode, caller: Caller) -> Run:
    """The shim that users get, in each mode, for each user."""
    return Run(shim, workshop, mode, caller)
