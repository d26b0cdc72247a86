"""Attack 48: attributes of a process that survive execve, and are another's to choose.

What no file below /proc tells is asked of the process itself (`probe ask`).
"""

import signal
import subprocess
from errno import EINVAL

from tests.shim.cases import forced
from tests.shim.harness import READY, Call, Run, run_in_child
from tests.shim.kernel import install_allow_all_filter, prctl, set_personality

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_SET_TSC, PR_TSC_SIGSEGV = 26, 2
PR_SET_TIMERSLACK = 29
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
PR_SET_MDWE, PR_GET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 66, 1
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
    """Return what prctl(2) gives, and writes where it writes, when that process calls it with `option`."""
    probe = run.bundle().rootfs / "bin" / "probe"
    words = [] if option == PR_GET_MDWE else ["word"]
    command = [str(probe), "ask", str(pid), str(option), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=10, check=True)
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


def deny_new_code() -> int:
    """Deny memory that was not executable to become so; what the kernel says of that, -EINVAL before Linux 6.3."""
    try:
        prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN)
        return prctl(PR_GET_MDWE)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        return -EINVAL


def deny_it() -> None:
    """Deny it, in the caller's process."""
    deny_new_code()


def code_is_the_payloads_own_matter(run: Run) -> None:
    """Where nobody denied it, nothing of the container has it."""
    known = int(run_in_child(lambda: str(deny_new_code())))
    with run.shim.running(run.bundle(*READY)) as running:
        for pid in (running.pid, *running.descendants()):
            assert ask(run, pid, PR_GET_MDWE)[0] == min(known, 0)


@forced(
    "48-attributes",
    twin=code_is_the_payloads_own_matter,
    label="new-code",
    unbreakable="the kernel lets nobody take it back: decision 58",
)
def the_callers_denial_of_new_code_stays(run: Run) -> None:
    """PR_SET_MDWE of the caller's holds for all that he starts, and takes nothing from the shim, in any setting."""
    known = int(run_in_child(lambda: str(deny_new_code())))
    bundle = run.bundle(*READY)
    bundle.config["annotations"] = {"dev.locald.init": "true"}
    with run.shim.running(bundle, Call(finish=deny_it)) as running:
        below = running.descendants()
        assert len(below) > 1, below
        for pid in (running.pid, *below):
            assert ask(run, pid, PR_GET_MDWE)[0] == known
    bundle = run.bundle("sh", "-c", "exit 7")
    bundle.process["terminal"] = True
    bundle.config["root"]["readonly"] = True
    bundle.bind(bundle.mkdir("source"), "/srv")
    assert run.shim.run(bundle, Call(finish=deny_it)).status == 7
    words = ["cleanup", "--bundle", str(bundle.path)]
    assert run.shim.call(words, run.caller, Call(finish=deny_it)).status == 0
