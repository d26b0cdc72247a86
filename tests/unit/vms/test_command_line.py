"""`python -m vms`, as far as it goes without a machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vms.__main__ import parse


@pytest.mark.parametrize(
    ("line", "user", "command"),
    [
        ("ssh local", "root", ""),
        ("ssh local --user plain", "plain", ""),
        ("ssh local -- id -u", "root", "id -u"),
        ("ssh local --user plain -- id -u", "plain", "id -u"),
        ("ssh --user=plain local -- sh -c -- x", "plain", "sh -c -- x"),
    ],
)
def test_the_command_is_behind_two_dashes(line: str, user: str, command: str) -> None:
    """Wherever the options stand."""
    chosen = parse(line.split())
    assert (chosen.profile, chosen.user, chosen.command) == ("local", user, command.split())


def test_other_verbs_run_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A word too many is a usage error."""
    with pytest.raises(SystemExit) as ended:
        parse(["up", "local", "--", "id"])
    assert ended.value.code == 2
    assert "up runs no command" in capsys.readouterr().err


@pytest.mark.spawns
def test_a_reader_that_has_enough_ends_the_list() -> None:
    """`list | head`: as any program ends whose reader is gone, and nothing is said."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "vms", "list"],
        cwd=Path(__file__).resolve().parents[3],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
