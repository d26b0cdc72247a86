"""A person at a real terminal: tmux shows the screen and sends the keys, a shell with job control runs locald.

The shell's prompt is `[N]$ ` with the status of the last command, so a test waits for a prompt and reads a status.
"""

import itertools
import os
import re
import shlex
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.integration.installed import PATH, Installed

LIMIT_S = 30
NUMBERS = itertools.count()
PROMPT = re.compile(r"\[(\d+)\]\$ ?$")
T = TypeVar("T")
SETPRIV = "/usr/bin/setpriv"


class Tmux:
    """One window with bash in it, of the user of an installation; its `locald` is found by PATH."""

    def __init__(self, installed: Installed, *, columns: int = 80, lines: int = 24) -> None:
        user = installed.user
        # A server of its own each time: one that is still ending would take the next window with it.
        self.socket = f"locald-test-{os.getpid()}-{next(NUMBERS)}"
        environment = {
            "HOME": str(user.home),
            "PATH": f"{installed.bin}:{PATH}",
            "LANG": "C.UTF-8",
            "TERM": "screen",
            "USER": user.name,
            "PS1": "[$?]\\$ ",
        }
        shell = shlex.join(
            [
                *(SETPRIV, f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"),
                *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
                *("/bin/bash", "--noprofile", "--norc", "-i"),
            ]
        )
        size = (f"-x{columns}", f"-y{lines}")
        # No file of the machine's has a say in how the terminal behaves.
        self._call("-f", "/dev/null", "new-session", "-d", *size, "-c", "/", f"exec {shell}")
        self.wait_for_prompt()
        # tmux starts with a pty of root's; a person's terminal belongs to the person.
        os.chown(self._call("display-message", "-p", "#{pane_tty}").strip(), user.uid, user.gid)

    def _call(self, *words: str) -> str:
        command = ["/usr/bin/tmux", "-L", self.socket, *words]
        environment = {name: value for name, value in os.environ.items() if name not in {"TMUX", "TERM"}}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    @property
    def shell(self) -> int:
        """The pid of the shell."""
        return int(self._call("display-message", "-p", "#{pane_pid}"))

    def screen(self) -> list[str]:
        """Return what is to be seen, without empty lines; a line that wraps is one line."""
        return [line.rstrip() for line in self._call("capture-pane", "-p", "-J").splitlines() if line.strip()]

    def key(self, *names: str) -> None:
        """Press keys by tmux's names, such as `C-c`, `C-z`, `Enter`."""
        self._call("send-keys", *names)

    def type(self, text: str) -> None:
        """Type text, without Enter."""
        self._call("send-keys", "-l", text)

    def line(self, text: str) -> None:
        """Type a line."""
        self.type(text)
        self.key("Enter")

    def resize(self, *, columns: int, lines: int) -> None:
        """Make the window another size."""
        self._call("resize-window", f"-x{columns}", f"-y{lines}")

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Wait until the screen shows a line that the pattern matches anywhere in; return the last such match."""
        wanted = re.compile(pattern)
        until = time.monotonic() + LIMIT_S
        while True:
            found = [match for line in self.screen() if (match := wanted.search(line))]
            if found:
                return found[-1]
            assert time.monotonic() < until, f"{pattern!r} was not seen: {self.screen()}"
            time.sleep(0.05)

    def wait_for_prompt(self) -> int:
        """Wait until the last line of the screen is the prompt; return the status that it shows."""
        until = time.monotonic() + LIMIT_S
        while True:
            screen = self.screen()
            if screen and (match := PROMPT.search(screen[-1])):
                return int(match[1])
            assert time.monotonic() < until, f"no prompt: {screen}"
            time.sleep(0.05)

    def poll(self, look: Callable[[], T], is_wanted: Callable[[T], bool]) -> T:
        """Look until it is as wanted; return what was seen then."""
        until = time.monotonic() + LIMIT_S
        while not is_wanted(seen := look()):
            assert time.monotonic() < until, f"in vain, last: {seen!r}; {self.screen()}"
            time.sleep(0.05)
        return seen

    def run(self, text: str) -> tuple[int, list[str]]:
        """Type a command on a clean screen, wait for its end; return its status and what it showed."""
        self.start(text)
        status = self.wait_for_prompt()
        # The line that was typed stands above, the prompt below.
        return status, self.screen()[1:-1]

    def start(self, text: str) -> None:
        """Type a command on a clean screen."""
        # By the line editor, not by a program: that would have the terminal for a moment, as the command has.
        self.key("C-l")
        self.poll(self.screen, lambda lines: len(lines) == 1)
        self.line(text)
        self.poll(self.screen, lambda lines: any(text in line for line in lines))

    def modes(self) -> str:
        """Return every setting of the terminal as the kernel has it, in stty's own notation."""
        terminal = self._call("display-message", "-p", "#{pane_tty}").strip()
        return subprocess.run(
            ["/bin/stty", "-F", terminal, "-g"], capture_output=True, text=True, timeout=LIMIT_S, check=True
        ).stdout

    def settled_modes(self) -> str:
        """Return the modes that the shell's line editor has set: without echo."""
        self.wait_for_prompt()
        self.poll(self.echoes, lambda echoes: not echoes)
        return self.modes()

    def echoes(self) -> bool:
        """Tell whether the terminal itself shows what is typed."""
        # The fourth number is c_lflag.
        return bool(int(self.modes().split(":")[3], 16) & termios.ECHO)

    def foreground(self) -> int:
        """Return the foreground process group of the terminal, as the kernel has it."""
        return int(Path(f"/proc/{self.shell}/stat").read_text().rpartition(")")[2].split()[5])

    def close(self) -> None:
        """End the window and everything that hangs on its terminal."""
        subprocess.run(
            ["/usr/bin/tmux", "-L", self.socket, "kill-server"],
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
