"""Installs the shim where only these tests see it, and says as whom it is called.

The test process takes a mount namespace of its own: /etc/locald, /run/locald-shim and the place of the setuid
files are memory there, so the machine keeps its policy and no setuid file outlives the run, whatever happens.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import ensure_users
from tests.shim.harness import (
    MODES,
    POLICY,
    STATE,
    Caller,
    Mode,
    Run,
    Shim,
    Workshop,
)
from tests.shim.kernel import mount, private_mounts

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path("/opt/locald-test")
BUILD_LIMIT_S = 900
# What .cargo/config.toml sets, which RUSTFLAGS replaces, and the switch.
MUTANT_FLAGS = "-C target-feature=+crt-static --cfg locald_mutants"
POLICY_TEXT = "version = 1\nallow-user = locald-a\nallow-user = locald-b\n"


def build(target: str, **environment: str) -> Path:
    """Build the shim in release mode and return the program."""
    inherited = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--locked", f"--target-dir={target}"],  # noqa: S607
        cwd=ROOT / "shim",
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        timeout=BUILD_LIMIT_S,
        check=True,
    )
    return ROOT / "shim" / target / "release" / "locald-shim"


def install(program: Path, name: str) -> Path:
    """Copy `program` to its setuid place."""
    path = PLACE / "bin" / name
    shutil.copyfile(program, path)
    path.chmod(0o4755)
    return path


@pytest.fixture(scope="session")
def place() -> Path:
    """Where setuid files may lie: memory, in a mount namespace of this process."""
    if os.geteuid() != 0:
        pytest.fail("tests/shim needs root: sudo ci/nox -s tests")
    private_mounts()
    for path, options in ((PLACE, "mode=755"), (POLICY.parent, "mode=755"), (STATE, "mode=700")):
        path.mkdir(parents=True, exist_ok=True)
        mount("tmpfs", path, "tmpfs", 0, options)
    (PLACE / "bin").mkdir()
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o644)
    return PLACE


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
    return Shim(install(build("target-mutants", RUSTFLAGS=MUTANT_FLAGS), "locald-shim-mutant"))


@pytest.fixture(scope="session")
def callers() -> dict[str, Caller]:
    """The two ordinary users, by name."""
    return {user.name: Caller(user.name, user.uid, user.gid) for user in ensure_users()}


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Where bundles are made; gone after the run."""
    root = Path(tempfile.mkdtemp(prefix="locald-shim-"))
    root.chmod(0o755)
    probe = root / "probe"
    source = ROOT / "tests" / "shim" / "probe.c"
    compiler = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(probe), str(source)]
    subprocess.run(compiler, stdin=subprocess.DEVNULL, timeout=BUILD_LIMIT_S, check=True)
    yield Workshop(root, Path(shutil.which("busybox") or "/bin/busybox").resolve(), probe)
    shutil.rmtree(root, ignore_errors=True)


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
