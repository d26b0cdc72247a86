"""What holds for every test here: fast tests touch neither root's things, the network nor other programs.

They may run as root on a developer's machine, so the calls themselves raise. tests/integration and
tests/shim are exempt: they say what they need with the marker `root` and their own fixtures.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

# Few and always the same: the check of a commit must be fast, and red for its own reason only.
settings.register_profile("fast", max_examples=50, deadline=None, derandomize=True, database=None)
settings.load_profile("fast")

HERE = Path(__file__).resolve().parent
EXEMPT = (HERE / "integration", HERE / "shim")
LOOPBACK = ("127.", "::1", "localhost")
# Only root succeeds with these, or they change who this process is.
FORBIDDEN_OF_ROOT = (
    "setuid",
    "setgid",
    "seteuid",
    "setegid",
    "setresuid",
    "setresgid",
    "setgroups",
    "chroot",
)
FORBIDDEN_STARTS = ("posix_spawn", "posix_spawnp", "execv", "execve", "execvp", "execvpe", "system")


def pytest_configure() -> None:
    """Give the tests the signals of a terminal, also where nohup or a shell's `&` had them ignored.

    What is ignored stays so in every program that a test starts, and a trap of /bin/sh cannot undo it.
    """
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ForbiddenInFastTests(BaseException):
    """A fast test did what only tests/integration may do; no `except Exception` hides it."""


@pytest.fixture(autouse=True)
def _fast_tests_stay_harmless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make calls raise that need root, reach the network, or (without the marker `spawns`) start programs."""
    if any(request.path.is_relative_to(directory) for directory in EXEMPT):
        return
    for name in FORBIDDEN_OF_ROOT:
        monkeypatch.setattr(os, name, forbid(f"os.{name}"))
    monkeypatch.setattr(socket.socket, "connect", only_near(socket.socket.connect))
    if request.node.get_closest_marker("spawns") is None:
        for name in FORBIDDEN_STARTS:
            monkeypatch.setattr(os, name, forbid(f"os.{name}"))
        monkeypatch.setattr(subprocess.Popen, "__init__", forbid("subprocess.Popen"))


def forbid(name: str) -> Callable[..., NoReturn]:
    """Return a function that names what was called."""

    def call(*_arguments: object, **_options: object) -> NoReturn:
        raise ForbiddenInFastTests(f"{name} in a fast test; see tests/conftest.py")

    return call


def only_near(connect: Callable[[socket.socket, Any], None]) -> Callable[[socket.socket, Any], None]:
    """Return `connect` for sockets of this machine only."""

    def call(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise ForbiddenInFastTests(f"a connection to {address} in a fast test; see tests/conftest.py")
        connect(self, address)

    return call
