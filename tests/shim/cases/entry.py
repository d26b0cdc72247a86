"""Attacks 1 to 10, 32, 49 and 51: what the caller left in the process before it became the shim."""

import fcntl
import json
import os
import pty
import resource
import shutil
import signal
import socket
import subprocess
import termios
from pathlib import Path

from tests.shim.cases import forced
from tests.shim.harness import POLICY, READY, Call, Result, Run, run_in_child
from tests.shim.kernel import (
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NOSUID,
    MS_REMOUNT,
    attach,
    bind_over,
    join_session_keyring,
    mount,
    prctl,
    private_mounts,
    session_keyring,
    unshare,
)

PR_SET_NO_NEW_PRIVS = 38
NAMES = {"HOME": "/of/the/caller", "USER": "caller", "LOGNAME": "caller", "SHELL": "/of/the/caller/sh"}
NOT_ZERO = "argc is 1 at least since Linux 5.18, and an empty command line is a usage error in every build"


def any_name_will_do(run: Run) -> None:
    """The first argument is what its caller likes to call it; nothing is looked up by it."""
    for name in ("", "another", "/bin/su"):
        script = f"exec -a '{name}' \"$0\" version"
        bash = Call(executable=Path("/bin/bash"))
        result = run.shim.call(["-c", script, str(run.shim.path)], run.caller, bash)
        assert (result.status, result.stderr) == (0, b""), result


@forced("1", unbreakable=NOT_ZERO, twin=any_name_will_do)
def no_argument_vector(run: Run) -> None:
    """Execve with no argument at all ends as a malformed command line; nothing is executed again."""
    probe = run.bundle().rootfs / "bin" / "probe"
    result = run.shim.call(["exec", str(run.shim.path)], run.caller, Call(executable=probe))
    assert (result.status, result.code) == (2, "usage"), result


@forced("2")
def environment_is_the_configs(run: Run) -> None:
    """Nothing of the caller's environment reaches the payload or changes the shim."""
    hostile = {"LD_PRELOAD": "/tmp/x.so", "GLIBC_TUNABLES": "a=b", "LISTEN_FDS": "9", "RUST_LOG": "x"}  # noqa: S108
    assert run("env", call=Call(env=hostile)).lines() == ["PATH=/bin"]
    with run.shim.running(run.bundle(*READY), Call(env=hostile)) as running:
        for pid in running.descendants():
            assert b"LD_PRELOAD" not in Path(f"/proc/{pid}/environ").read_bytes()


def names_of_the_config(run: Run) -> None:
    """What the config says of them is what the payload has."""
    bundle = run.bundle("env")
    bundle.process["env"] = ["PATH=/bin", "HOME=/of/the/config", "USER=configured"]
    lines = run.shim.run(bundle, Call(env=NAMES)).lines()
    assert lines == ["PATH=/bin", "HOME=/of/the/config", "USER=configured"]


@forced("2", twin=names_of_the_config, label="home")
def nobody_else_says_who_the_payload_is(run: Run) -> None:
    """HOME and USER are neither the caller's nor those of a table in the root file system: the config has none."""
    bundle = run.bundle("env")
    (bundle.rootfs / "etc" / "passwd").write_text(
        f"image:x:0:0::/of/the/image:/bin/sh\nhim:x:{run.caller.uid}:0::/of/his:\n"
    )
    assert run.shim.run(bundle, Call(env=NAMES)).lines() == ["PATH=/bin"]


def open_streams_arrive(run: Run) -> None:
    """What the caller has there is what the payload reads and writes."""
    reader, writer = os.pipe()
    os.write(writer, b"asked\n")
    os.close(writer)
    result = run("sh", "-c", "cat; echo told >&2", call=Call(stdin=reader))
    os.close(reader)
    assert (result.status, result.stdout, result.stderr) == (0, b"asked\n", b"told\n")


@forced("3-stdio", twin=open_streams_arrive)
def closed_streams_become_null(run: Run) -> None:
    """With 0 to 2 closed, no descriptor of the shim takes their place."""
    bundle = run.bundle("sh", "-c", "ls -l /proc/$$/fd >/out/fds; true")
    out = bundle.mkdir("out")
    bundle.bind(out, "/out")

    def finish() -> None:
        os.closerange(0, 3)

    assert run.shim.run(bundle, Call(finish=finish)).status == 0
    text = (out / "fds").read_text()
    assert " 0 -> /dev/null" in text, text
    assert " 2 -> /dev/null" in text, text


def a_status_descriptor_tells(run: Run) -> None:
    """The one that was asked for stays open until the end, be it a pipe or a socket."""
    for ours, theirs in (os.pipe(), [each.detach() for each in socket.socketpair()]):
        call = Call(pass_fds=(theirs,), extra=("--status-fd", str(theirs)))
        assert run("sh", "-c", "exit 3", call=call).status == 3
        os.close(theirs)
        with os.fdopen(ours, "rb") as stream:
            events = [json.loads(line) for line in stream]
        assert [event["event"] for event in events] == ["started", "exited"]
        assert events[1]["status"] == 3


@forced("3-close", twin=a_status_descriptor_tells)
def stray_descriptors_are_closed(run: Run) -> None:
    """A descriptor that nobody asked for is closed in the shim too, not only in the payload."""
    reader, writer = os.pipe()
    try:
        with run.shim.running(run.bundle(*READY), Call(pass_fds=(writer,))) as running:
            os.close(writer)
            os.set_blocking(reader, False)
            # End of file, not "nothing yet": the last writer is gone, although the shim lives.
            try:
                assert os.read(reader, 1) == b"", running
            except BlockingIOError as error:
                raise AssertionError("the shim holds it open") from error
    finally:
        os.close(reader)


def limit_files() -> None:
    """Few descriptors, and small ones."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 4096))


def limits_twin(run: Run) -> None:
    """The payload has the caller's limits again."""
    assert run("probe", "limit", str(resource.RLIMIT_NOFILE), call=Call(finish=limit_files)).lines() == [
        "20 4096"
    ]


@forced("4-limits", twin=limits_twin)
def the_shim_has_its_own_limits(run: Run) -> None:
    """The caller's soft limits do not bind the shim, and it leaves no core."""
    with run.shim.running(run.bundle(*READY), Call(finish=limit_files)) as running:
        limits = Path(f"/proc/{running.pid}/limits").read_text()
        words = {line[:26].strip(): line[26:].split() for line in limits.splitlines()}
        assert words["Max open files"][:2] == ["4096", "4096"]
        assert words["Max core file size"][0] == "0"


@forced("4-signals")
def signal_dispositions_are_the_default(run: Run) -> None:
    """What the caller ignores or has pending changes neither the shim nor the payload."""

    def finish() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0.2)

    result = run("sh", "-c", "grep ^SigIgn /proc/self/status; sleep 0.4", call=Call(finish=finish))
    assert int(result.lines()[0].split()[1], 16) == 0


def umask_none() -> None:
    """The most open mask."""
    os.umask(0)


def ignore_children() -> None:
    """Let the kernel collect what ends: nobody hears how."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def statuses_without(run: Run) -> None:
    """Nobody ignored anything: the same status."""
    assert run("sh", "-c", "exit 7").status == 7


@forced("4-signals", twin=statuses_without, label="children")
def how_the_payload_ended_is_heard(run: Run) -> None:
    """A caller who ignores SIGCHLD is told the payload's status all the same, past init and relay."""
    for init in (False, True):
        for terminal in (False, True):
            bundle = run.bundle("sh", "-c", "exit 7")
            bundle.config["annotations"] = {"dev.locald.init": "true"} if init else {}
            bundle.process["terminal"] = terminal
            assert run.shim.run(bundle, Call(finish=ignore_children)).status == 7, (init, terminal)
    with run.shim.running(run.bundle(*READY), Call(finish=ignore_children)) as running:
        assert int(running.status("SigIgn"), 16) == 0


def the_config_has_the_mask(run: Run) -> None:
    """What it says is the payload's, whatever the caller's is."""
    bundle = run.bundle("grep", "^Umask", "/proc/self/status")
    bundle.process["user"]["umask"] = 0o027
    assert run.shim.run(bundle, Call(finish=umask_none)).lines() == ["Umask:\t0027"]


@forced("5-umask", twin=the_config_has_the_mask)
def the_shim_has_its_own_umask(run: Run) -> None:
    """What root makes is not open to all because the caller wished so."""
    with run.shim.running(run.bundle(*READY), Call(finish=umask_none)) as running:
        assert running.status("Umask") == "0077"


def a_bundle_is_found_from_there(run: Run) -> None:
    """A relative path is the caller's, from where he stands."""
    bundle = run.bundle("true")
    bundle.write()

    def finish() -> None:
        os.chdir(bundle.path / "rootfs")

    for path in ("..", f"../../{bundle.path.name}"):
        arguments = ["bundle", "run", "--bundle", path, "--id", "relative"]
        result = run.shim.call(arguments, run.caller, Call(finish=finish))
        assert result.status == 0, result


@forced("5-cwd", twin=a_bundle_is_found_from_there)
def the_shim_stands_at_the_root(run: Run) -> None:
    """The caller's working directory is left."""

    def finish() -> None:
        os.chdir("/usr")

    with run.shim.running(run.bundle(*READY), Call(finish=finish)) as running:
        assert os.readlink(f"/proc/{running.pid}/cwd") == "/"


def a_payload_is_its_users(run: Run) -> None:
    """He may look into what he runs, as outside of any container."""
    bundle = run.bundle(*READY)
    bundle.config["annotations"] = {"dev.locald.init": "true"}
    with run.shim.running(bundle) as running:
        payload = running.descendants()[-1]
        assert os.stat(f"/proc/{payload}/mem").st_uid == run.caller.uid


@forced("7-dumpable", twin=a_payload_is_its_users)
def the_shim_is_not_dumpable(run: Run) -> None:
    """Where the host makes setuid programs dumpable, this one is not, nor is its init."""
    knob = Path("/proc/sys/fs/suid_dumpable")
    before = knob.read_text()
    knob.write_text("1")
    try:
        bundle = run.bundle(*READY)
        bundle.config["annotations"] = {"dev.locald.init": "true"}
        with run.shim.running(bundle) as running:
            # /proc/PID/mem is its user's only where the process is dumpable.
            assert os.stat(f"/proc/{running.pid}/mem").st_uid == 0
            assert os.stat(f"/proc/{running.descendants()[0]}/mem").st_uid == 0
    finally:
        knob.write_text(before)


def a_payload_reads_its_own_file(run: Run) -> None:
    """By /proc/self/exe, as programs do that carry data behind their code."""
    assert run("sh", "-c", "cmp /proc/self/exe /bin/busybox && echo the same").lines() == ["the same"]


@forced("7-self", twin=a_payload_reads_its_own_file)
def the_shims_file_cannot_be_reached(run: Run) -> None:
    """No process inside shows the shim's file, not even init's /proc/1/exe (CVE-2019-5736)."""
    bundle = run.bundle("sh", "-c", "ls -l /proc/[0-9]*/exe /proc/[0-9]*/fd; true")
    bundle.config["annotations"] = {"dev.locald.init": "true"}
    text = run.shim.run(bundle).text
    assert "-> /bin/busybox" in text, text
    assert "locald-shim" not in text, text


def a_link_that_is_gone_is_no_matter(run: Run) -> None:
    """Nor is one that leads there by name."""
    second = run.shim.path.with_name("second-name")
    os.link(run.shim.path, second)
    second.unlink()
    assert run("true").status == 0
    second.symlink_to(run.shim.path)
    try:
        assert run("true", call=Call(executable=second)).status == 0
    finally:
        second.unlink()


@forced("8-link", twin=a_link_that_is_gone_is_no_matter)
def a_linked_shim_refuses(run: Run) -> None:
    """An old copy that somebody keeps by a hard link is of no use."""
    second = run.shim.path.with_name("second-name")
    os.link(run.shim.path, second)
    try:
        run.refused(run.bundle(), "shim.linked")
    finally:
        second.unlink()


def policy(run: Run, text: str) -> Call:
    """Return a call for which the policy file is `text`."""
    return Call(prepare=bind_over(text, str(POLICY), run.workshop.directory(run.caller) / "policy"))


def current_version(run: Run) -> None:
    """A minimum that this shim meets changes nothing."""
    call = policy(run, f"version = 1\nallow-user = {run.caller.uid}\nmin-shim = 0.1.0\n")
    assert run("true", call=call).status == 0


@forced("8-version", twin=current_version)
def an_outdated_shim_refuses(run: Run) -> None:
    """A root-owned minimum makes every older copy useless."""
    call = policy(run, f"version = 1\nallow-user = {run.caller.uid}\nmin-shim = 9.0.0\n")
    run.refused(run.bundle(), "shim.outdated", call)


@forced("9-root")
def root_is_refused(run: Run) -> None:
    """Root has no use for a setuid program, and no id of its own to confine to."""
    run.refused(run.bundle(), "caller.root", Call(as_root=True))


def restrictions_elsewhere_are_no_matter(run: Run) -> None:
    """The bundle lies on a mount that is nosuid, nodev and noexec: nothing of it needs more but the payload."""
    bundle = run.bundle("true")

    def prepare() -> None:
        private_mounts()
        mount(str(bundle.path), bundle.path, "", MS_BIND)
        mount("none", bundle.path, "", MS_REMOUNT | MS_BIND | MS_NOSUID)

    assert run.shim.run(bundle, Call(prepare=prepare)).status == 0


@forced("9-privilege", twin=restrictions_elsewhere_are_no_matter)
def no_new_privs_is_refused(run: Run) -> None:
    """The reason is told, instead of a failure somewhere later."""

    def finish() -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)

    run.refused(run.bundle(), "caller.no-new-privs", Call(finish=finish))

    def nosuid() -> None:
        private_mounts()
        mount("none", run.shim.path.parent.parent, "", MS_REMOUNT | MS_BIND | MS_NOSUID)

    run.refused(run.bundle(), "shim.not-setuid", Call(prepare=nosuid))


def namespaces_of_roots_making_are_no_matter(run: Run) -> None:
    """A service manager gives mounts and a host name of its own to what it starts: that is the host still."""

    def prepare() -> None:
        private_mounts()
        unshare(CLONE_NEWUTS)

    assert run("true", call=Call(prepare=prepare)).status == 0


@forced("9-userns", twin=namespaces_of_roots_making_are_no_matter)
def a_namespace_of_the_callers_own_is_refused(run: Run) -> None:
    """A setuid copy inside the caller's user namespace is root there, and only there: it does nothing."""
    copy = run.shim.path.with_name(f"copy-{run.caller.uid}")
    shutil.copyfile(run.shim.path, copy)
    os.chown(copy, run.caller.uid, run.caller.gid)
    copy.chmod(0o4755)
    bundle = run.bundle()
    bundle.write()

    def enter() -> None:
        ready, go = os.pipe(), os.pipe()
        child = os.getpid()
        if os.fork() == 0:  # outside of the new namespace: writes its maps
            os.read(ready[0], 1)
            for table in ("uid_map", "gid_map"):
                own = run.caller.uid if table == "uid_map" else run.caller.gid
                Path(f"/proc/{child}/{table}").write_text(f"0 {own} 1\n1000 300000 1000\n")
            os.write(go[1], b"g")
            os._exit(0)
        unshare(CLONE_NEWUSER)
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)

    try:
        call = Call(prepare=enter, as_root=True, executable=copy)
        result = run.shim.call(run.shim.arguments(bundle, call), run.caller, call)
        assert (result.status, result.code) == (125, "caller.namespace"), result
    finally:
        copy.unlink()


def errors_tell_what_the_caller_may_know(run: Run) -> None:
    """Of his own directory: what is not there, and what cannot be bound, are two messages."""
    mine = run.workshop.directory(run.caller)
    os.mkfifo(mine / "fifo")
    told = []
    for name in ("absent", "fifo"):
        bundle = run.bundle()
        bundle.bind(mine / name, "/srv")
        told.append(run.shim.run(bundle).stderr.decode())
    assert "ENOENT" in told[0], told
    assert "is a device or a pipe" in told[1], told


@forced("10", twin=errors_tell_what_the_caller_may_know)
def errors_tell_nothing_new(run: Run) -> None:
    """What lies below a directory that the caller may not search is told the same as what does not."""
    told = []
    for name in (".bashrc", "absent-from-here"):
        bundle = run.bundle()
        secret = Path("/root") / name
        bundle.bind(secret, "/srv")
        told.append(run.shim.run(bundle).stderr.replace(name.encode(), b"NAME"))
    assert told[0] == told[1]


@forced(
    "7-dumpable",
    label="attach",
    unbreakable="its ids alone keep the caller from it; what it protects has a case",
)
def the_caller_cannot_attach(run: Run) -> None:
    """Neither the shim nor its init stage is traced by its caller."""
    bundle = run.bundle(*READY)
    bundle.config["annotations"] = {"dev.locald.init": "true"}
    with run.shim.running(bundle) as running:
        for pid in (running.pid, running.descendants()[0]):

            def attempt(pid: int = pid) -> str:
                run.caller.become()
                return attach(pid)

            assert run_in_child(attempt) == "EPERM"


@forced("49", twin=open_streams_arrive)
def streams_keep_their_modes(run: Run) -> None:
    """Flags of the caller's pipes, modes and foreground group of his terminal are as before."""
    reader, writer = os.pipe()
    leader, follower = pty.openpty()
    before = (fcntl.fcntl(writer, fcntl.F_GETFL), termios.tcgetattr(follower), os.fstat(writer))
    result = run("true", call=Call(stdin=follower, stdout=writer, stderr=writer))
    after = (fcntl.fcntl(writer, fcntl.F_GETFL), termios.tcgetattr(follower), os.fstat(writer))
    for descriptor in (reader, writer, leader, follower):
        os.close(descriptor)
    assert result.status == 0
    assert (after[0], after[1]) == (before[0], before[1])
    assert (after[2].st_uid, after[2].st_mode) == (before[2].st_uid, before[2].st_mode)


@forced("32-caller")
def streams_are_written_as_the_caller(run: Run) -> None:
    """Stderr is a file of root's that the caller somehow holds: the kernel judges each write, as his."""
    bundle = run.bundle()
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    bundle.write()
    call = Call(stderr=0)

    def attempt() -> str:
        # A sysctl is judged by the writer's effective ids at each write, and this one is of our own namespace.
        unshare(CLONE_NEWUTS)
        Path("/proc/sys/kernel/hostname").write_text("untouched")
        sink = os.open("/proc/sys/kernel/hostname", os.O_WRONLY)
        process = run.shim.start(run.shim.arguments(bundle, call), run.caller, Call(stderr=sink))
        process.communicate(timeout=20)
        return os.uname().nodename

    assert run_in_child(attempt) == "untouched"


def the_callers_keyring_stays(run: Run) -> None:
    """The one that he possesses before the call is his after it."""
    bundle = run.bundle("true")

    def attempt() -> str:
        join_session_keyring()
        before = session_keyring()
        assert run.shim.run(bundle).status == 0
        return "the same" if session_keyring() == before else "another"

    assert run_in_child(attempt) == "the same"


@forced("51", twin=the_callers_keyring_stays)
def the_session_keyring_is_new(run: Run) -> None:
    """The payload does not possess the caller's session keyring."""
    result = traced(run, "keyctl", "true")
    assert b"keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)" in result.stderr, result


def traced(run: Run, calls: str, *args: str) -> Result:
    """Run `args` below strace, which alone can say that something was called or never called."""
    bundle = run.bundle(*args)
    wrapper = ("/usr/bin/strace", "-f", "-qq", "-u", run.caller.name, "-e", f"trace={calls}", "-s", "300")
    result = run.shim.run(bundle, Call(wrapper=wrapper, stdin=subprocess.DEVNULL))
    assert result.status == 0, result
    return result
