"""The offer of `sudo … admin setup`, with the real sudo and a user whose sudo asks for a password.

The user's password and his line of sudoers exist for these tests only.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.process import run
from tests.integration.installed import Installed
from tests.integration.tmux import Tmux

pytestmark = pytest.mark.root
SUDOERS = Path("/etc/sudoers.d/locald-test")
LIMIT_S = 30
OFFER = r"Run `sudo \S+/locald admin setup` now\? \[Y/n\]"
PASSWORD = r"^locald-test password:"
# Asked each time, once, with words of ours whatever this machine's locale and sudoers say.
RULE = """Defaults:{name} timestamp_timeout=0, passwd_tries=1, !lecture, passprompt="locald-test password: "
Defaults:{name} passprompt_override, !fqdn, env_reset
{name} ALL=(ALL) ALL
"""


@pytest.fixture
def password(installed: Installed) -> Iterator[str]:
    """A password of the user's, who may use sudo with it; both are gone afterwards."""
    name = installed.user.name
    found = run(["getent", "shadow", name], limit_s=LIMIT_S).decode()
    secret = secrets.token_hex(8)
    run(["chpasswd"], limit_s=LIMIT_S, data=f"{name}:{secret}\n".encode())
    SUDOERS.write_text(RULE.format(name=name))
    SUDOERS.chmod(0o440)
    try:
        run(["visudo", "--check", f"--file={SUDOERS}"], limit_s=LIMIT_S)
        yield secret
    finally:
        SUDOERS.unlink()
        run(["usermod", "--password", found.split(":")[1], name], limit_s=LIMIT_S)


@pytest.fixture
def fresh(installed: Installed) -> Iterator[Installed]:
    """The installation as it is before its set-up; set up again afterwards."""
    installed.shim.chmod(0o755)
    yield installed
    assert installed.set_up().status == 0


@pytest.fixture
def terminal(fresh: Installed) -> Iterator[Tmux]:
    """A shell at a terminal, whose modes are afterwards what they were: a password prompt turns the echo off."""
    made = Tmux(fresh, columns=200)
    try:
        modes = made.settled_modes()
        yield made
        made.wait_for_prompt()
        made.poll(made.modes, lambda now: now == modes)
        assert made.foreground() == made.shell
    finally:
        made.close()


@pytest.fixture
def command(layouts: Path) -> str:
    """What is typed."""
    return f"locald run oci:{layouts}/busybox -- echo it-runs"


def is_set_up(installed: Installed) -> bool:
    """Tell whether the shim is setuid."""
    return bool(installed.shim.stat().st_mode & 0o4000)


@pytest.mark.parametrize("answer", ["", "y", "YES"])
def test_accepted_with_the_right_password(
    terminal: Tmux, fresh: Installed, password: str, command: str, answer: str
) -> None:
    """The shim is set up and the container runs, in one go."""
    terminal.start(command)
    terminal.wait_for(r"^locald: \[shim\.not-setuid\]: ")
    terminal.wait_for(OFFER)
    terminal.line(answer)
    terminal.wait_for(PASSWORD)
    terminal.line(password)
    terminal.wait_for("^it-runs$")
    assert terminal.wait_for_prompt() == 0
    assert is_set_up(fresh)
    assert not any(password in line for line in terminal.screen())


@pytest.mark.parametrize("answer", ["n", "no", "x"])
@pytest.mark.usefixtures("password")
def test_declined(terminal: Tmux, fresh: Installed, command: str, answer: str) -> None:
    """125 and the hint; sudo is not called."""
    terminal.start(command)
    terminal.wait_for(OFFER)
    terminal.line(answer)
    terminal.wait_for(r"^  hint: Run: sudo \S+/locald admin setup$")
    assert terminal.wait_for_prompt() == 125
    assert not is_set_up(fresh)
    assert not any("password" in line for line in terminal.screen())


@pytest.mark.usefixtures("password")
def test_a_wrong_password(terminal: Tmux, fresh: Installed, command: str) -> None:
    """It is said so by sudo, and locald ends with its line and the hint."""
    terminal.start(command)
    terminal.wait_for(OFFER)
    terminal.line("")
    terminal.wait_for(PASSWORD)
    terminal.line("wrong")
    terminal.wait_for("^sudo: 1 incorrect password attempt$")
    terminal.wait_for(r"^locald: \[shim\.not-setuid\]: ")
    assert terminal.wait_for_prompt() == 125
    assert not is_set_up(fresh)


@pytest.mark.usefixtures("password")
def test_ctrl_c_at_the_password(terminal: Tmux, fresh: Installed, command: str) -> None:
    """Who changes his mind is back at the shell, with the echo on."""
    terminal.start(command)
    terminal.wait_for(OFFER)
    terminal.line("")
    terminal.wait_for(PASSWORD)
    terminal.key("C-c")
    assert terminal.wait_for_prompt() in {125, 130}
    assert not is_set_up(fresh)


@pytest.mark.usefixtures("password")
def test_ctrl_c_at_the_offer(terminal: Tmux, fresh: Installed, command: str) -> None:
    """130, and no trace of Python."""
    terminal.start(command)
    terminal.wait_for(OFFER)
    terminal.key("C-c")
    assert terminal.wait_for_prompt() == 130
    assert not is_set_up(fresh)
    assert not any("Traceback" in line for line in terminal.screen())


@pytest.mark.usefixtures("password")
@pytest.mark.parametrize("change", ["--no-input", "</dev/null", "2>errors"])
def test_never_without_a_person(terminal: Tmux, fresh: Installed, command: str, change: str) -> None:
    """With --no-input, or where stdin or stderr is no terminal: the two lines at once, and no question."""
    typed = command.replace("run ", "run --no-input ") if change == "--no-input" else f"{command} {change}"
    status, shown = terminal.run(f"cd $HOME; {typed}")
    assert status == 125
    if change == "2>errors":
        shown = (fresh.user.home / "errors").read_text().splitlines()
        os.unlink(fresh.user.home / "errors")
    first, second = shown
    assert first.startswith("locald: [shim.not-setuid]: ")
    assert second == f"  hint: Run: sudo {fresh.bin}/locald admin setup"
    assert not is_set_up(fresh)
