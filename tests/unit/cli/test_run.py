"""`locald run`: from words and files to a request; who is asked, and when nobody is."""

import os
import sys
from pathlib import Path

import pytest

from locald import shim
from locald.cli import guard, run, show
from locald.cli.run import CommandLine
from locald.errors import UsageError
from locald.errors.run import (
    CommandMissing,
    EnvironmentFileUnreadable,
    LimitsUnavailable,
    UserUnknown,
    VolumeUnusable,
)
from locald.errors.shim import ShimNosuid, ShimNotSetuid
from locald.spec import Bind

INSTALLATION = shim.Installation("/venv/bin/locald", "/venv/bin/locald-shim")
WORKS = shim.Mode(allowed=True, code=None, why=None)
ABILITIES = shim.Abilities("6.1", WORKS, WORKS, 0, 0, "unified")


def line(*words: str) -> CommandLine:
    """Return what `locald run WORDS` asks for."""
    parsed = run.parse(list(words))
    assert parsed is not None
    return run.make_command_line(*parsed)


def test_everything_has_a_default() -> None:
    """No terminal, empty stdin, the host's network, the mode that works, an init."""
    request = line("image").request
    assert (request.reference, request.command) == ("image", ())
    assert (request.network, request.mode, request.init, request.interactive) == ("host", "auto", True, False)


def test_limits_come_before_anything_is_pulled() -> None:
    """Where the shim would refuse them, nothing is fetched for nothing."""
    request = line("-m", "64m", "--memory-swap", "-1", "--cpus=0.5", "--pids-limit", "9", "image").request
    assert request.resources == {
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 50_000, "period": 100_000},
        "pids": {"limit": 9},
    }
    no_place = shim.Mode(allowed=False, code="resources.delegation", why="no cgroup is yours")
    run.check_limits(request, ABILITIES._replace(limits={"memory": WORKS}))
    with pytest.raises(LimitsUnavailable, match=r"pids.*resources\.delegation.*no cgroup is yours") as caught:
        run.check_limits(request, ABILITIES._replace(limits={"memory": WORKS, "pids": no_place}))
    assert "systemd-run" in caught.value.hint
    run.check_limits(line("image").request, ABILITIES._replace(limits={"memory": no_place}))


@pytest.mark.parametrize("words", [("image", "--", "a", "--", "b"), ("image", "a", "--", "b")])
def test_two_dashes_may_stand_before_the_command(words: tuple[str, ...]) -> None:
    """Once; a second one is the command's."""
    assert line(*words).request.command == ("a", "--", "b")


def test_variables_come_from_the_line_the_file_and_by_name_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docker reads them: no quotes, no expansion, comments skipped, what is not set here left out."""
    monkeypatch.setenv("FROM_HERE", "host value")
    monkeypatch.delenv("NOT_HERE", raising=False)
    file = tmp_path / "env"
    file.write_bytes(b'# comment\n\n A=1 \nQ="x" # y\r\nFROM_HERE\nNOT_HERE\nRAW=\xff\nE=\n')
    request = line("--env-file", str(file), "-e", "A=2", "-e", "NOT_HERE", "-e", "FROM_HERE", "image").request
    assert dict(request.environment) == {
        "A": "2",
        "Q": '"x" # y',
        "FROM_HERE": "host value",
        "RAW": os.fsdecode(b"\xff"),
        "E": "",
    }


@pytest.mark.parametrize("content", [b"A B=1\n", b"=x\n"])
def test_an_environment_file_with_a_bad_line_names_it(tmp_path: Path, content: bytes) -> None:
    """By its number."""
    (tmp_path / "env").write_bytes(b"OK=1\n" + content)
    with pytest.raises(EnvironmentFileUnreadable, match="line 2"):
        line("--env-file", str(tmp_path / "env"), "image")


def test_an_environment_file_that_is_not_there_has_a_code(tmp_path: Path) -> None:
    """And exit status 125."""
    with pytest.raises(EnvironmentFileUnreadable) as caught:
        line("--env-file", str(tmp_path / "none"), "image")
    assert (caught.value.code, caught.value.exit_code) == ("run.env-file", 125)


@pytest.mark.parametrize(
    "words", [("-e", "=x"), ("--name", "../x"), ("--name", ""), ("--name", "-x"), ("--name", "A")]
)
def test_words_that_cannot_be_meant_are_usage_errors(words: tuple[str, ...]) -> None:
    """Exit status 2."""
    with pytest.raises(UsageError) as caught:
        line(*words, "image")
    assert caught.value.exit_code == 2


def test_volumes_are_real_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links in the source are resolved here; relative ones begin with a dot."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    request = line("-v", "./link:/a:ro", "-v", f"{tmp_path}/real:/b", "image").request
    real = os.path.realpath(tmp_path / "real")
    assert request.volumes == (Bind(real, "/a", readonly=True), Bind(real, "/b", readonly=False))


@pytest.mark.parametrize("volume", ["name:/x", "/no/such:/x", "/:x", "/", "/:/x:Z", ":/x", "/:/x:ro:rw"])
def test_volumes_that_cannot_be_meant_have_a_code(volume: str) -> None:
    """Named volumes, missing sources, relative destinations, options of other tools."""
    with pytest.raises(VolumeUnusable) as caught:
        line("-v", volume, "image")
    assert caught.value.code == "run.volume"


class Person:
    """Somebody at a terminal, or nobody, and what was asked and run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, answer: str = "\n") -> None:
        self.ran: list[list[str]] = []
        self.mended = False
        monkeypatch.setattr(os, "isatty", lambda _fd: terminal)
        monkeypatch.setattr(os, "access", lambda path, _how: path == "/usr/bin/sudo")
        monkeypatch.setattr(shim, "ask_abilities", self.ask)
        monkeypatch.setattr(run, "converse", self.converse)
        monkeypatch.setattr(sys, "stdin", self)
        self.answer = answer

    def readline(self) -> str:
        """Answer the question."""
        return self.answer

    def ask(self, installation: shim.Installation) -> shim.Abilities:
        """Be a shim that was not set up yet."""
        if self.mended:
            return ABILITIES
        raise ShimNotSetuid.mended_by_setup("not yet.", installation.setup_command())

    def converse(self, argv: list[str], *, env: object) -> int:
        """Be sudo."""
        del env
        self.ran.append(argv)
        self.mended = True
        return 0


@pytest.mark.parametrize("answer", ["\n", "y\n", "Yes\n"])
def test_a_person_at_a_terminal_is_offered_the_set_up(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """By the absolute paths of sudo and locald; the run goes on afterwards."""
    person = Person(monkeypatch, terminal=True, answer=answer)
    assert run.ask_abilities(INSTALLATION, may_ask=True) is ABILITIES
    assert person.ran == [["/usr/bin/sudo", "/venv/bin/locald", "admin", "setup"]]


@pytest.mark.parametrize(
    ("terminal", "may_ask", "answer"),
    [(False, True, "\n"), (True, False, "\n"), (True, True, "n\n"), (True, True, ""), (True, True, "what\n")],
)
def test_nobody_is_asked_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, may_ask: bool, answer: str
) -> None:
    """Nor with --no-input, and a no is a no: the error names the command."""
    person = Person(monkeypatch, terminal=terminal, answer=answer)
    with pytest.raises(ShimNotSetuid) as caught:
        run.ask_abilities(INSTALLATION, may_ask=may_ask)
    assert caught.value.hint == "Run: sudo /venv/bin/locald admin setup"
    assert person.ran == []


def test_a_fault_that_set_up_cannot_mend_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nosuid mount is one."""
    person = Person(monkeypatch, terminal=True)

    def nosuid(_installation: shim.Installation) -> shim.Abilities:
        raise ShimNosuid("nosuid.", hint="elsewhere")

    monkeypatch.setattr(shim, "ask_abilities", nosuid)
    with pytest.raises(ShimNosuid):
        run.ask_abilities(INSTALLATION, may_ask=True)
    assert person.ran == []


def test_an_error_is_two_lines_that_no_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """Its code and sentence, then the mend; what came from outside is escaped."""
    show(UserUnknown("a\x1b[31m\n", "/etc/passwd"))
    shown = capsys.readouterr().err
    assert shown.startswith("locald: [user.unknown]: The image's /etc/passwd has no entry for ")
    assert shown.splitlines()[1].startswith("  hint: ")
    assert len(shown.splitlines()) == 2
    assert "\x1b" not in shown


def test_the_exit_status_is_the_errors_own() -> None:
    """2 for usage, 125 for the rest, 128+N for a signal."""

    def fail(error: BaseException) -> int:
        raise error

    assert guard(lambda: fail(UsageError("x", hint="y"))) == 2
    assert guard(lambda: fail(CommandMissing("x"))) == 125
    assert guard(lambda: fail(KeyboardInterrupt())) == 130
    assert guard(lambda: 7) == 7
