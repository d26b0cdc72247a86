"""The shape of the tree: who imports whom, what has one home, and what `locald run` may load."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "locald"
# From the top down; a module may import what stands below it, and its own neighbours in a package.
ORDER = [
    "cli",
    "daemon",
    "admin",
    "bind",
    "doctor",
    "buildpacks",
    "runtime",
    "helper",
    "bundle",
    "mountpoints",
    "rootfs",
    "images",
    "spec",
    "limits",
    "shim",
    "policy",
    "host",
    "oci",
    "process",
    "terminal",
    "log",
    "deadline",
    "errors",
    "",  # locald itself, for its version
]
# process.py alone starts programs or becomes one.
STARTERS = {"subprocess", "multiprocessing", "pty"}
STARTING_CALLS = {"posix_spawn", "posix_spawnp", "fork", "forkpty", "system", "popen"} | {
    f"exec{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
}
# What costs more to import than a container to run, or has no business on the way to one.
NOT_FOR_RUN = {
    "asyncio",
    "click",
    "dataclasses",
    "hashlib",
    "http",
    "importlib.metadata",
    "inspect",
    "locald.errors.admin",
    "locald.errors.registry",
    "logging",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "tarfile",
    "tempfile",
    "urllib3",
    "zstandard",
}
# Measured: 27 of ours and 102 in all, 40 of them loaded by Python itself. More of either shows in `nox -s bench`.
MAX_OWN_MODULES = 28
MAX_MODULES = 110
MAX_LINES = 600

MODULES = sorted(PACKAGE.rglob("*.py"))
PARSED = {path: ast.parse(path.read_text("utf-8")) for path in MODULES}


def layer(module: str) -> int:
    """Return the place in ORDER of a dotted name below locald."""
    return ORDER.index(module.split(".", maxsplit=1)[0])


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names of all modules that are imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            for alias in node.names:
                name = f"{base}.{alias.name}"
                below = ROOT / name.replace(".", "/")
                yield name if below.is_dir() or below.with_suffix(".py").is_file() else base


def own_imports(path: Path) -> set[str]:
    """Return what a module imports of locald, as names below it."""
    found = {name for name in imports(PARSED[path]) if name.split(".")[0] == "locald"}
    return {name.partition(".")[2] for name in found}


def name_of(path: Path) -> str:
    """Return a module's dotted name below locald."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    """A module knows only what stands below it in ORDER."""
    own = layer(name_of(path))
    upwards = {name for name in own_imports(path) if layer(name) < own}
    assert not upwards


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_says_what_it_is_and_fits_a_sitting(path: Path) -> None:
    """A docstring first; at most 600 lines."""
    assert ast.get_docstring(PARSED[path])
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


def test_tests_are_imported_by_nothing() -> None:
    """Nor are the kit or the machines by the product."""
    for path in MODULES:
        others = {"tests", "conformance", "vms", "ci", "bench"} & {
            name.split(".")[0] for name in imports(PARSED[path])
        }
        assert not others, path


def test_programs_are_started_in_one_place() -> None:
    """process.py has the deadlines, the signals and the clean descriptors; nobody else starts anything."""
    guilty = set()
    for path, tree in PARSED.items():
        starts = STARTERS & set(imports(tree)) or any(
            isinstance(node, ast.Attribute)
            and node.attr in STARTING_CALLS
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            for node in ast.walk(tree)
        )
        if starts:
            guilty.add(name_of(path))
    assert guilty == {"process"}


def test_only_the_cli_speaks_on_stdout_or_exits() -> None:
    """Neither print nor sys.stdout nor exit anywhere else; a module run by itself exits at its end."""
    for path, tree in PARSED.items():
        if name_of(path).split(".")[0] == "cli":
            continue
        main = [node for node in tree.body if isinstance(node, ast.If)]
        inside = {id(node) for block in main for node in ast.walk(block)}
        for node in ast.walk(tree):
            if id(node) in inside:
                continue
            assert not (isinstance(node, ast.Name) and node.id in {"print", "exit", "quit", "SystemExit"}), (
                path
            )
            is_sys = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in {"sys", "os"}
            )
            assert not (is_sys and node.attr in {"stdout", "exit", "_exit"}), path  # type: ignore[attr-defined]


def test_no_runtime_of_somebody_elses_is_named() -> None:
    """The product needs none on the host: no module has a word that would start one."""
    for path, tree in PARSED.items():
        words = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & {"runc", "crun", "youki", "bwrap", "docker", "podman", "newuidmap"}, path


def test_unsafe_has_one_home() -> None:
    """sys.rs and its parts; conformance and fuzzing may do as they like."""
    sources = ROOT / "shim/src"
    guilty = {
        path.relative_to(sources).as_posix()
        for path in sources.rglob("*.rs")
        for line in path.read_text("utf-8").splitlines()
        if "unsafe " in line.split("//")[0] and ("{" in line or "fn " in line or "impl " in line)
    }
    assert {name for name in guilty if not name.startswith("sys")} == set()


@pytest.mark.spawns
def test_what_a_run_loads_stays_small() -> None:
    """No click, no HTTP, nothing that brings inspect: every container waits for these imports."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from locald.cli import run\n"
        "import locald.images.copying\n"
        "import json; print(json.dumps([sorted(set(sys.modules) - before), len(sys.modules)]))"
    )
    said = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    loaded, total = json.loads(said.stdout)
    assert not NOT_FOR_RUN & set(loaded)
    assert len([name for name in loaded if name.split(".")[0] == "locald"]) <= MAX_OWN_MODULES
    assert total <= MAX_MODULES
