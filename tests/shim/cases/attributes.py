"""Attack 48: attributes of a process that survive execve, and are another's to choose.

What no file below /proc tells is asked of the process itself (`probe ask`).
"""

import signal
import subprocess

from tests.shim.cases import forced
from tests.shim.harness import READY, Call, Run
from tests.shim.kernel import install_allow_all_filter, prctl, set_personality

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_SET_TSC, PR_TSC_SIGSEGV = 26, 2
PR_SET_TIMERSLACK = 29
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
UNAME26 = 0x0020000


@forced("48-filter")
def a_filter_in_force_is_refused(run: Run) -> None:
    """A seccomp filter that got there without no_new_privs could make a step of the shim seem to work."""
    run.refused(run.bundle(), "caller.seccomp", Call(prepare=install_allow_all_filter))


@forced("48-attributes")
def attributes_do_not_survive(run: Run) -> None:
    """The personality that the caller chose is not the shim's, nor the payload's."""

    def finish() -> None:
        set_personality(UNAME26)

    assert not run("uname", "-r", call=Call(finish=finish)).text.startswith("2.6.")


def slack_of_an_hour() -> None:
    """Let every timer of this process be late."""
    prctl(PR_SET_TIMERSLACK, 3600 * 10**9)


@forced("48-attributes", label="slack")
def timers_are_on_time_again(run: Run) -> None:
    """The timer slack that the caller chose is neither the shim's nor the payload's."""
    call = Call(finish=slack_of_an_hour)
    assert run("cat", "/proc/self/timerslack_ns", call=call).lines() == ["50000"]


@forced("48-attributes", label="time-stamps")
def time_stamps_can_be_read_again(run: Run) -> None:
    """Without the time stamp counter, which a caller may forbid, reading it kills."""

    def finish() -> None:
        prctl(PR_SET_TSC, PR_TSC_SIGSEGV)

    assert run("probe", "stamp", call=Call(finish=finish)).status == 0


def ask(run: Run, pid: int, option: int) -> tuple[int, int]:
    """Return what prctl(2) gives, and writes, when that process calls it with `option`."""
    probe = run.bundle().rootfs / "bin" / "probe"
    done = subprocess.run(
        [probe, "ask", str(pid), str(option)], stdout=subprocess.PIPE, timeout=10, check=True
    )
    result, word = done.stdout.split()
    return int(result), int(word)


def adopt_and_die() -> None:
    """Adopt orphans, and ask for a signal when the parent ends."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)


def asking_changes_nothing(run: Run) -> None:
    """Whoever asked for neither has the same, and to be asked leaves the container running."""
    with run.shim.running(run.bundle(*READY)) as running:
        for pid in (running.pid, *running.descendants()):
            assert ask(run, pid, PR_GET_CHILD_SUBREAPER) == (0, 0)
        assert ask(run, running.pid, PR_GET_PDEATHSIG) == (0, 0)
        assert running.process.poll() is None


@forced("48-attributes", twin=asking_changes_nothing, label="subreaper")
def nobody_adopts_orphans(run: Run) -> None:
    """Neither the shim nor what it starts is the subreaper that its caller was."""
    with run.shim.running(run.bundle(*READY), Call(finish=adopt_and_die)) as running:
        for pid in (running.pid, *running.descendants()):
            assert ask(run, pid, PR_GET_CHILD_SUBREAPER) == (0, 0)


@forced(
    "48-attributes",
    label="parent-death",
    unbreakable="execve of a set-user-id program clears it already",
)
def the_callers_parent_is_nobodys(run: Run) -> None:
    """The shim gets no signal that its caller asked for; the payload gets KILL when the shim ends, no other."""
    with run.shim.running(run.bundle(*READY), Call(finish=adopt_and_die)) as running:
        assert ask(run, running.pid, PR_GET_PDEATHSIG) == (0, 0)
        for pid in running.descendants():
            assert ask(run, pid, PR_GET_PDEATHSIG) == (0, signal.SIGKILL)
