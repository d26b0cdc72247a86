"""What a hostile reviewer found in the running shim, each as the attack was; the rules' own cases are elsewhere.

Nothing here needs more than the two ordinary users and a root test process.
"""

import array
import contextlib
import fcntl
import json
import os
import pty
import resource
import select
import signal
import termios
import time
from pathlib import Path

import pytest

from tests.shim.harness import READY, Call, Run, is_alive, wait_until
from tests.shim.kernel import prctl

INIT = {"dev.locald.init": "true"}
NS_GET_OWNER_UID = 0xB704
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
# Fewer than any host has of root's, its kernel threads included.
FEW_PROCESSES = 20
LINES = 3000
PIPE_AND_MORE = 70_000
DEEP = 3000


@pytest.mark.parametrize("mode", ["mapped"])
def test_the_user_namespace_is_charged_to_its_caller_alone(run: Run) -> None:
    """Not root's: what a container uses up (inotify, signals, processes) root's daemons would lack.

    Nor the caller's: he would have every capability in it.
    """
    with run.shim.running(run.bundle(*READY)) as running:
        (payload,) = running.descendants()
        space = os.open(f"/proc/{payload}/ns/user", os.O_RDONLY)
        owner = array.array("I", [0])
        fcntl.ioctl(space, NS_GET_OWNER_UID, owner)
        os.close(space)
    assert owner[0] == 1 << 31 | run.caller.uid


def test_the_process_limit_does_not_count_roots_processes(run: Run) -> None:
    """A low RLIMIT_NPROC of the caller's leaves a container of his some processes, in both modes."""

    def finish() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (FEW_PROCESSES, FEW_PROCESSES))

    assert run("sh", "-c", "echo forked | cat", call=Call(finish=finish)).lines() == ["forked"]


def test_a_killed_set_up_is_no_payload(run: Run) -> None:
    """Who kills the set-up is told 125 and `setup.killed`, not a payload that started and ended with 137."""
    bundle = run.bundle("true")
    bundle.write()
    for _ in range(200):
        reader, writer = os.pipe()
        call = Call(pass_fds=(writer,), extra=("--status-fd", str(writer)))
        process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)
        os.close(writer)
        hit = stop_set_up(process.pid)
        _, err = process.communicate(timeout=10)
        with os.fdopen(reader) as stream:
            events = [json.loads(line) for line in stream]
        if hit:
            assert (process.returncode, [event["event"] for event in events]) == (125, ["refused"]), err
            assert events[0]["code"] == "setup.killed"
            return
    pytest.fail("the set-up was never met")


def stop_set_up(shim: int) -> bool:
    """Stop the first child of `shim` and kill it if it is still the shim's own program."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and is_alive(shim):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in Path(f"/proc/{shim}/task/{shim}/children").read_text().split():
                os.kill(int(child), signal.SIGSTOP)
                in_set_up = Path(f"/proc/{child}/comm").read_text().strip() != "true"
                stopped = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
                os.kill(int(child), signal.SIGKILL if in_set_up else signal.SIGCONT)
                return in_set_up and stopped in "TRSD"
    return False


def test_the_highest_status_descriptor_is_refused(run: Run) -> None:
    """No arithmetic fails on it."""
    result = run("true", call=Call(extra=("--status-fd", str(2**31 - 1))))
    assert (result.status, result.code) == (125, "status-fd.type")


def test_securebits_are_refused(run: Run) -> None:
    """With NO_SETUID_FIXUP root's capabilities would stay while files are opened with the caller's ids."""

    def prepare() -> None:
        prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)

    assert run("true", call=Call(prepare=prepare)).code == "caller.securebits"


def test_the_relay_holds_nothing_of_roots(run: Run) -> None:
    """It is wholly the caller; the state's lock, the container's pidfd and the link are not its."""
    bundle = run.bundle("sh", "-c", "echo ready; exec sleep 60")
    bundle.process["terminal"] = True
    bundle.write()
    call = Call()
    process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\r\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            links = [os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir()]
            assert not [link for link in links if "locald-shim" in link], links
            status = Path(f"/proc/{child}/status").read_text()
            (ids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
            assert ids == [str(run.caller.uid)] * 4
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_pausing_reader_loses_nothing(run: Run) -> None:
    """The relay writes the last output when its reader goes on, and the terminal is as it was before."""
    # Full pipe, and a little that stays on the way when the payload has ended.
    bundle = run.bundle("sh", "-c", f"head -c {PIPE_AND_MORE} /dev/zero | tr '\\0' x; exit 3")
    bundle.process["terminal"] = True
    bundle.config["annotations"] = INIT
    bundle.write()
    master, keyboard = pty.openpty()
    before = termios.tcgetattr(keyboard)
    call = Call(stdin=keyboard)
    process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)
    time.sleep(5)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out.count(b"x"), err) == (3, PIPE_AND_MORE, b"")
    assert termios.tcgetattr(keyboard) == before
    os.close(master)
    os.close(keyboard)


def test_input_that_nobody_reads_does_not_stop_the_output(run: Run) -> None:
    """A long text pasted into a payload that only writes: it writes to its end."""
    script = f"stty raw; i=0; while [ $i -lt {LINES} ]; do echo line$i; i=$((i+1)); done; exit 4"
    bundle = run.bundle("sh", "-c", script)
    bundle.process["terminal"] = True
    bundle.config["annotations"] = INIT
    bundle.write()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    call = Call(stdin=reader)
    process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)
    os.close(reader)
    assert process.stdout is not None
    seen, deadline = 0, time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(writer, b"y" * 65536)
        if select.select([process.stdout], [], [], 0.2)[0]:
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            seen += piece.count(b"\n")
    os.close(writer)
    process.kill() if process.poll() is None and seen < LINES else None
    process.communicate(timeout=10)
    assert (seen, process.returncode) == (LINES, 4)


@pytest.mark.parametrize("terminal", [False, True], ids=["streams", "terminal"])
def test_killed_at_any_instant_nothing_is_left(run: Run, *, terminal: bool) -> None:
    """SIGKILL of the shim at growing delays: no process and no mount is left, the id is free again."""
    mounts = Path("/proc/self/mountinfo").read_text()
    seconds = str(1_000_000 + os.getpid())
    bundle = run.bundle("sleep", seconds)
    bundle.process["terminal"] = terminal
    bundle.write()
    call = Call(id="any-instant")
    for step in range(40):
        process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)
        time.sleep(step * 0.0002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    wait_until(lambda: not processes_with(seconds, str(bundle.path)), "everything has ended")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    bundle.process["args"] = ["true"]
    bundle.process["terminal"] = False
    assert run.shim.run(bundle, call).status == 0


def processes_with(*words: str) -> list[bytes]:
    """Return the command line of every process that has one of `words` in it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if any(word.encode() in command.split(b"\0") for word in words):
                found.append(command)
    return found


def test_cleanup_removes_what_nests_deeper_than_descriptors_reach(run: Run) -> None:
    """Neither the depth that a payload chose nor a low limit of descriptors keeps a tree from removal."""
    bundle = run.bundle("true")
    inner = bundle.mkdir("rootfs/deep")
    at = os.open(inner, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=at)
        os.chown("d", run.caller.uid, run.caller.gid, dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)

    def finish() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    result = run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller, Call(finish=finish))
    assert (result.status, os.listdir(bundle.rootfs)) == (0, []), result
