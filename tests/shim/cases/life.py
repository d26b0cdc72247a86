"""Attacks 6, 40, 41, 43 and 44: the life of a container, its end, and what is cleaned up after it."""

import os
import shutil
import signal

from tests.shim.cases import forced
from tests.shim.cases.entry import policy
from tests.shim.harness import READY, RUN_LIMIT_S, Call, Run, Running, end, is_alive, read_owners, wait_until
from tests.shim.kernel import mount, private_mounts

ROUNDS = 20
STEP_S = 0.0005


def wait_for_end(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    wait_until(lambda: not any(map(is_alive, pids)), f"{pids} end", limit_s=2)


def a_shim_that_was_stopped_goes_on(run: Run) -> None:
    """Its caller may stop and continue what he started, at any instant, and its container ends as it would have."""
    bundle = run.bundle("sh", "-c", "echo done; exit 7")
    bundle.write()
    for round_number in range(ROUNDS):
        process = run.shim.start(run.shim.arguments(bundle, Call()), run.caller, Call())
        signal.sigtimedwait([], round_number * STEP_S)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=RUN_LIMIT_S) == (b"done\n", b"")
        assert process.returncode == 7


@forced("6", twin=a_shim_that_was_stopped_goes_on)
def killing_the_shim_at_any_instant_leaves_nothing(run: Run) -> None:
    """SIGSTOP, SIGCONT and SIGKILL at twenty instants of its way: no process, nothing of root's."""
    bundle = run.bundle("sleep", "60")
    bundle.write()
    for round_number in range(ROUNDS):
        process = run.shim.start(run.shim.arguments(bundle, Call()), run.caller, Call())
        # An even spread over the few milliseconds that a start takes; nothing to poll for, it is the attack.
        signal.sigtimedwait([], round_number * STEP_S)
        process.send_signal(signal.SIGSTOP)
        below = Running(process).descendants()
        try:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL)
            wait_for_end(below)
        finally:
            end(process, below)
    assert read_owners(bundle.path) == {}
    assert run("true").status == 0


def as_many_as_are_allowed_run(run: Run) -> None:
    """The last one of them too, and another when that has ended."""
    two = policy(run, f"version = 1\nallow-user = {run.caller.uid}\nmax-containers = 2\n")
    with run.shim.running(run.bundle(*READY), two):
        for _ in range(2):
            assert run("true", call=two).status == 0


@forced("40-quota", twin=as_many_as_are_allowed_run)
def containers_are_counted(run: Run) -> None:
    """One caller cannot fill root's state directory."""
    few = policy(run, f"version = 1\nallow-user = {run.caller.uid}\nmax-containers = 1\n")
    with run.shim.running(run.bundle(*READY), few):
        run.refused(run.bundle(), "state.quota", few)
    assert run("true", call=few).status == 0


def a_signal_for_the_shim_reaches_the_payload(run: Run) -> None:
    """Which answers it, and its status is the shim's."""
    bundle = run.bundle("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    with run.shim.running(bundle) as running:
        running.process.terminate()
        assert running.process.wait(timeout=RUN_LIMIT_S) == 9


@forced("41", twin=a_signal_for_the_shim_reaches_the_payload)
def signals_go_by_pidfd(run: Run) -> None:
    """A pid that was given to another process meanwhile is never signalled."""
    log = run.workshop.directory(run.caller) / "trace"
    wrapper = (
        "/usr/bin/strace",
        "-qq",
        "-u",
        run.caller.name,
        "-e",
        "trace=kill,pidfd_send_signal",
        "-o",
        str(log),
    )
    bundle = run.bundle("sh", "-c", "trap 'exit 0' USR1; echo ready; while :; do sleep 0.05; done")
    with run.shim.running(bundle, Call(wrapper=wrapper)) as running:
        os.kill(running.descendants()[0], signal.SIGUSR1)
        running.process.wait(timeout=10)
    calls = log.read_text()
    assert "pidfd_send_signal(" in calls, calls
    assert "SIGUSR1" not in "".join(line for line in calls.splitlines() if line.startswith("kill(")), calls


def a_container_lives_as_long_as_its_payload(run: Run) -> None:
    """Its supervisor waits for it, and for nothing that it has left running."""
    result = run("sh", "-c", "sleep 0.3; sleep 600 </dev/null >/dev/null 2>&1 & sleep 0.2; exit 5")
    assert (result.status, result.stderr) == (5, b""), result


@forced("43", twin=a_container_lives_as_long_as_its_payload)
def the_container_dies_with_its_supervisor(run: Run) -> None:
    """SIGKILL on the shim ends the payload."""
    with run.shim.running(run.bundle(*READY)) as running:
        below = running.descendants()
        try:
            running.process.kill()
            wait_for_end(below)
        finally:
            end(running.process, below)


@forced("43", label="defiant", unbreakable="PID 1 is the shim's own then, and cannot be told to stay")
def a_payload_that_wants_to_outlive_its_supervisor(run: Run) -> None:
    """With an init stage no payload does, whatever it does to its own parent-death signal."""
    bundle = run.bundle("probe", "outlive")
    bundle.config["annotations"] = {"dev.locald.init": "true"}
    with run.shim.running(bundle) as running:
        below = running.descendants()
        assert len(below) > 1, below
        try:
            running.process.kill()
            wait_for_end(below)
        finally:
            end(running.process, below)


def cleanup_removes_all_that_is_his(run: Run) -> None:
    """Trees without permissions, links by their name, files that are there twice."""
    bundle = run.bundle("true")
    canary = run.workshop.directory(run.caller)
    deep = bundle.mkdir("rootfs/deep/er", 0o700)
    (deep / "file").write_text("x")
    for path in (deep / "file", bundle.rootfs / "deep"):
        os.chown(path, run.caller.uid, run.caller.gid)
    deep.chmod(0)
    (bundle.rootfs / "link").symlink_to(canary)
    result = run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller)
    assert (result.status, os.listdir(bundle.rootfs)) == (0, []), result
    assert canary.is_dir()


@forced("44", twin=cleanup_removes_all_that_is_his)
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


@forced(
    "44",
    twin=cleanup_removes_all_that_is_his,
    unbreakable="the same descent, with names that lead out",
    label="swapped",
)
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
