"""`bundle run` as its users meet it: exit codes, streams, signals, status, what standard specs become."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.shim.cases.mounts import mounting_unbindable
from tests.shim.harness import READY, Bundle, Call, Caller, Mode, Run, Shim, Workshop, is_alive, wait_until
from tests.shim.kernel import mount, private_mounts

CGROUPS = Path("/sys/fs/cgroup")
INIT = {"dev.locald.init": "true"}
FORWARDED = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("exit 125", 125), ("kill -9 $$", 137), ("kill $$", 143)],
)
def test_exit_status_is_the_payloads(run: Run, script: str, status: int) -> None:
    """0-255 as they are, 128+N for a signal; with init, since PID 1 cannot be killed from inside."""
    bundle = run.bundle("sh", "-c", script)
    bundle.config["annotations"] = INIT
    assert run.shim.run(bundle).status == status


@pytest.mark.parametrize(("program", "status"), [("/bin/absent", 127), ("absent", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_executed(run: Run, program: str, status: int) -> None:
    """126 for a file that is no program, 127 for none, one line on stderr for both."""
    result = run(program)
    assert (result.status, result.stderr.count(b"\n")) == (status, 1), result


def test_a_malformed_command_line_is_2(run: Run) -> None:
    """Exit status 2, the code `usage`, one line."""
    for arguments in ([], ["exec"], ["bundle", "run"], ["version", "x"], ["bundle", "run", "--bundle"]):
        result = run.shim.call(arguments, run.caller)
        assert (result.status, result.code, result.stderr.count(b"\n")) == (2, "usage", 1), (
            arguments,
            result,
        )


def test_streams_are_passed_through(run: Run) -> None:
    """Stdin, stdout and stderr are the caller's."""
    reader, writer = os.pipe()
    os.write(writer, b"in\n")
    os.close(writer)
    result = run("sh", "-c", "cat; echo err >&2", call=Call(stdin=reader))
    os.close(reader)
    assert (result.stdout, result.stderr) == (b"in\n", b"err\n")


def test_arguments_are_bytes(run: Run) -> None:
    """Arguments, environment and working directory need not be UTF-8."""
    bundle = run.bundle()
    (bundle.rootfs / "d").mkdir()
    os.rename(bundle.rootfs / "d", os.fsencode(bundle.rootfs) + b"/\xff")
    bundle.process.update(args=["probe", "args", "@"], env=["A=@", "PATH=/bin"], cwd="/@")
    bundle.raw = json.dumps(bundle.config).encode().replace(b"@", b"\xff")
    assert run.shim.run(bundle).lines()[:2] == ["ff", b"A=\xff".hex()]


def test_signals_of_the_payload_are_the_default(run: Run) -> None:
    """Nothing is blocked, SIGPIPE is not ignored, whatever the caller had."""

    def finish() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD})

    lines = run("grep", "^Sig[BI]", "/proc/self/status", call=Call(finish=finish)).lines()
    assert [int(line.split()[1], 16) for line in lines] == [0, 0]


def test_status_lines(run: Run) -> None:
    """The status descriptor tells start and end; the payload does not have it."""
    reader, writer = os.pipe()
    result = run("sh", "-c", "ls /proc/self/fd | wc -l; exit 7", call=status_call(writer))
    os.close(writer)
    with os.fdopen(reader) as stream:
        events = [json.loads(line) for line in stream]
    assert [event["event"] for event in events] == ["started", "exited"]
    assert events[0]["pid"] > 1
    assert (events[1]["status"], result.status) == (7, 7)
    # 0, 1, 2, and the one that `ls` has open.
    assert result.stdout == b"4\n"


def test_a_refusal_is_told_on_the_status_descriptor(run: Run) -> None:
    """How a program tells the shim's 125 from a payload's."""
    reader, writer = os.pipe()
    bundle = run.bundle()
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    result = run.shim.run(bundle, status_call(writer))
    os.close(writer)
    with os.fdopen(reader) as stream:
        (event,) = [json.loads(line) for line in stream]
    assert (event["event"], event["code"], result.code) == ("refused", "config.hooks", "config.hooks")


def status_call(descriptor: int) -> Call:
    """Return a call with a status descriptor."""
    return Call(pass_fds=(descriptor,), extra=("--status-fd", str(descriptor)))


@pytest.mark.parametrize("name", FORWARDED)
def test_signals_reach_the_payload(run: Run, name: str) -> None:
    """Each forwarded signal that the caller sends to the shim is the payload's to handle."""
    script = f"trap 'echo got {name}; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
    bundle = run.bundle("sh", "-c", script)
    bundle.config["annotations"] = INIT
    with run.shim.running(bundle) as running:
        kill_as(run.caller, running.pid, f"SIG{name}")
        out, _ = running.process.communicate(timeout=10)
        assert (out, running.process.returncode) == (f"got {name}\n".encode(), 3)


def test_continued_while_it_stops_it_goes_on(run: Run) -> None:
    """TSTP stops it, as a job of a shell; CONT right after it is the last word, and never lost."""
    bundle = run.bundle(*READY)
    bundle.config["annotations"] = INIT
    # A group of its own, with a parent elsewhere in the session: nobody stops where nobody could continue.
    with run.shim.running(bundle, Call(prepare=os.setpgrp)) as running:
        os.kill(running.pid, signal.SIGTSTP)
        wait_until(lambda: running.status("State").startswith("T"), "it stops")
        os.kill(running.pid, signal.SIGCONT)
        for step in range(400):
            os.kill(running.pid, signal.SIGTSTP)
            until = time.perf_counter() + step % 100 * 5e-6
            while time.perf_counter() < until:
                pass
            os.kill(running.pid, signal.SIGCONT)
            wait_until(lambda: not running.status("State").startswith("T"), f"round {step}: it goes on")


def test_a_payload_without_a_handler_ends_by_term_under_init(run: Run) -> None:
    """128+15: as PID 1 it would ignore the signal."""
    bundle = run.bundle(*READY)
    bundle.config["annotations"] = INIT
    with run.shim.running(bundle) as running:
        kill_as(run.caller, running.pid, "SIGTERM")
        assert running.process.wait(timeout=10) == 128 + signal.SIGTERM


@pytest.mark.parametrize("init", [False, True], ids=["plain", "init"])
def test_sigkill_of_the_shim_leaves_nothing(run: Run, *, init: bool) -> None:
    """No process and no mount is left; the same id works again."""
    mounts = Path("/proc/self/mountinfo").read_text()
    bundle = run.bundle("sh", "-c", "sleep 61 & echo ready; exec sleep 60")
    bundle.config["annotations"] = INIT if init else {}
    call = Call(id="killed")
    with run.shim.running(bundle, call) as running:
        wait_until(lambda: len(running.descendants()) >= 2, "the payload's child runs")
        below = running.descendants()
        kill_as(run.caller, running.pid, "SIGKILL")
        wait_until(lambda: not any(map(is_alive, below)), f"{below} end")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    again = run.bundle("true")
    assert run.shim.run(again, call).status == 0


def kill_as(caller: Caller, pid: int, name: str) -> None:
    """Send a signal with the caller's rights, not root's."""
    subprocess.run(
        ["/bin/kill", f"-{name}", str(pid)], user=caller.uid, group=caller.gid, extra_groups=[], check=True
    )


def test_the_same_id_is_refused_while_it_runs(run: Run) -> None:
    """An id is one container's at a time, and each caller's own."""
    call = Call(id="twice")
    with run.shim.running(run.bundle(*READY), call):
        assert run("true", call=call).code == "id.in-use"


@pytest.mark.parametrize("kind", ["rootful", "rootless"])
def test_standard_specs_run(shim: Shim, workshop: Workshop, caller: Caller, kind: str) -> None:
    """What `runc spec` writes runs; args are changed, and in direct mode the user, who can be no other."""
    expected: Mode = "mapped" if kind == "rootless" else "direct"
    run = Run(shim, workshop, expected, caller)
    bundle = run.bundle()
    command = ["runc", "spec", f"--bundle={bundle.path}", *(["--rootless"] if kind == "rootless" else [])]
    subprocess.run(
        command, user=run.caller.uid, group=run.caller.gid, extra_groups=[], check=True, timeout=20
    )
    bundle.config = json.loads((bundle.path / "config.json").read_text())
    bundle.process["args"] = ["sh", "-c", "id -u; hostname; cat /proc/self/uid_map"]
    bundle.process["terminal"] = False
    if expected == "direct":
        bundle.process["user"] = {"uid": run.caller.uid, "gid": run.caller.gid}
    uid, name, *maps = run.shim.run(bundle).lines()
    assert name == "runc"
    if expected == "mapped":
        assert (uid, maps[0].split()) == ("0", ["0", str(run.caller.uid), "1"])
    else:
        assert (uid, maps[0].split()) == (str(run.caller.uid), ["0", "0", "4294967295"])


def test_the_caller_is_the_chosen_id(
    shim: Shim, workshop: Workshop, caller: Caller, callers: dict[str, Caller]
) -> None:
    """Container id X is the caller, the others are his ranges in their order; what X writes is his."""
    run = Run(shim, workshop, "mapped", caller)
    bundle = run.bundle("sh", "-c", "touch /out/file; cat /proc/self/uid_map")
    bundle.linux["uidMappings"] = [{"containerID": 33, "hostID": run.caller.uid, "size": 1}]
    bundle.process["user"] = {"uid": 33, "gid": 0}
    out = bundle.mkdir("out")
    bundle.bind(out, "/out")
    maps = [[int(word) for word in line.split()] for line in run.shim.run(bundle).lines()]
    assert [33, run.caller.uid, 1] in maps
    if run.caller == callers["locald-a"]:
        start = maps[0][1]
        assert (maps[0], maps[2][:2]) == ([0, start, 33], [34, start + 33])
    else:
        assert maps == [[33, run.caller.uid, 1]]
    assert (out / "file").stat().st_uid == run.caller.uid


def test_check_and_version_answer(run: Run) -> None:
    """Both print one JSON object and exit with 0."""
    version = json.loads(run.shim.call(["version"], run.caller).stdout)
    assert (version["version"], version["protocol"]) == ("0.1.0", 1)
    told = json.loads(run.shim.call(["check"], run.caller).stdout)
    assert told["setuid"] is True
    assert told["policy"]["allowed"] is True
    assert told["modes"]["direct"]["allowed"] is True
    assert (told["subids"]["uids"] > 0) == (run.caller.name == "locald-a")


@pytest.mark.parametrize(
    ("kind", "directories", "hierarchy"),
    [
        ("v2", (), ""),
        ("hybrid", ("memory", "unified"), "unified"),
        ("v1", ("memory",), None),
        ("v1", ("cpu",), None),
        ("none", (), None),
        # A directory of the name that is no cgroup file system.
        ("none", ("unified",), None),
    ],
)
def test_check_names_the_cgroup_hierarchies(
    shim: Shim, callers: dict[str, Caller], kind: str, directories: tuple[str, ...], hierarchy: str | None
) -> None:
    """By what is mounted where systemd's "file system layout" has it: the host of this call is made so."""

    def rearrange() -> None:
        private_mounts()
        mount("none", CGROUPS, "tmpfs")
        for name in directories:
            (CGROUPS / name).mkdir()
        if hierarchy is not None:
            mount("none", CGROUPS / hierarchy, "cgroup2")

    result = shim.call(["check"], callers["locald-a"], Call(prepare=rearrange))
    assert json.loads(result.stdout)["cgroup"] == kind, result


def test_new_network_has_loopback_and_low_ports(run: Run) -> None:
    """Only a network namespace of the container's own has loopback up and low ports free for everybody."""
    bundle = run.bundle(
        "sh", "-c", "cat /proc/net/dev | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
    )
    bundle.linux["namespaces"].append({"type": "network"})
    assert run.shim.run(bundle).lines() == ["3", "0"]


def test_a_source_in_an_unbindable_mount_names_it(run: Run) -> None:
    """The kernel's EINVAL helps nobody: which mount it is, and how to mend it. One beside it is no matter."""
    tree = run.workshop.directory(run.caller)
    bundle = run.bundle()
    bundle.bind(tree / "source", "/srv")
    result = run.shim.run(bundle, mounting_unbindable(tree, "source"))
    assert (result.status, result.code) == (125, "mount.unbindable"), result
    assert f"{tree}/source lies in {tree}, an unbindable mount; hint: " in result.stderr.decode()


def test_directories_are_closed_to_others(run: Run) -> None:
    """A caller's bundle may be private to him."""
    bundle: Bundle = run.bundle("true")
    bundle.path.chmod(0o700)
    assert run.shim.run(bundle).status == 0


def test_many_at_once(run: Run) -> None:
    """Two hundred containers of one caller, as fast as they can be started: each of them runs."""
    bundle = run.bundle("true")
    bundle.write()
    quiet = Call(stdout=subprocess.DEVNULL)
    started = [run.shim.start(run.shim.arguments(bundle, quiet), run.caller, quiet) for _ in range(200)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert [end for end in ended if end[1] != 0] == []
