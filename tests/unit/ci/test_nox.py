"""`ci/nox` by its functions: what it installs, whom it asks, how each refusal is one line.

apt-get, sudo, dpkg-query and cargo are stand-ins that note how they were called.
"""

import ast
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 30
# The programs that the functions need of a real system; everything else is a stand-in or absent.
REAL = (
    "bash",
    "env",
    "sed",
    "awk",
    "grep",
    "sort",
    "head",
    "tail",
    "tr",
    "dirname",
    "mktemp",
    "rm",
    "timeout",
    "cut",
)
# `record NAME` notes how it was called; the environment decides how it ends.
STAND_IN = """#!/bin/bash
printf '%s %s\\n' "${0##*/}" "$*" >>"$CALLS"
"""

pytestmark = pytest.mark.spawns


class Machine:
    """A PATH of stand-ins, and a shell that has read ci/nox."""

    def __init__(self, directory: Path) -> None:
        self.bin, self.calls = directory / "bin", directory / "calls"
        self.bin.mkdir()
        self.calls.touch()
        for name in REAL:
            (place,) = [found for found in (Path("/usr/bin", name), Path("/bin", name)) if found.exists()][:1]
            (self.bin / name).symlink_to(place)

    def program(self, name: str, script: str = "") -> None:
        """Add a stand-in that notes its call and then runs `script`."""
        (self.bin / name).write_text(STAND_IN + script)
        (self.bin / name).chmod(0o755)

    def run(self, script: str, *, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run `script` in a shell that has read ci/nox."""
        return subprocess.run(
            [self.bin / "bash", "-c", f"source {ROOT}/ci/nox; {script}"],
            env={
                "PATH": str(self.bin),
                "CALLS": str(self.calls),
                "HOME": "/nowhere",
                "TMPDIR": str(self.bin),
            },
            input=answer,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    @property
    def called(self) -> list[str]:
        """The calls of the stand-ins, one a line."""
        return self.calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with apt-get and sudo that do as they are told."""
    made = Machine(tmp_path)
    made.program("apt-get")
    made.program("sudo", '[[ $1 == -v ]] || exec "$@"\n')
    return made


ORDINARY = "is_root() { false; };"
ROOTS = "is_root() { true; };"
TERMINAL = "at_terminal() { true; };"
NO_TERMINAL = "at_terminal() { false; };"


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on stderr of a call that failed."""
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    return line.removeprefix("ci/nox: ")


def test_root_installs_without_a_question(machine: Machine) -> None:
    """Update, then install; no sudo."""
    done = machine.run(f"{ROOTS} {NO_TERMINAL} install_packages gcc git")
    assert done.returncode == 0, done
    update, install = machine.called
    assert update.startswith("apt-get ")
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends gcc git")


def test_an_ordinary_user_is_asked_and_sudo_is_used(machine: Machine) -> None:
    """Sudo first sees for itself that it may, where its password prompt and its refusal are visible."""
    done = machine.run(f"{ORDINARY} {TERMINAL} install_packages gcc", answer="y\n")
    assert done.returncode == 0, done
    names = [call.split()[0] for call in machine.called]
    assert names == ["sudo", "sudo", "apt-get", "sudo", "apt-get"]
    assert machine.called[0] == "sudo -v"


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "nyes\n"])
def test_declined_is_one_line_and_nothing_is_called(machine: Machine, answer: str) -> None:
    """An end of the input is a no as well."""
    done = machine.run(f"{ORDINARY} {TERMINAL} install_packages gcc", answer=answer)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    command = "sudo apt-get update && sudo apt-get install --no-install-recommends gcc"
    assert line == f"ci/nox: nothing installed; by hand: {command}"
    assert machine.called == []


def test_without_a_terminal_nobody_is_asked(machine: Machine) -> None:
    """The line has the command."""
    line = refusal(machine.run(f"{ORDINARY} {NO_TERMINAL} install_packages gcc git"))
    command = "sudo apt-get update && sudo apt-get install --no-install-recommends gcc git"
    assert line == f"these packages are missing: {command}"
    assert machine.called == []


def test_without_sudo_the_line_says_what_root_has_to_do(machine: Machine) -> None:
    """And does not name sudo."""
    (machine.bin / "sudo").unlink()
    line = refusal(machine.run(f"{ORDINARY} {TERMINAL} install_packages gcc"))
    command = "apt-get update && apt-get install --no-install-recommends gcc"
    assert line == f"these packages are missing, as root: {command}"


def test_sudo_that_refuses_is_not_taken_for_apt(machine: Machine) -> None:
    """A wrong password says so, and apt-get is not called."""
    machine.program("sudo", 'echo "sudo: 3 incorrect password attempts" >&2; exit 1\n')
    done = machine.run(f"{ORDINARY} {TERMINAL} install_packages gcc", answer="y\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "sudo: 3 incorrect password attempts",
        "ci/nox: sudo refused; by hand: sudo apt-get update && sudo apt-get install --no-install-recommends gcc",
    ]
    assert machine.called == ["sudo -v"]


def test_no_network_is_apts_words_and_one_line(machine: Machine) -> None:
    """At most five lines of the log, and where the whole of it is."""
    machine.program("apt-get", 'echo "E: Failed to fetch http://x/  Temporary failure resolving"; exit 100\n')
    done = machine.run(f"{ROOTS} install_packages gcc")
    assert done.returncode == 1
    first, second, last = done.stderr.splitlines()
    assert first == "ci/nox: installing gcc"
    assert second.startswith("E: Failed to fetch")
    assert last.startswith("ci/nox: apt-get could not install the packages above: is the network reachable?")
    assert len(machine.called) == 1


RUST = [
    ("debian", "12", "cargo-web rust-web-clippy rustc-web rustfmt-web"),
    ("debian", "13", "cargo rust-clippy rustc rustfmt"),
    ("debian", "", "cargo rust-clippy rustc rustfmt"),
    ("fedora", "43", ""),
    ("ubuntu", "24.04", ""),
]


@pytest.mark.parametrize(("name", "version", "packages"), RUST)
def test_where_rust_comes_from(machine: Machine, name: str, version: str, packages: str) -> None:
    """Debian 12 from the one that its security team keeps current; elsewhere it is named and not installed."""
    script = f"distribution() {{ echo '{name} {version}'; }}; list=$(rust_list)"
    done = machine.run(f"{script}; [[ -z $list ]] || packages_of $list | tr '\\n' ' '")
    assert done.stdout.strip() == packages


@pytest.mark.parametrize(
    ("name", "version", "packages"),
    [("debian", "12", "llvm-22"), ("debian", "13", "llvm-19"), ("fedora", "43", "")],
)
def test_the_readers_of_coverage_are_of_the_compilers_llvm(
    machine: Machine, name: str, version: str, packages: str
) -> None:
    """Where the distribution has them; elsewhere the session names what is missing."""
    script = f"distribution() {{ echo '{name} {version}'; }}; list=$(llvm_list)"
    done = machine.run(f"{script}; [[ -z $list ]] || packages_of $list | tr '\\n' ' '")
    assert done.stdout.strip() == packages


@pytest.mark.parametrize(
    ("version", "distribution", "begins", "ends"),
    [
        ("", "fedora 43", "cargo is missing: install Rust", "(https://rustup.rs)"),
        ("1.65.0", "debian 12", "cargo 1.65.0 is too old: the shim needs Rust", "rustc-web rustfmt-web)"),
        ("1.75.0", "ubuntu 24.04", "cargo 1.75.0 is too old: the shim needs Rust", "(rustup update stable)"),
    ],
)
def test_a_cargo_that_will_not_do_is_one_line(
    machine: Machine, version: str, distribution: str, begins: str, ends: str
) -> None:
    """With the version that is needed, and the mend for this distribution."""
    if version:
        machine.program("cargo", f"echo cargo {version}\n")
    line = refusal(machine.run(f"distribution() {{ echo '{distribution}'; }}; check_rust"))
    assert line.startswith(begins)
    assert line.endswith(ends)


@pytest.mark.parametrize("version", ["1.85.0", "1.96.0", "2.0.0"])
def test_a_cargo_that_will_do_is_left_alone(machine: Machine, version: str) -> None:
    """Compared as versions, not as text."""
    machine.program("cargo", f"echo cargo {version}\n")
    assert machine.run("check_rust").returncode == 0


@pytest.mark.parametrize(
    ("words", "sessions"),
    [
        ("", "check"),
        ("-s tests", "tests"),
        ("-s tests conformance -- -k x", "tests conformance"),
        ("--session=bench -- runtime", "bench"),
        ("-stests", "tests"),
        ("-t check vm", "check vm"),
        ("-l", ""),
        ("-s 'conformance(profile=local)'", "conformance(profile=local)"),
    ],
)
def test_the_sessions_that_were_asked_for(machine: Machine, words: str, sessions: str) -> None:
    """As nox reads its own command line."""
    done = machine.run(f"requested_sessions {words}")
    assert done.stdout.split() == sessions.split()


def test_who_consents_runs_all_of_it_by_sudo(machine: Machine) -> None:
    """With its arguments; what follows is not run twice."""
    machine.program("sudo")
    done = machine.run(
        f"{ORDINARY} {TERMINAL} run_as_root -s check tests -- -k 'a b'; echo went on", answer="y\n"
    )
    assert done.returncode == 0, done
    assert done.stdout == ""
    assert machine.called == [f"sudo -- {ROOT}/ci/nox -s check tests -- -k a b"]


def test_who_declines_is_told_the_command(machine: Machine) -> None:
    """An end of the input is a no as well; nothing was installed before."""
    done = machine.run(f"{ORDINARY} {TERMINAL} run_as_root -s tests -- -k 'a b'")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "ci/nox: nothing was run; by hand: sudo ci/nox -s tests -- -k a\\ b"
    )
    assert machine.called == []


def test_root_is_named_where_nobody_can_be_asked(machine: Machine) -> None:
    """Off a terminal the command, without sudo that there is none."""
    line = refusal(machine.run(f"{ORDINARY} {NO_TERMINAL} run_as_root -s conformance"))
    assert line == "the session conformance needs root: sudo ci/nox -s conformance"
    (machine.bin / "sudo").unlink()
    line = refusal(machine.run(f"{ORDINARY} {TERMINAL} run_as_root -s conformance"))
    assert line == "the session conformance needs root, and there is no sudo: run it as root"


@pytest.mark.parametrize(
    ("user", "words"), [(ORDINARY, "-s check fuzz"), (ORDINARY, ""), (ORDINARY, "-l"), (ROOTS, "-s tests")]
)
def test_nobody_is_asked_where_root_is_not_needed(machine: Machine, user: str, words: str) -> None:
    """Or is there already."""
    done = machine.run(f"{user} {TERMINAL} run_as_root {words}; echo went on")
    assert done.stdout == "went on\n", done
    assert machine.called == []


def test_the_sessions_that_need_root_are_those_of_noxfile(machine: Machine) -> None:
    """Those that ask for it before anything else."""
    body = ast.parse((ROOT / "noxfile.py").read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    for function in functions:
        first = function.body[1:2]
        needed = [ast.unparse(node) for node in first] == ["require_root(session)"]
        assert (machine.run(f"needs_root {function.name}").returncode == 0) == needed, function.name
    assert "tests" in [function.name for function in functions]


def test_what_a_session_asks_for_is_what_ci_nox_installs(machine: Machine) -> None:
    """Else a fresh machine is told of a missing program by the very command that brings it."""
    for function in ast.parse((ROOT / "noxfile.py").read_text()).body:
        if not isinstance(function, ast.FunctionDef) or not function.decorator_list:
            continue
        calls = [call for call in ast.walk(function) if isinstance(call, ast.Call)]
        asked = {
            word.value
            for call in calls
            if isinstance(call.func, ast.Name) and call.func.id == "require_programs"
            for argument in call.args
            for word in ast.walk(argument)
            if isinstance(word, ast.Constant)
        }
        if asked:
            installed = machine.run(f"package_lists {function.name}").stdout.split()
            assert asked <= set(installed), function.name


def test_what_is_missing_is_what_dpkg_does_not_have(machine: Machine) -> None:
    """A package that was removed but not purged is missing."""
    script = "printf 'installed gcc\\nconfig-files git\\n'; exit 1\n"
    machine.program("dpkg-query", script)
    done = machine.run("missing_packages gcc git curl")
    assert done.stdout.split() == ["git", "curl"]


@pytest.mark.parametrize("path", sorted((ROOT / "ci/packages").glob("*.txt")), ids=lambda path: path.stem)
def test_every_line_of_a_package_list_is_a_package_and_a_program(path: Path) -> None:
    """noxfile.py and ci/nox read the same lines."""
    for line in path.read_text().splitlines():
        content = line.partition("#")[0].split()
        assert len(content) in {0, 2}, line


def test_the_stand_ins_are_all_there_is(machine: Machine) -> None:
    """Nothing above reached the real apt-get, sudo or cargo."""
    assert not {"apt", "dpkg", "cargo"} & set(os.listdir(machine.bin))
