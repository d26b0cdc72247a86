"""`locald run` at a real terminal, as its user sees it: keys, jobs, sizes, modes, and the shell that comes after it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.installed import Installed
from tests.integration.tmux import LIMIT_S, Tmux

pytestmark = pytest.mark.root
STOPPED = r"^\[1\]\+ +Stopped +locald run"


@pytest.fixture
def image(layouts: object) -> str:
    """A small image of one owner."""
    return f"oci:{layouts}/busybox"


@pytest.fixture
def terminal(installed: Installed) -> Iterator[Tmux]:
    """A shell at a terminal. Whatever a test did: modes, foreground and job control are the shell's own again."""
    made = Tmux(installed)
    try:
        modes = made.settled_modes()
        yield made
        made.wait_for_prompt()
        # The line editor has modes of its own, which it sets right after it has shown its prompt.
        made.poll(made.modes, lambda now: now == modes)
        assert made.foreground() == made.shell
        assert made.run("jobs") == (0, [])
        # The shell can still start, stop, continue and interrupt a job of its own.
        made.start("sleep 97")
        wait_for_foreground(made)
        made.key("C-z")
        made.wait_for(r"^\[1\]\+ +Stopped +sleep 97")
        assert made.wait_for_prompt() == 128 + signal.SIGTSTP
        made.start("fg")
        wait_for_foreground(made)
        made.key("C-c")
        assert made.wait_for_prompt() == 128 + signal.SIGINT
    finally:
        made.close()
    left = list(installed.bundles.iterdir()) if installed.bundles.exists() else []
    assert left == []


def wait_for_foreground(terminal: Tmux) -> int:
    """Wait until a job has the terminal; return its group, which is the pid of `locald`."""
    return terminal.poll(terminal.foreground, lambda group: group != terminal.shell)


def ready(terminal: Tmux, command: str) -> int:
    """Start a container that prints `ready`, wait for that; return the pid of `locald`."""
    terminal.start(command)
    terminal.wait_for("^ready$")
    return wait_for_foreground(terminal)


def ready_shell(terminal: Tmux, image: str) -> int:
    """Start a shell in a container, wait for its prompt; return the pid of `locald`."""
    terminal.start(f"locald run -it {image} -- sh")
    terminal.wait_for(r"^/ #")
    return wait_for_foreground(terminal)


def ask_size_until(terminal: Tmux, wanted: str) -> None:
    """Ask a shell in a container for its size until it is as wanted: the news of it may come after the next key."""

    def look() -> list[str]:
        terminal.line("stty size")
        return terminal.screen()

    terminal.poll(look, lambda lines: wanted in lines)


def script(image: str, options: str = "") -> str:
    """Return a command that says `ready` and then sleeps."""
    return f"locald run {options} {image} -- sh -c 'echo ready; exec sleep 100'"


@pytest.mark.parametrize("mode", ["mapped", "direct"])
@pytest.mark.parametrize("options", ["", "-it"])
def test_ctrl_c(terminal: Tmux, image: str, mode: str, options: str) -> None:
    """130, as for any other program."""
    ready(terminal, script(image, f"--mode {mode} {options}"))
    terminal.key("C-c")
    assert terminal.wait_for_prompt() == 128 + signal.SIGINT


def test_ctrl_z_bg_fg_ctrl_c(terminal: Tmux, image: str) -> None:
    """One job: it stops, runs in the background, comes back and can be interrupted."""
    ready(terminal, script(image))
    terminal.key("C-z")
    terminal.wait_for(STOPPED)
    terminal.wait_for_prompt()
    terminal.line("bg")
    terminal.wait_for(r"^\[1\]\+ locald run .* &$")
    terminal.wait_for_prompt()
    terminal.line("jobs")
    terminal.wait_for(r"^\[1\]\+ +Running +locald run")
    terminal.line("fg")
    wait_for_foreground(terminal)
    terminal.key("C-c")
    assert terminal.wait_for_prompt() == 128 + signal.SIGINT


def test_a_job_in_the_background_ends_by_itself(terminal: Tmux, image: str) -> None:
    """Its status is what `wait` says."""
    terminal.run(f"locald run {image} -- sh -c 'exit 7' & job=$!")
    status, _ = terminal.run("wait $job")
    assert status == 7
    # bash tells of an ended job once.
    terminal.run("jobs")


def test_keys_belong_to_what_runs_in_the_container(terminal: Tmux, image: str) -> None:
    """With -it Ctrl-Z and Ctrl-C are for the shell inside and its jobs; its status is ours."""
    ready_shell(terminal, image)
    terminal.line("sleep 98")
    terminal.wait_for("sleep 98$")
    terminal.key("C-z")
    terminal.wait_for(r"\[1\]\+ +Stopped +sleep 98")
    terminal.line("clear; fg")
    terminal.wait_for("^sleep 98$")
    terminal.key("C-c")
    terminal.wait_for(r"^/ #")
    terminal.line("exit 7")
    assert terminal.wait_for_prompt() == 7


def test_the_size_follows_the_window(terminal: Tmux, image: str) -> None:
    """At the start, and when the window changes while the shell waits."""
    ready_shell(terminal, image)
    terminal.line("stty size")
    terminal.wait_for("^24 80$")
    for columns, lines in ((100, 30), (60, 20)):
        terminal.resize(columns=columns, lines=lines)
        ask_size_until(terminal, f"{lines} {columns}")
    terminal.line("exit")
    assert terminal.wait_for_prompt() == 0


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_a_stopped_interactive_shell_goes_on(terminal: Tmux, image: str, number: signal.Signals) -> None:
    """Stopped from elsewhere the terminal is the outer shell's; `bg` stops it again; `fg` brings it back, resized."""
    modes = terminal.settled_modes()
    pid = ready_shell(terminal, image)
    assert terminal.modes() != modes
    os.kill(pid, number)
    terminal.wait_for(STOPPED)
    terminal.wait_for_prompt()
    terminal.poll(terminal.modes, lambda now: now == modes)
    assert terminal.foreground() == terminal.shell
    terminal.resize(columns=70, lines=20)
    terminal.start("bg")
    terminal.wait_for_prompt()
    terminal.poll(lambda: state_of(pid), lambda state: state == "T")
    terminal.start("fg")
    assert wait_for_foreground(terminal) == pid
    terminal.poll(terminal.modes, lambda now: now != modes)
    ask_size_until(terminal, "20 70")
    terminal.line("exit 3")
    assert terminal.wait_for_prompt() == 3


def test_an_interactive_shell_started_in_the_background_waits(terminal: Tmux, image: str) -> None:
    """It does not take the terminal away from whoever has it."""
    terminal.start(f"locald run -it {image} -- sh &")
    terminal.wait_for_prompt()
    (pid,) = children(terminal.shell)
    terminal.poll(lambda: state_of(pid), lambda state: state == "T")
    assert terminal.foreground() == terminal.shell
    terminal.start("fg")
    terminal.wait_for(r"^/ #")
    terminal.line("exit 4")
    assert terminal.wait_for_prompt() == 4


def test_after_sigkill_of_locald_the_terminal_is_as_before(
    terminal: Tmux, installed: Installed, image: str
) -> None:
    """137 for the shell; the next start ends the container that lost its `locald`, and removes its bundle."""
    pid = ready_shell(terminal, image)
    (shim,) = children(pid)
    os.kill(pid, signal.SIGKILL)
    assert terminal.wait_for_prompt() == 128 + signal.SIGKILL
    assert installed.locald("run", image, "--", "true").status == 0
    terminal.poll(lambda: state_of(shim), lambda state: state == "Z")
    # bash tells that the job was killed, on the prompt's line.
    terminal.run("jobs")


def test_after_sigkill_of_the_shim_the_terminal_is_as_before(terminal: Tmux, image: str) -> None:
    """137, and not before the relay, however late, has given the modes back: the shell then sets its own."""
    pid = ready_shell(terminal, image)
    (shim,) = children(pid)
    (relay,) = (child for child in children(shim) if is_in_our_pid_namespace(child))
    os.kill(relay, signal.SIGSTOP)
    os.kill(shim, signal.SIGKILL)
    terminal.poll(lambda: state_of(shim), lambda state: state == "Z")
    time.sleep(0.5)
    # Else its shell would have the terminal by now, raw, and take its modes for the user's.
    assert state_of(pid) != "Z"
    os.kill(relay, signal.SIGCONT)
    assert terminal.wait_for_prompt() == 128 + signal.SIGKILL
    terminal.poll(lambda: state_of(relay), lambda state: state == "Z")


@pytest.mark.parametrize("options", ["", "-it"])
def test_exit_7(terminal: Tmux, image: str, options: str) -> None:
    """The status, and nothing else on the screen."""
    status, shown = terminal.run(f"locald run {options} {image} -- sh -c 'exit 7'")
    assert (status, shown) == (7, [])


def state_of(pid: int) -> str:
    """Return the state of a process as ps shows it; Z, as one that nobody has waited for, if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def is_in_our_pid_namespace(pid: int) -> bool:
    """Say whether a process has one pid only, as the relay has and the container has not."""
    return re.search(r"^NSpid:\t\d+$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    command = ["/usr/bin/pgrep", "--parent", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return [int(word) for word in done.stdout.split()]
