"""What developers and CI run: `nox -l` lists it. `ci/nox` first installs what a session needs.

Python packages come from uv.lock, Rust crates from the trees' Cargo.lock, system packages from ci/packages/.
A session that lacks something says what, and changes nothing on the machine to get it.
"""

import argparse
import functools
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.tags = ["check"]
# uv makes an environment equal to the lock file whatever it held before.
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).resolve().parent
PACKAGES = ROOT / "ci" / "packages"
SHIM = ROOT / "shim"
# Trees of their own, each with its lock file: no wheel holds them, and what does not compile judges nothing.
FUZZER = SHIM / "fuzz"
TWIN = SHIM / "twin"
RUST_TREES = (SHIM, FUZZER, TWIN)
# Everything below tests/ but what needs root and changes the machine it runs on.
FAST_TESTS = ("tests", "--ignore=tests/shim", "--ignore=tests/integration")
PYTHON_TREES = ("locald", "vms", "conformance", "tests", "ci", "bench")
CONNECT_LIMIT_S = 20
# After Ctrl-C: an emulated guest is looked at once more, told of, and taken away.
ENDING_LIMIT_S = 300
# Both try again by themselves, some of the time with pauses: one more try is enough, and no network is soon said.
UV_LIMITS = {"UV_HTTP_TIMEOUT": str(CONNECT_LIMIT_S), "UV_HTTP_RETRIES": "1"}
CARGO_LIMITS = {"CARGO_HTTP_TIMEOUT": str(CONNECT_LIMIT_S), "CARGO_NET_RETRY": "1"}
# Crates for other platforms are named in the lock files and never needed.
TRIPLE = "x86_64-unknown-linux-gnu"
CARGO_MUTANTS = "27.1.0"
# Modules that make no system call, and the parts of others that do not; their tests are named by these words.
MIRI_MODULES = (
    *("accounts::", "caller::", "cgroup::", "host::", "json::", "link::"),
    *("policy_file::", "reply::", "request::", "subids::"),
)
# Thousands of inputs, and one of a mebibyte: hours in an interpreter.
MIRI_SKIPPED = ("no_text_makes_it_panic", "the_worst_mebibyte_takes_little_time", "values_are_counted")


@nox.session(tags=["check"])
def check(session: nox.Session) -> None:
    """Judge every source file and run the fast tests: no root, no guest, under a minute when warm."""
    require_programs(session, "base", "check")
    # mypy follows imports, so everything that any tree imports is there.
    install_groups(session, "dev")
    fetch_crates(session, *RUST_TREES)
    python = [name for name in PYTHON_TREES if (ROOT / name).is_dir()]
    clippy = ("clippy", "--locked", "--quiet", "--all-targets")
    denied = ("--", "-D", "warnings")
    run_all(
        session,
        {
            "ruff": lambda: session.run("ruff", "check", "--quiet", "."),
            "format": lambda: session.run("ruff", "format", "--quiet", "--check", "."),
            "types": lambda: session.run("mypy", "--strict", "noxfile.py", "hatch_build.py", *python),
            "workflows": lambda: session.run(
                "zizmor", "--quiet", "--offline", "--persona=pedantic", ".github"
            ),
            "shell": lambda: session.run("shellcheck", *find_shell_scripts(), external=True),
            **{
                f"rustfmt of {tree.name}": functools.partial(cargo, session, "fmt", "--check", tree=tree)
                for tree in RUST_TREES
            },
            "clippy of shim": lambda: cargo(session, *clippy, *denied),
            # Its engine is C++ and some minutes of building, and nothing of it is judged.
            "clippy of fuzz": lambda: cargo(session, *clippy, "--no-default-features", *denied, tree=FUZZER),
            "clippy of twin": lambda: cargo(session, *clippy, *denied, tree=TWIN),
            "dependencies": lambda: session.run("python", "ci/dependencies.py"),
            "cargo test": lambda: cargo(session, "test", "--locked", "--quiet"),
            # One process a processor: they are most of what this session takes.
            "unit tests": lambda: pytest(session, "--numprocesses=auto", *FAST_TESTS, *session.posargs),
        },
    )


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """Run all tests of this tree, the installed setuid shim among them. Needs root; adds two test users."""
    require_root(session)
    require_programs(session, "base", "tests", "browser")
    install_groups(session, "conformance", "browser")
    fetch_crates(session)
    if session.posargs:
        pytest(session, *session.posargs)
        return
    # One process for each: the shim's tests live in a mount namespace of their own.
    run_all(
        session,
        {
            "cargo test": lambda: cargo(session, "test", "--locked", "--quiet"),
            "unit tests": lambda: pytest(session, *FAST_TESTS),
            "integration tests": lambda: pytest(session, "tests/integration"),
            "shim tests": lambda: pytest(session, "tests/shim"),
        },
    )


@nox.session(default=False)
def hostile(session: nox.Session) -> None:
    """Attack the installed shim with all there is; prints figures: `nox -s hostile -- [--rounds 10000]`. Needs root."""
    require_root(session)
    require_programs(session, "base", "tests")
    install_groups(session, "conformance")
    pytest(session, "tests/shim", "--hostile", *session.posargs)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Judge every clause on each host: `nox -s conformance -- [--profile A,B] [--jobs N] [--clause GLOB] …`."""
    require_root(session)
    require_programs(session, "base", "tests", "conformance")
    install_groups(session, "conformance")
    with own_wheel(session) as wheel:
        kit(session, "conformance", "run", *session.posargs, f"--wheel={wheel}")


@nox.session(default=False)
def controls(session: nox.Session) -> None:
    """Run the clauses against planted bad shims: each must turn the clauses red that claim to see it."""
    require_root(session)
    require_programs(session, "base", "tests", "conformance")
    install_groups(session, "conformance")
    with own_wheel(session) as wheel:
        kit(session, "conformance.controls", *session.posargs, f"--wheel={wheel}")


@nox.session(default=False)
def vms(session: nox.Session) -> None:
    """Machines by hand: `nox -s vms -- up|ssh|prove|status|destroy PROFILE`, or without a word their tests."""
    require_root(session)
    require_programs(session, "base", "tests", "conformance", *(() if session.posargs else ("vm",)))
    install_groups(session, "conformance")
    if session.posargs:
        kit(session, "vms", *session.posargs)
    else:
        pytest(session, "tests/integration/vms", "-m", "vm")


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel with its shim: `nox -s wheel -- DIRECTORY` (dist by default)."""
    require_programs(session, "base")
    target = Path(session.posargs[0] if session.posargs else "dist")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(build_wheel(session), target)


@nox.session(default=False)
def report(session: nox.Session) -> None:
    """Join, sign or judge reports: `nox -s report -- merge|sign|gate …`; ci/release-gate is shorter for the last."""
    install_groups(session, "gate")
    session.run("python", "-m", "conformance", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Time the shim beside its peers, interleaved: `nox -s bench -- runtime|run [--rounds N]`. Needs root."""
    require_root(session)
    require_programs(session, "base", "bench", optional=("crun", "runc", "bwrap", "newuidmap"))
    install_groups(session, "bench")
    arguments = list(session.posargs or ["runtime"])
    if arguments[0] == "run":
        arguments.append(f"--wheel={build_wheel(session)}")
    session.run("python", "-m", "bench", *arguments)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz what the shim parses and decides: `nox -s fuzz -- --seconds 60 [--target T] [--prove]`."""
    require_programs(session, "base", "fuzz")
    session.run("python", "ci/fuzz.py", *session.posargs)


@nox.session(default=False)
def miri(session: nox.Session) -> None:
    """Run the unit tests of what parses and decides in miri: `rustup +nightly component add miri rust-src` first."""
    require_programs(session, "base")
    fetch_crates(session)
    skipped = [f"--skip={name}" for name in MIRI_SKIPPED]
    # The tests read pages of the manual.
    flags = {"MIRIFLAGS": "-Zmiri-disable-isolation"}
    with session.chdir(SHIM):
        command = ("cargo", "+nightly", "miri", "test", "--locked", "--lib", "--target-dir=target-miri")
        session.run(*command, "--", *(session.posargs or MIRI_MODULES), *skipped, env=flags, external=True)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break the shim on purpose: `nox -s mutants -- [code|rules …]`. Some test must turn red, and few others.

    `rules` (needs root): one rule off at a time, against every case. `code`: cargo-mutants changes the pure modules.
    Without a word both, the rules first.
    """
    kind, *arguments = session.posargs or ["all"]
    steps: dict[str, Callable[[], None]] = {
        "rules": lambda: mutate_rules(session, *arguments),
        "code": lambda: mutate_code(session, *arguments),
    }
    if kind not in ("all", *steps):
        session.error(f"{kind}: neither `code` nor `rules`")
    run_all(session, {name: step for name, step in steps.items() if kind in ("all", name)})


def mutate_rules(session: nox.Session, *arguments: str) -> None:
    """Switch off one rule of the shim after the other."""
    require_root(session)
    require_programs(session, "base", "tests")
    install_groups(session, "test")
    pytest(session, "tests/shim/matrix.py", *arguments)


def mutate_code(session: nox.Session, *arguments: str) -> None:
    """Change the shim's pure modules, one place at a time."""
    require_programs(session, "base")
    bin_directory = install_cargo_mutants(session)
    search = os.pathsep.join((bin_directory, os.environ.get("PATH", "")))
    session.run("python", "ci/mutants.py", *arguments, env={"PATH": search})


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Measure which lines the fast tests reach, and the clauses on a measured build: `-- [--profile local] …`.

    `--clause GLOB` runs only these; `--tests PATH …` measures other tests. With a profile it needs root.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--tests", nargs="+", default=FAST_TESTS)
    chosen, arguments = parser.parse_known_args(session.posargs)
    clauses = any(word.startswith("--profile") for word in arguments)
    require_programs(session, "base", "coverage", *(("tests", "conformance") if clauses else ()))
    install_groups(session, "conformance")
    # What a person mistyped is no matter to build a wheel and to run the tests for.
    kit(session, "conformance.measure", "--check", *arguments)
    if clauses:
        require_root(session)
        arguments.append(f"--wheel={choose_wheel(session)}")
    data = Path(session.create_tmp()) / "tests.coverage"
    run = ("coverage", "run", f"--data-file={data}", "-m", "pytest", "--quiet")
    session.run(*run, *chosen.tests)
    kit(session, "conformance.measure", f"--tests={data}", *arguments)


def run_all(session: nox.Session, steps: Mapping[str, Callable[[], object]]) -> None:
    """Run every step whatever those before it found; end the session with the names of the red ones."""
    red = []
    for name, step in steps.items():
        try:
            step()
        except nox.command.CommandFailed:
            red.append(name)
    if red:
        session.error(f"red: {', '.join(red)}")


def install_groups(session: nox.Session, *groups: str) -> None:
    """Install locald's dependencies and these groups exactly as uv.lock has them, but not locald itself."""
    uv = find_uv()
    if uv is None:
        session.error("uv is missing: `pip install uv`, or let ci/nox bring it")
    with needs_network(session, "uv could not install the Python packages of uv.lock", "package index"):
        session.run_install(
            uv,
            "sync",
            "--quiet",
            "--frozen",
            "--no-install-project",
            *(f"--group={group}" for group in groups),
            f"--python={session.virtualenv.location}",
            env=UV_LIMITS
            | {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location, "UV_PYTHON_DOWNLOADS": "never"},
            external=True,
        )


def fetch_crates(session: nox.Session, *trees: Path) -> None:
    """Fetch what Cargo.lock names, the shim's if none is named; where that is there already, nobody is asked.

    The steps after it need no network.
    """
    for tree in trees or (SHIM,):
        with needs_network(session, "cargo could not fetch the crates of Cargo.lock", "crate registry"):
            cargo(session, "fetch", "--locked", "--quiet", f"--target={TRIPLE}", tree=tree, env=CARGO_LIMITS)


@contextmanager
def needs_network(session: nox.Session, failure: str, server: str) -> Iterator[None]:
    """End the session with one line that names what failed and what was not reached."""
    try:
        yield
    except nox.command.CommandFailed:
        session.error(f"{failure}: see above, and whether the {server} can be reached")


def install_cargo_mutants(session: nox.Session) -> str:
    """Build the pinned cargo-mutants into the session's environment; return the directory of programs."""
    root = Path(session.virtualenv.location) / "cargo"
    named = f"cargo-mutants@{CARGO_MUTANTS}"
    # Does nothing where that version is there already.
    session.run_install("cargo", "install", "--quiet", "--locked", named, f"--root={root}", external=True)
    return str(root / "bin")


def find_uv() -> str | None:
    """Return uv from beside the running nox, else from PATH."""
    return shutil.which("uv", path=os.path.dirname(sys.executable)) or shutil.which("uv")


def build_wheel(session: nox.Session) -> Path:
    """Build the wheel with its shim and return its path."""
    directory = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(directory, ignore_errors=True)
    fetch_crates(session)
    build = (str(find_uv()), "build", "--quiet", "--wheel", f"--out-dir={directory}")
    session.run(*build, env=UV_LIMITS, external=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


def choose_wheel(session: nox.Session) -> Path:
    """Return the wheel that the arguments name by --wheel, else a fresh one: several machines can judge the same."""
    for word, following in itertools.pairwise([*session.posargs, ""]):
        if word == "--wheel" or word.startswith("--wheel="):
            return Path(word.partition("=")[2] or following)
    return build_wheel(session)


@contextmanager
def own_wheel(session: nox.Session) -> Iterator[Path]:
    """Hand over a copy of the chosen wheel: it is read for hours, and the next run of this tree builds in its place.

    It has to be the last that is named to the kit, after the one that the person named.
    """
    wheel = choose_wheel(session)
    with tempfile.TemporaryDirectory(prefix="locald-wheel-") as directory:
        # Where there is no such file the kit says so.
        yield Path(shutil.copy(wheel, directory)) if wheel.is_file() else wheel


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest as a module, so that the tree's own packages are found without being installed."""
    kit(session, "pytest", *arguments)


def kit(session: nox.Session, module: str, *arguments: str) -> None:
    """Run a module that has machines or mounts to take away; nox itself would kill it half a second after Ctrl-C."""
    session.run(
        *("python", "-m", module, *arguments),
        interrupt_timeout=ENDING_LIMIT_S,
        terminate_timeout=ENDING_LIMIT_S,
    )


def cargo(
    session: nox.Session,
    verb: str,
    *arguments: str,
    tree: Path = SHIM,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run cargo on a tree, in its directory: its .cargo/config.toml counts only there."""
    with session.chdir(tree):
        session.run("cargo", verb, *arguments, env=env, external=True)


def find_shell_scripts() -> list[str]:
    """Return every tracked or new file that is a shell script, by its name or its first line."""
    scripts = []
    for directory, names, files in os.walk(ROOT):
        # The tools' own state and build trees; .ci is ours.
        names[:] = [name for name in names if name == ".ci" or not name.startswith((".", "target", "__"))]
        for name in files:
            path = Path(directory, name)
            if path.suffix == ".sh" or (not path.suffix and read_first_line(path).endswith(b"sh")):
                scripts.append(str(path.relative_to(ROOT)))
    return sorted(scripts)


def read_first_line(path: Path) -> bytes:
    """Return the `#!` line of a regular file, else nothing."""
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        line = stream.readline(128)
    return line.strip() if line.startswith(b"#!") else b""


def require_programs(session: nox.Session, *lists: str, optional: tuple[str, ...] = ()) -> None:
    """End the session with the names of what it lacks, all at once, and the command that brings it."""
    search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = set()
    for line in (line for name in lists for line in (PACKAGES / f"{name}.txt").read_text().splitlines()):
        package, program = [*line.split("#", 1)[0].split(), "-", "-"][:2]
        if program not in ("-", *optional) and shutil.which(program, path=search) is None:
            missing.add(f"{program} (Debian: {package})")
    if shutil.which("cargo") is None:
        missing.add("cargo (https://rustup.rs; ci/nox brings Debian's)")
    if missing:
        command = f"ci/nox -s {session.name}"
        session.error(f"missing: {', '.join(sorted(missing))}. `{command}` installs system packages.")


def require_root(session: nox.Session) -> None:
    """End the session unless root runs it: it makes users and setuid files."""
    if os.geteuid() != 0:
        session.error(f"this session needs root: sudo ci/nox -s {session.name}")
