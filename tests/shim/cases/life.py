"""Attacks 6, 40, 41, 43 and 44: the life of a container, its end, and what is cleaned up after it."""

import os
import shutil
import signal
from pathlib import Path

from tests.shim.cases import forced
from tests.shim.cases.entry import policy, traced
from tests.shim.harness import READY, Call, Run, is_alive, read_owners, wait_until
from tests.shim.kernel import mount, private_mounts

ROUNDS = 20


def wait_for_end(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    wait_until(lambda: not any(map(is_alive, pids)), f"{pids} end")


@forced(
    "6",
    unbreakable="the supervisor may be killed at any instant by design; what must hold is that nothing stays",
)
def killing_the_shim_at_any_instant_leaves_nothing(run: Run) -> None:
    """SIGSTOP, SIGCONT and SIGKILL at twenty instants of its way: no process, nothing of root's."""
    bundle = run.bundle("sleep", "60")
    bundle.write()
    for round_number in range(ROUNDS):
        process = run.shim.start(run.shim.arguments(bundle, Call()), run.caller, Call())
        # An even spread over the few milliseconds that a start takes; nothing to poll for, it is the attack.
        signal.sigtimedwait([], round_number * 0.0003)
        children = [
            int(child)
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
        for name in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL):
            process.send_signal(name)
        process.communicate(timeout=10)
        wait_for_end(children)
    assert read_owners(bundle.path) == {}
    assert run("true").status == 0


@forced("40-quota")
def containers_are_counted(run: Run) -> None:
    """One caller cannot fill root's state directory."""
    few = policy(run, f"version = 1\nallow-user = {run.caller.uid}\nmax-containers = 1\n")
    with run.shim.running(run.bundle(*READY), few):
        run.refused(run.bundle(), "state.quota", few)
    assert run("true", call=few).status == 0


@forced("41", unbreakable="there is no other way in the program to send a signal to the container")
def signals_go_by_pidfd(run: Run) -> None:
    """A pid that was given to another process meanwhile is never signalled."""
    trace = traced(run, "kill,tkill,tgkill,pidfd_open,clone3,clone", "true").stderr
    assert b"kill(" not in trace.replace(b"pidfd_send_signal(", b"")


@forced("43")
def the_container_dies_with_its_supervisor(run: Run) -> None:
    """SIGKILL on the shim ends the payload."""
    with run.shim.running(run.bundle(*READY)) as running:
        below = running.descendants()
        running.process.kill()
        running.process.wait(timeout=10)
        try:
            wait_until(lambda: not any(map(is_alive, below)), f"{below} end", limit_s=2)
        finally:
            for pid in below:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


@forced("44")
def cleanup_stays_beneath(run: Run) -> None:
    """Removing a rootfs follows no link and enters no mount."""
    bundle = run.bundle("true")
    canary = run.workshop.directory(run.caller)
    for place in (canary, bundle.mkdir("rootfs/mounted")):
        (place / "file").write_text("x")
        os.chown(place / "file", run.caller.uid, run.caller.gid)
    (bundle.rootfs / "link").symlink_to(canary)

    def prepare() -> None:
        private_mounts()
        mount(str(canary), bundle.rootfs / "mounted", "", 0x1000)

    run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller, Call(prepare=prepare))
    assert (canary / "file").exists()


@forced("44", unbreakable="the same descent, with names that lead out", label="swapped")
def cleanup_of_a_linked_rootfs(run: Run) -> None:
    """A rootfs that is a link is not entered."""
    bundle = run.bundle("true")
    canary = run.workshop.directory(run.caller)
    (canary / "file").write_text("x")
    os.chown(canary / "file", run.caller.uid, run.caller.gid)
    shutil.rmtree(bundle.rootfs)
    bundle.rootfs.symlink_to(canary)
    run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller)
    assert (canary / "file").exists()
