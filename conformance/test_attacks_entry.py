"""ATK 1 to 10 and 47 to 51: what a hostile caller left in the process before it became the shim, or on the machine."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import IO, Final, cast

import pytest

from conformance.hostile import Corner, Hostile, mounting, setting
from conformance.looks import TOKEN
from conformance.observation import Facts
from conformance.runtimes import Mode
from conformance.subject import HOME, PREFIX, PYTHON, SHIM, Job, KitError, Subject
from conformance.test_mounts import MOUNTINFO
from conformance.test_setuid import POLICY, with_policy
from vms import process

CORES: Final = "/proc/sys/fs/suid_dumpable"
LEAVE_CORES: Final = f"cat {CORES}; echo 1 > {CORES}"
# Says that it is done, and then waits for the end of its input.
KEEP_CORES: Final = f"was=$(cat {CORES}); echo 1 > {CORES}; echo done; cat > /dev/null; echo $was > {CORES}"

# How soon a timer runs out that the caller left, on a machine that is not emulated.
ALARM_S: Final = 0.4
# What the caller's limits are called by him and by the kernel; soft and hard.
FEW: Final = (
    ("NOFILE", "Max open files", 64, 512),
    ("CORE", "Max core file size", 1 << 20, 1 << 20),
    ("FSIZE", "Max file size", 0, 1 << 20),
    ("CPU", "Max cpu time", 30, 600),
    ("STACK", "Max stack size", 1 << 20, 8 << 20),
)
# What the host covers, and where that shows: a file by itself, a directory by a name in it that every kernel has.
COVERED: Final = {
    "/proc/version": "/proc/version",
    "/proc/tty": "/proc/tty/drivers",
    "/sys/kernel/fscaps": "/sys/kernel/fscaps",
    "/sys/class/mem": "/sys/class/mem/null",
}
# In mounts of the caller's own. Where /proc cannot be written to, nobody can map ids.
HIDE: Final[dict[Mode, str]] = {
    "mapped": 'mount -t tmpfs none /sys; exec "$@"',
    "direct": 'mount -t tmpfs none /sys; mount -o remount,bind,ro /proc; exec "$@"',
}
ABSENT: Final = f"errno {errno.ENOENT}"
# A serial number, and not an error; between the two another process may have had its turn.
JOINED: Final = re.compile(
    r"keyctl\(KEYCTL_JOIN_SESSION_KEYRING, NULL(?: <unfinished \.\.\.>\n<\.\.\. keyctl resumed>)?\) += [0-9]+$",
    re.MULTILINE,
)


@pytest.mark.clause("ATK-001")
def test_no_argument_vector(hostile: Hostile) -> None:
    """Executed without any argument, not even a name, the shim says usage and executes nothing."""
    jobs: list[Job] = [
        {"argv": [f"{HOME}/observe", "unnamed", SHIM], "user": corner.user, "env": {}, "trace": True}
        for corner in hostile.corners("direct")
    ]
    for result in hostile.call(*jobs):
        assert result.outcome == (2, "usage"), result
        assert [program for _, program in result.executed] == [f"{HOME}/observe", SHIM], result.executed
    hostile.twins()


@pytest.mark.clause("ATK-002")
def test_the_environment(hostile: Hostile) -> None:
    """Nothing of the caller's environment reaches the payload or changes the shim."""
    for facts in hostile.surrounded().values():
        assert set(facts.environ) == {"PATH", "CONFORMANCE_TOKEN"}, facts.environ
        assert facts.environ["PATH"] == "/bin"


@pytest.mark.clause("ATK-003")
def test_descriptors(hostile: Hostile) -> None:
    """A closed standard stream is /dev/null, and a descriptor that nobody asked for is not there."""
    for facts in hostile.surrounded().values():
        table = facts.table("fds")
        assert set(table) == {"0", "1", "2"}, table
        assert table["0"] == "/dev/null"


@pytest.mark.clause("ATK-004")
def test_limits_and_signals(hostile: Hostile) -> None:
    """Ignored, blocked and pending signals are none in the payload; limits of the caller hold there, and only there.

    And a timer that runs out later ends nobody.
    """
    for facts in hostile.surrounded().values():
        assert [int(facts.status[name], 16) for name in ("SigIgn", "SigBlk", "SigPnd", "ShdPnd")] == [0] * 4
        assert facts.limit("Max open files") == ("256", "512")
        assert facts.limit("Max file size") == ("0", "1048576")

    # Sooner the shim itself may not be there yet, where it is emulated.
    alarm_s = ALARM_S * max(1.0, hostile.subject.factor / 2)

    def job(corner: Corner) -> Job:
        steps = [
            {"expect": "ready"},
            {"script": "cat /proc/$SUBJECT/limits"},
            {"wait": 1.25 * alarm_s},
            {"signal": 15, "to": "user"},
        ]
        few = {name: list(pair) for name, _, *pair in FEW}
        made = hostile.job(corner, "/observe", "wait", init=True, steps=steps)
        return made | {"rlimits": few, "timer_ms": round(1000 * alarm_s)}

    for result in hostile.call(*(job(corner) for corner in hostile.a_corner_each())):
        # An alarm that the shim does not hear: the payload ends by what it was sent.
        assert (result.problem, result.exit_code) == ("", 128 + 15), result
        shims = Facts({"limits": result.stderr.splitlines()})
        for name, line, _, hard in FEW:
            assert shims.limit(line)[0] == ("0" if name == "CORE" else str(hard)), (line, result)


@pytest.mark.clause("ATK-005")
def test_umask_and_directory(hostile: Hostile) -> None:
    """The caller's umask and working directory are neither the payload's nor the shim's."""
    for facts in hostile.surrounded().values():
        assert (facts.process["umask"], facts.process["cwd"]) == ("22", "/")

    def job(corner: Corner) -> Job:
        look = "readlink /proc/$SUBJECT/cwd; grep ^Umask /proc/$SUBJECT/status"
        steps = [{"expect": "ready"}, {"script": look}, {"signal": 15, "to": "user"}]
        return hostile.job(corner, "/observe", "wait", init=True, steps=steps) | {"umask": 0, "cwd": "/usr"}

    for result in hostile.call(*(job(corner) for corner in hostile.corners())):
        assert result.problem == "", result
        assert result.stderr.split() == ["/", "Umask:", "0077"], result


@pytest.mark.clause("ATK-006")
def test_stopped_and_killed(hostile: Hostile) -> None:
    """SIGSTOP, SIGCONT and SIGKILL by the caller: the container ends with the shim, and nothing of root's is left."""
    steps = [
        {"expect": "ready"},
        {"signal": 19, "to": "user"},
        {"expect_stopped": True},
        {"signal": 18, "to": "user"},
        {"expect_stopped": False},
        {"signal": 9, "to": "user"},
    ]
    jobs = []
    for corner in hostile.corners():
        jobs.append(hostile.job(corner, "/observe", "wait", init=True, steps=steps))
        # The entry that a killed shim cannot remove goes at the caller's next call.
        jobs.append(hostile.subject.shim("cleanup", user=corner.user))
    for corner, result in zip(hostile.corners(), hostile.call(*jobs)[::2], strict=True):
        assert result.problem == "", result
        assert result.exit_code == -9, result
        owner = f" {hostile.subject.caller(corner.user).uid}:"
        assert [entry for entry in result.new_files if owner not in entry] == []


@contextlib.contextmanager
def leaving_cores(subject: Subject) -> Iterator[None]:
    """Let set-user-id programs leave cores, for as long as the body takes: one setting for a whole kernel."""
    if subject.guest.profile.kind == "local":
        # The kernel of whoever works here. What runs in there ends by SIGKILL, so that no trap in there brings the
        # setting back. This process is outside, and does once the pipe from here closes, however we end.
        with open(os.devnull, "wb") as nowhere:
            keeper = process.start_piped(["/bin/sh", "-euc", KEEP_CORES], env=None, errors=nowhere)
        try:
            if cast("IO[bytes]", keeper.stdout).readline() != b"done\n":
                raise KitError(f"{CORES} could not be set")
            yield
        finally:
            process.end_piped(keeper)
        return
    back = f"echo {subject.root(LEAVE_CORES).stdout.strip()} > {CORES}"
    try:
        yield
    # Not after Ctrl-C: nobody answers then, and the machine is thrown away.
    except Exception:
        subject.root(back)
        raise
    subject.root(back)


# Changes a setting of the host, for as long as the calls take.
@pytest.mark.alone
@pytest.mark.clause("ATK-007")
def test_the_shim_cannot_be_reached(hostile: Hostile) -> None:
    """From inside no process and no descriptor leads to the shim's file; its memory and environment are root's.

    Also on a host that lets set-user-id programs leave cores, which makes them their caller's to read.
    """
    for facts in hostile.greedy().values():
        assert "locald-shim" not in "\n".join(facts.lines("links"))
        assert facts.process["pid"] == "2", facts.process

    def job(corner: Corner) -> Job:
        # The shim, and its init stage, which is the caller's own.
        processes = "$SUBJECT $(cat /proc/$SUBJECT/task/$SUBJECT/children)"
        read = f"runuser -u {corner.user} -- cat /proc/$pid/environ && echo read || true"
        look = f"for pid in {processes}; do stat -c %u /proc/$pid/mem; {read}; done"
        steps = [{"expect": "ready"}, {"script": look}, {"signal": 15, "to": "user"}]
        return hostile.job(corner, "/observe", "wait", init=True, steps=steps)

    jobs = [job(corner) for corner in hostile.corners()]
    results = hostile.call(*jobs)
    with leaving_cores(hostile.subject):
        results += hostile.call(*jobs)
    for result in results:
        assert result.problem == "", result
        told = result.stderr.splitlines()
        assert told[::2] == ["0", "0"], result
        # Denied; where /proc hides others' processes, absent.
        assert all(line.startswith("cat: ") for line in told[1::2]), result


@pytest.mark.alone
@pytest.mark.clause("ATK-008")
def test_old_binaries(hostile: Hostile) -> None:
    """A shim with a second name refuses, and so does one that is older than root's policy wants."""
    # Every one that is there: a planted fault may stand before the real one.
    linked = f"find {PREFIX} -name locald-shim -perm -4000 -exec ln {{}} {{}}.second ';'"
    unlinked = f"find {PREFIX} -name locald-shim.second -delete"
    jobs = [hostile.job(corner, before=linked, after=unlinked) for corner in hostile.corners()]
    hostile.judge_refused("shim.linked", hostile.call(*jobs))
    for minimum, code in (("9.0.0", "shim.outdated"), ("0.0.1", "")):
        before, after = with_policy(
            f"sed -i '/^min-shim/d' {POLICY}; echo 'min-shim = {minimum}' >> {POLICY}"
        )
        jobs = [hostile.job(corner, before=before, after=after) for corner in hostile.corners()]
        results = hostile.call(*jobs)
        if code:
            hostile.judge_refused(code, results)
        else:
            assert [result.exit_code for result in results] == [0] * len(jobs), results


@pytest.mark.clause("ATK-009")
def test_privileges_that_are_not_there(hostile: Hostile) -> None:
    """Real uid 0, and no_new_privs, with which the setuid bit gives nothing: refused."""
    roots = [hostile.job(corner) | {"user": "root"} for corner in hostile.corners()]
    hostile.judge_refused("caller.root", hostile.call(*roots))
    bound = [hostile.job(corner, no_new_privs=True) for corner in hostile.corners()]
    for result in hostile.call(*bound):
        assert result.exit_code == 125, result
        assert result.code in ("caller.no-new-privs", "shim.not-setuid"), result
    hostile.twins()


@pytest.mark.clause("ATK-109")
def test_root_of_a_namespace_of_his_own(hostile: Hostile) -> None:
    """A copy of the shim that is setuid to an id of the caller's own user namespace: refused, whatever it may there."""
    hostile.judge_refused("caller.namespace", hostile.call(be_root_within(hostile)))
    hostile.twins()


def be_root_within(hostile: Hostile) -> Job:
    """Return the job of a shim that is root of the caller's own user namespace, and of nothing else."""
    copy = f"{HOME}/work/within-{hostile.subject.worker}"
    job = hostile.job(
        Corner("direct", "plain"),
        status=True,
        before=f"install --owner=plain --group=plain --mode=4755 {hostile.subject.runtime.program} {copy}",
        after=f"rm {copy}",
    )
    enter = ["/usr/bin/unshare", "--user", "--map-root-user", "--map-auto"]
    # Another id of the namespace calls, as an ordinary user does outside.
    become = ["/usr/bin/setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    return job | {"argv": [*enter, *become, copy, *job["argv"][1:]]}


@pytest.mark.clause("ATK-010")
def test_no_oracle(hostile: Hostile) -> None:
    """What lies in a directory that the caller may not search is told the same as what does not lie there.

    Wherever he can name it: as a bind, as the root file system, as a bundle to run and as one to clean up.
    """
    hide = 'mkdir -p "$BUNDLE/private/there"; chmod 700 "$BUNDLE/private"'
    program = hostile.subject.runtime.program

    def ask(corner: Corner, path: str) -> dict[str, Job]:
        job = hostile.job(corner, before=hide)
        asked = {
            "mount.source": hostile.job(corner, change=mounting("/srv", "bind", path, "rbind"), before=hide),
            "bundle.rootfs": hostile.job(corner, change=setting("root", "path", value=path), before=hide),
        }
        # The mode is in a bundle that nobody reads.
        if corner.mode == "direct":
            argv = [path if word == "{bundle}" else word for word in job["argv"]]
            asked["bundle.open"] = job | {"argv": argv}
            asked["bundle.open, cleanup"] = job | {"argv": [program, "cleanup", "--bundle", path]}
        return asked

    codes, jobs = [], []
    for corner in hostile.corners():
        pair = [ask(corner, f"{{bundle}}/private/{name}") for name in ("there", "absent")]
        for name, job in pair[0].items():
            codes.append(name.partition(",")[0])
            jobs += [job, pair[1][name]]
    results = hostile.call(*jobs)
    for code, there, absent in zip(codes, results[::2], results[1::2], strict=True):
        assert there.outcome == absent.outcome == (125, code), (there, absent)
        told = TOKEN.sub("ID", there.stderr).replace("/private/there", "/private/absent")
        assert told == TOKEN.sub("ID", absent.stderr)
    hostile.twins()


def mounts_shown(facts: Facts) -> Facts:
    """Return the mounts of a container that was asked for the file."""
    return Facts({"mountinfo": facts.lines(MOUNTINFO)})


@pytest.mark.alone
@pytest.mark.clause("ATK-047")
def test_what_the_host_hides_stays_hidden(hostile: Hostile) -> None:
    """A file or a directory that the host mounted over one of /proc or of /sys is over it inside too, and is empty."""

    def job(corner: Corner, **more: str) -> Job:
        return hostile.job(corner, "/observe", "show", *COVERED.values(), MOUNTINFO, **more)

    def targets(facts: Facts) -> set[str]:
        return {mount.target for mount in mounts_shown(facts).mounts}

    hide = "\n".join(
        f"mount {'--bind /dev/null' if at == inside else '-t tmpfs none'} {at}"
        for at, inside in COVERED.items()
    )
    show = f"umount {' '.join(COVERED)}"
    for result in hostile.call(*(job(corner, before=hide, after=show) for corner in hostile.corners())):
        assert set(COVERED) <= targets(result.facts), result
        for place, inside in COVERED.items():
            assert result.facts.text(inside) == ("" if place == inside else ABSENT), (place, result)
    for result in hostile.call(*(job(corner) for corner in hostile.corners())):
        assert not set(COVERED) & targets(result.facts), result
        for place, inside in COVERED.items():
            told = result.facts.text(inside)
            # Of a directory, which cannot be read, nothing is told.
            assert told if place == inside else told != ABSENT, (place, result)


@pytest.mark.clause("ATK-047")
def test_what_the_caller_has_not(hostile: Hostile) -> None:
    """Where he has no sysfs, or a /proc that is read-only, a container has no other."""

    def job(corner: Corner) -> Job:
        caller = hostile.subject.caller(corner.user)
        made = hostile.job(corner, "/observe", "show", MOUNTINFO)
        become = ["setpriv", f"--reuid={caller.uid}", f"--regid={caller.gid}", "--init-groups"]
        words = ["unshare", "--mount", "/bin/sh", "-euc", HIDE[corner.mode], "sh", *become]
        return made | {"argv": ["/usr/bin/env", *words, *made["argv"]], "user": "root"}

    corners = hostile.corners()
    for corner, result in zip(corners, hostile.call(*map(job, corners)), strict=True):
        assert result.exit_code == 0, result
        shown = mounts_shown(result.facts)
        assert shown.mount_at("/sys").kind == "tmpfs", result
        assert corner.mode == "mapped" or "ro" in shown.mount_at("/proc").options, result


@pytest.mark.clause("ATK-048")
def test_attributes_that_survive(hostile: Hostile) -> None:
    """A seccomp filter in force is refused; a personality of the caller's is neither the shim's nor the payload's."""
    jobs = [hostile.job(corner, filter=True) for corner in hostile.corners()]
    hostile.judge_refused("caller.seccomp", hostile.call(*jobs))
    for facts in hostile.surrounded().values():
        assert not facts.process["release"].startswith("2.6."), facts.process


@pytest.mark.clause("ATK-049")
def test_streams_stay_as_they_were(hostile: Hostile) -> None:
    """Modes, owner and mode bits of the caller's terminal are as before, with a terminal inside and without."""

    def with_terminal(corner: Corner) -> Job:
        change = setting("process", "terminal", value=True)
        return hostile.job(corner, "/observe", "exit", "0", change=change, terminal=[24, 80])

    jobs = [with_terminal(corner) for corner in hostile.corners()]
    jobs += [hostile.job(corner, "/observe", "exit", "0", terminal=[24, 80]) for corner in hostile.corners()]
    for result in hostile.call(*jobs):
        assert result.exit_code == 0, result
        assert result.data["terminal"]["before"] == result.data["terminal"]["after"]


@pytest.mark.clause("ATK-050")
def test_what_blocks_its_opener(hostile: Hostile) -> None:
    """A write lease on config.json makes an opener wait for its holder; the shim says so at once."""
    lease = (
        "import fcntl, os, signal, time; signal.signal(29, signal.SIG_IGN); f = os.open('config.json', os.O_RDWR); "
        "fcntl.fcntl(f, 1024, fcntl.F_WRLCK); open('held', 'w').close(); time.sleep(60)"
    )
    # Without the job's name in its arguments or environment: it is no process that the job left.
    hold = (
        f'cd "$BUNDLE"\nenv -i {PYTHON} -c "{lease}" </dev/null >/dev/null 2>&1 &\necho $! > holder\n'
        "for i in $(seq 300); do [ -e held ] && exit 0; sleep 0.1; done; exit 1"
    )
    release = 'kill $(cat "$BUNDLE/holder")'
    jobs = [
        hostile.job(corner, status=True, before=hold, after=release, limit_s=5)
        for corner in hostile.corners()
    ]
    results = hostile.call(*jobs)
    assert not any(result.timed_out for result in results), results
    hostile.judge_refused("bundle.config", results)
    hostile.twins()


@pytest.mark.clause("ATK-051")
def test_session_keyring(hostile: Hostile) -> None:
    """The container joins a session keyring of its own, and the payload's calls about keys are denied."""
    for lines in hostile.traced().values():
        calls = [line.split(None, 1) for line in lines]
        (mover,) = {pid for pid, call in calls if call.startswith("pivot_root(")}
        own = "\n".join(call for pid, call in calls if pid == mover)
        assert JOINED.search(own), own
    for facts in hostile.greedy().values():
        denied = [facts.attempts[name] for name in ("keyctl", "add_key", "request_key")]
        assert 0 not in denied, facts.attempts
