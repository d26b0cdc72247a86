"""SIG, TTY: signals, the end of a container however it comes, and terminals."""

import errno
import signal
from typing import Any, Final

import pytest

from conformance.runtimes import Caller, Config, Mode
from conformance.subject import Result, Subject

# TSTP before CONT: the shim stops with its payload, as a shell expects of a job, until it is continued.
FORWARDED: Final = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH", "TSTP", "CONT")
KILL: Final = int(signal.SIGKILL)
# Of the set-up, at which the shim is killed.
INSTANTS: Final = 12


def number(name: str) -> int:
    """Return a signal's number by its short name."""
    return int(signal.Signals[f"SIG{name}"])


def once_ready(sent: int, *, to: str = "user") -> list[dict[str, Any]]:
    """Return the steps that wait for the payload and then send a signal: as the `user`, or as root to the `subject`."""
    return [{"expect": "ready"}, {"signal": sent, "to": to}]


def end_by_term(subject: Subject, verb: str, mode: Mode) -> Result:
    """Run a container with the init stage, end it by TERM, judge its exit code and return what it showed."""
    result = subject.run(
        *("/observe", verb), mode=mode, init=True, status=True, steps=once_ready(number("TERM"))
    )
    assert result.exit_code == 143, result  # 128 + TERM
    return result


def assert_nothing_left(result: Result, caller: Caller) -> None:
    """Judge that no process of the container is left, no mount, and no file but the caller's."""
    assert result.leftover == [], result
    assert result.new_mounts == []
    assert [entry for entry in result.new_files if f" {caller.uid}:" not in entry] == []


def with_terminal(config: Config) -> None:
    """Ask for a terminal."""
    config["process"]["terminal"] = True


def plain_user(subject: Subject, mode: Mode) -> dict[str, int]:
    """Return a process.user that is not root inside: the caller himself in direct mode."""
    caller = subject.caller()
    return {"uid": 1000, "gid": 1000} if mode == "mapped" else {"uid": caller.uid, "gid": caller.gid}


@pytest.mark.parametrize("init", [False, True], ids=["alone", "init"])
@pytest.mark.clause("SIG-001")
def test_signals_reach_the_payload(subject: Subject, mode: Mode, init: bool) -> None:
    """Each of nine signals that the caller sends to the shim arrives in the payload, in order."""
    steps: list[dict[str, Any]] = [{"expect": "ready"}]
    for name in FORWARDED:
        steps += [{"signal": number(name), "to": "user"}, {"expect": f"signal {number(name):02}"}]
    result = subject.run("/observe", "signals", str(len(FORWARDED)), mode=mode, init=init, steps=steps)

    assert result.problem == "", result
    assert result.exit_code == 0, result


@pytest.mark.clause("SIG-002")
def test_term_ends_a_payload_with_an_init(subject: Subject, mode: Mode) -> None:
    """With the init stage TERM has its default effect: the payload ends, and 143 comes back."""
    result = end_by_term(subject, "wait", mode)

    assert result.events[-1] == {"event": "exited", "status": 143}
    assert result.leftover == []


@pytest.mark.parametrize("verb", ["wait", "orphan"])
@pytest.mark.parametrize("init", [False, True], ids=["alone", "init"])
@pytest.mark.clause("SIG-003")
def test_killing_the_shim_leaves_nothing(subject: Subject, mode: Mode, init: bool, verb: str) -> None:
    """SIGKILL of the shim leaves no process of the container, no mount and no file of root's."""
    caller = subject.caller()
    result = subject.run(
        *("/observe", verb),
        mode=mode,
        init=init,
        steps=once_ready(KILL, to="subject"),
    )

    assert result.problem == "", result
    assert result.exit_code == -KILL, result
    assert_nothing_left(result, caller)


@pytest.mark.clause("SIG-004")
def test_killing_the_shim_early_leaves_nothing(subject: Subject, mode: Mode) -> None:
    """SIGKILL at any instant of the set-up leaves no process, no mount and no file of root's."""
    caller = subject.caller()
    # One that was alive beforehand shows that there is something to leave behind, and how long the set-up takes.
    alive = subject.run("/observe", "wait", mode=mode, init=True, steps=once_ready(KILL, to="subject"))
    waits = [alive.seconds / 2 * step / INSTANTS for step in range(INSTANTS)]
    jobs = [
        subject.container(
            *("/observe", "wait"),
            mode=mode,
            init=True,
            steps=[{"wait": seconds}, {"signal": KILL, "to": "subject"}],
        )
        for seconds in waits
    ]
    results = subject.call(*jobs)

    assert alive.problem == "", alive
    for result in (alive, *results):
        assert result.exit_code == -KILL, result
        assert_nothing_left(result, caller)
    early = [result for result in results if result.stdout == ""]
    assert len(early) >= INSTANTS / 3, f"only {len(early)} kills came before the payload"


@pytest.mark.clause("SIG-005")
def test_the_end_of_the_payload_ends_its_orphans(subject: Subject, mode: Mode) -> None:
    """When the payload is gone nothing that it started is left."""
    result = end_by_term(subject, "orphan", mode)

    assert result.leftover == []


@pytest.mark.clause("SIG-006")
def test_the_init_stage_reaps(subject: Subject, mode: Mode) -> None:
    """With the init stage no orphan that ended stays as a zombie, also where many end at one moment."""
    result = subject.run("/observe", "reap", mode=mode, init=True)

    assert (result.exit_code, result.stdout) == (0, "reaped\n"), result


@pytest.mark.clause("SIG-009")
def test_a_keyboards_signal_is_the_whole_jobs(subject: Subject, mode: Mode) -> None:
    """With the init stage INT reaches the payload's child too, as a terminal would send it; TERM the payload alone."""
    steps = [*once_ready(number("TERM")), {"expect": "payload 15"}, {"signal": number("INT"), "to": "user"}]
    result = subject.run("/observe", "job", mode=mode, init=True, steps=steps)

    assert (result.exit_code, result.problem) == (0, ""), result
    assert sorted(result.stdout.split("\n")) == ["", "child 2", "payload 15", "payload 2", "ready"], result


@pytest.mark.clause("SIG-007")
def test_the_caller_may_signal_the_shim(subject: Subject, mode: Mode) -> None:
    """The caller's own kill() reaches the shim, though it is setuid; TSTP stops and CONT goes on."""
    result = subject.run(
        *("/observe", "wait"),
        mode=mode,
        init=True,
        steps=[
            {"expect": "ready"},
            {"signal": number("TSTP"), "to": "user"},
            {"expect_stopped": True},
            {"signal": number("CONT"), "to": "user"},
            {"expect_stopped": False},
            {"signal": number("HUP"), "to": "user"},
        ],
    )

    assert result.problem == "", result
    assert result.exit_code == 128 + number("HUP"), result


@pytest.mark.clause("SIG-008")
def test_one_container_cannot_signal_another(subject: Subject, mode: Mode) -> None:
    """The payload sees no process but its own: the pid of the shim means nothing inside."""
    result = subject.run(mode=mode)

    assert result.facts.process["pid"] == "1", result
    assert result.facts.text("pid1-cmdline").replace("\0", " ").strip() == "/observe facts"

    steps = [{"expect": "ready"}, {"write": "$SUBJECT\n"}]
    result = subject.run("/observe", "reach", mode=mode, hold_stdin=True, steps=steps)

    # Neither forbidden nor a guess that missed: there is no such process.
    missing = errno.ESRCH
    assert (result.exit_code, result.problem) == (0, ""), result
    assert result.stdout == f"ready\nsignal {missing}\nmemory {missing}\n", result


@pytest.mark.clause("TTY-001")
def test_a_terminal_of_its_own(subject: Subject, mode: Mode) -> None:
    """With process.terminal the streams are a terminal of the container's devpts, and it is the controlling one."""
    result = subject.run(mode=mode, terminal=[37, 101], change=with_terminal)

    assert result.exit_code == 0, result
    fds = dict(line.split(" ", 1) for line in result.facts.lines("fds"))
    assert set(fds) == {"0", "1", "2"}, fds
    assert all(target.startswith("/dev/pts/") or target == "/dev/console" for target in fds.values()), fds
    assert result.facts.process["tty"] == "111"
    assert result.facts.process["sid"] == result.facts.process["pid"]
    assert result.facts.attempts["open-tty"] == 0, result.facts.attempts
    # Not the caller's terminal, which has the same name where it is its host's first.
    assert len(set(result.facts.table("streams").values())) == 1, result.facts.table("streams")


@pytest.mark.clause("TTY-006")
def test_the_terminals_node_is_the_payloads(subject: Subject, mode: Mode) -> None:
    """Whoever the payload is, its terminal's node and the console are its own, and nobody else's to read."""
    user = plain_user(subject, mode)

    def change(config: Config) -> None:
        with_terminal(config)
        config["process"]["user"] = user

    nodes = ("/dev/console", "/dev/pts/0")
    result = subject.run("/observe", "stat", *nodes, mode=mode, terminal=[24, 80], change=change)

    # Of what is there: name, uid, gid, mode.
    seen = [line.split()[::3] + line.split()[1:2] for line in result.stdout.splitlines()]
    assert seen == [[name, "20620", str(user["uid"])] for name in nodes], result


@pytest.mark.clause("TTY-007")
def test_the_end_of_a_pipe_is_the_end_of_the_terminals_input(subject: Subject, mode: Mode) -> None:
    """What comes from a pipe is typed into the terminal, and the pipe's end is its end-of-file key."""
    result = subject.run("/observe", "cat", mode=mode, change=with_terminal, stdin="typed\n", limit_s=10)

    assert (result.timed_out, result.exit_code) == (False, 0), result
    # Echoed by the terminal, and written by the payload.
    assert result.stdout == "typed\r\n" * 2, result


@pytest.mark.clause("TTY-002")
def test_the_window_follows(subject: Subject, mode: Mode) -> None:
    """The container's terminal has the caller's window size, and follows when it changes."""
    result = subject.run(
        *("/observe", "winch"),
        mode=mode,
        terminal=[37, 101],
        change=with_terminal,
        steps=[{"expect": "window 0 37 101"}, {"resize": [12, 60]}, {"expect": "window 0 12 60"}],
    )

    assert result.problem == "", result
    assert result.exit_code == 0, result


@pytest.mark.clause("TTY-003")
def test_typing_reaches_the_payload(subject: Subject, mode: Mode) -> None:
    """What is typed arrives; Ctrl-C is the container's, and ends its payload with 130."""
    result = subject.run(
        *("/observe", "cat"),
        mode=mode,
        init=True,
        terminal=[24, 80],
        change=with_terminal,
        steps=[
            {"wait": 0.3},
            {"write": "typed\n"},
            {"expect": "typed"},
            {"expect": "typed"},
            {"write": "\x03"},
        ],
    )

    assert result.problem == "", result
    assert result.exit_code == 128 + number("INT"), result


@pytest.mark.clause("TTY-005")
def test_a_payload_can_make_terminals(subject: Subject, mode: Mode) -> None:
    """Whoever the payload is, /dev/ptmx gives it a terminal of the container's own devpts."""
    user = plain_user(subject, mode)
    result = subject.run(mode=mode, change=lambda config: config["process"].update(user=user))

    assert int(result.facts.process["uid"]) == user["uid"], result
    assert result.facts.attempts["open-ptmx"] == 0, result
