"""`python3 -m conformance` as it is typed where nothing but Python is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from conformance import __main__ as command

ROOT = Path(__file__).resolve().parents[3]


def run_bare(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a verb by this Python without the packages that were installed beside it."""
    return subprocess.run(
        [sys.executable, "-S", "-m", "conformance", *arguments],
        cwd=ROOT,
        env={"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("typed", "begins"),
    [
        (["list", "SIG-002"], "SIG-002 "),
        (["explain", "SIG-002"], "SIG-002\n"),
        (["list", "--help"], "usage: python3 -m conformance list "),
    ],
    ids=["list", "explain", "help"],
)
def test_the_catalogue_needs_no_packages(typed: list[str], begins: str) -> None:
    """As the guide has it: by the system's own Python."""
    done = run_bare(*typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("typed", "package", "says"),
    [
        (
            ["merge", "a.json", "-o", "joined"],
            "securesystemslib",
            "ci/nox -s report -- merge a.json -o joined",
        ),
        (["sign", "a b.json", "--key=k"], "securesystemslib", "ci/nox -s report -- sign 'a b.json' --key=k"),
        (["compare", "--help"], "securesystemslib", "ci/nox -s report -- compare --help"),
        (["--help"], "securesystemslib", "ci/nox -s report -- --help"),
        (["run", "--profile", "local"], "pytest", "ci/nox -s conformance -- --profile local"),
    ],
    ids=["merge", "sign", "compare", "help", "run"],
)
def test_a_package_that_is_missing_is_one_line(typed: list[str], package: str, says: str) -> None:
    """With its name and the command that brings it and does what was typed; no stack."""
    done = run_bare(*typed)
    assert (done.returncode, done.stdout) == (command.CANNOT, "")
    assert done.stderr == f"conformance: the Python package {package} is not installed here; run: {says}\n"


@pytest.mark.parametrize("name", ["conformance.nowhere", "vms", None])
def test_what_no_package_would_mend_is_not_told_as_one(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """A module of this tree that is not there is a fault of this tree."""

    def fail(_arguments: list[str]) -> int:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(command, "main", fail)
    with pytest.raises(ModuleNotFoundError):
        command.start(["list"])
