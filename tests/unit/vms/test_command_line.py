"""`python -m vms`, as far as it goes without a machine."""

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
