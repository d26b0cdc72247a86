"""PROC, CAP, SECCOMP: what the payload is given as a process, and what it may no longer do."""

import errno
import signal
from typing import Any, Final

import pytest

from conformance.runtimes import Config, Mode
from conformance.subject import HOME, Job, Subject

SIGNALS_SET: Final = [1, 10, 13]  # HUP, USR1, PIPE

# Bits of the capabilities a mapped container may keep; docs/manual/reference/shim-config.md.
ALLOWED: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "SETFCAP": 31,
}
ALLOWED_MASK: Final = sum(1 << bit for bit in ALLOWED.values())
DENIED: Final = frozenset({errno.EPERM, errno.ENOSYS})

# Each is denied whatever the mode; what a kernel without the call says (ENOSYS) is as good.
DENIED_CALLS: Final = (
    *(
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "unshare-user",
        "unshare-mount",
        "mount",
        "umount",
    ),
    *(
        "pivot_root",
        "open_tree",
        "fsopen",
        "setns",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "userfaultfd",
        "io_uring_setup",
    ),
)
# Asked so that the kernel answers something else (`observe filter`). The others above ask for a capability first: the
# kernel denies them too, and the filter is the second to hold them (docs/decisions/0041).
FILTERED_CALLS: Final = (
    *(
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "unshare-mount",
        "mount",
        "umount",
        "open_tree",
    ),
    *(
        "fsconfig",
        "mount_setattr",
        "setns",
        "swapon",
        "userfaultfd",
        "io_uring_setup",
        "fanotify_init",
        "quotactl",
    ),
    *("clock_settime", "get_mempolicy"),
)
# Allowed calls that an argument makes to denied ones, and the same with what the kernel does not read of a register.
BY_ARGUMENT: Final = ("clone-user", "clone-user-high", "unshare-user", "vsock", "vsock-high", "personality")
TYPED: Final = ("tiocsti", "tiocsti-high", "tioclinux", "tioclinux-high")
USUAL: Final = ("fork", "personality-which", "socket")
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# Of an attempt that a signal ended.
BY_SIGNAL: Final = -1


@pytest.mark.clause("PROC-001")
def test_only_three_descriptors(subject: Subject, mode: Mode) -> None:
    """The payload has descriptors 0, 1 and 2 and no other, whatever the caller left open."""
    plain = subject.see(mode)
    numbers = [3, 4, 5, 20, 200]
    stray = subject.run(mode=mode, status=True, extra_fds=numbers)
    # Without the shim they are there: the kit did leave them open.
    observer: Job = {"argv": [f"{HOME}/observe", "glance"], "user": "plain", "extra_fds": numbers}
    (left,) = subject.call(observer)

    assert {str(number) for number in numbers} <= set(left.facts.table("fds")), left
    assert [line.split()[0] for line in plain.facts.lines("fds")] == ["0", "1", "2"], plain
    assert [line.split()[0] for line in stray.facts.lines("fds")] == ["0", "1", "2"], stray


@pytest.mark.clause("PROC-002")
def test_closed_standard_streams(subject: Subject, mode: Mode) -> None:
    """Where the caller closed 0, 1 or 2 the payload gets /dev/null and never something else's descriptor."""
    results = subject.call(
        subject.container(mode=mode, close=[0]),
        subject.container(mode=mode, close=[0, 2]),
        subject.container("/observe", "exit", "7", mode=mode, close=[0, 1, 2]),
    )

    for result in results[:2]:
        assert result.facts.lines("fds")[0] == "0 /dev/null", result
    assert results[1].facts.lines("fds")[2] == "2 /dev/null", results[1]
    assert results[2].exit_code == 7  # the payload's


@pytest.mark.clause("PROC-003")
def test_umask_of_the_caller_does_not_count(subject: Subject, mode: Mode) -> None:
    """Without one in the config the umask is 022, whatever the caller's is."""
    open_, closed = subject.call(
        subject.container(mode=mode, umask=0), subject.container(mode=mode, umask=0o777)
    )

    assert open_.facts.process["umask"] == closed.facts.process["umask"] == "22", (open_, closed)


@pytest.mark.clause("PROC-004")
def test_signal_state_is_fresh(subject: Subject, mode: Mode) -> None:
    """No signal is blocked or ignored in the payload, though the caller blocked and ignored some."""
    result = subject.run(mode=mode, blocked=SIGNALS_SET, ignored=SIGNALS_SET)

    for name in ("SigBlk", "SigIgn", "SigPnd", "ShdPnd"):
        assert int(result.facts.status[name], 16) == 0, (name, result.facts.status[name])


@pytest.mark.clause("PROC-005")
def test_sigpipe_ends_a_payload(subject: Subject, mode: Mode) -> None:
    """SIGPIPE has its default: a write into a closed pipe ends the payload with 128+13."""
    result = subject.run("/observe", "pipe", mode=mode, init=True)

    assert (result.exit_code, result.stdout) == (128 + 13, ""), result


@pytest.mark.clause("PROC-006")
def test_limits_of_the_caller_come_back(subject: Subject, mode: Mode) -> None:
    """The payload has the caller's resource limits, not those the shim gave itself."""
    result = subject.run(
        mode=mode, rlimits={"NOFILE": [200, 300], "FSIZE": [1 << 20, 1 << 21], "NPROC": [400, 500]}
    )

    assert result.facts.limit("Max open files") == ("200", "300"), result
    assert result.facts.limit("Max file size") == (str(1 << 20), str(1 << 21))
    assert result.facts.limit("Max processes") == ("400", "500")


@pytest.mark.clause("PROC-007")
def test_no_terminal_is_inherited(subject: Subject, mode: Mode) -> None:
    """Without process.terminal the payload leads a session of its own and has no controlling terminal."""
    result = subject.see(mode)
    process = result.facts.process

    assert process["sid"] == process["pgid"] == process["pid"], result
    assert process["tty"] == "000"
    assert result.facts.attempts["open-tty"] == errno.ENXIO, result.facts.attempts


@pytest.mark.clause("PROC-008")
def test_the_payload_is_pid_1_or_has_an_init(subject: Subject, mode: Mode) -> None:
    """The payload is process 1; with the init annotation process 1 is the init stage and the payload its child."""
    alone, served = subject.call(subject.container(mode=mode), subject.container(mode=mode, init=True))

    assert (alone.facts.process["pid"], alone.facts.process["ppid"]) == ("1", "0"), alone
    assert served.facts.process["ppid"] == "1", served
    assert served.facts.process["pid"] != "1"


@pytest.mark.clause("PROC-009")
def test_no_new_privileges(subject: Subject, mode: Mode) -> None:
    """no_new_privs is set, also if the config says that it shall not be."""
    asked = subject.run(mode=mode, change=lambda config: config["process"].update(noNewPrivileges=False))
    silent = subject.run(mode=mode, change=lambda config: config["process"].pop("noNewPrivileges"))

    for result in (asked, silent, subject.see(mode)):
        assert result.facts.process["no_new_privs"] == "1", result
        assert result.facts.status["NoNewPrivs"] == "1"


@pytest.mark.clause("PROC-010")
def test_a_setuid_file_of_the_image_gives_nothing(subject: Subject, mode: Mode) -> None:
    """A setuid program in the root filesystem or in a bind runs with the ids of who started it.

    It is the host's root's, who is nobody in a user namespace, or the caller's, who may be root of one.
    """
    caller = subject.caller()
    user = {"uid": 1000, "gid": 1000} if mode == "mapped" else {"uid": caller.uid, "gid": caller.gid}
    places = {"rootfs": "", "own": "/srv"}
    programs = [f"{inside}/{name}" for inside in places.values() for name in ("of-root", "of-caller")]

    def change(config: Config) -> None:
        config["process"]["user"] = user
        bind = {"destination": "/srv", "type": "bind", "source": "{bundle}/own", "options": ["rbind"]}
        config["mounts"].append(bind)

    make = "".join(
        f'cd "$BUNDLE/{place}"; cp "$BUNDLE/rootfs/observe" of-root; cp of-root of-caller\n'
        f"chown {caller.uid}:{caller.gid} of-caller; chmod 6755 of-root of-caller\n"
        for place in places
    )
    job: dict[str, Any] = {"mode": mode, "change": change, "files": {"own/mark": {}}, "before": make}
    ran, seen = subject.call(
        subject.container("/observe", "each", *programs, **job),
        subject.container("/observe", "glance", **job),
    )

    ids = [str(user["uid"])] * 2 + [str(user["gid"])] * 2
    assert [line.split() for line in ran.stdout.splitlines()] == [
        [program, *ids, "0" * 16] for program in programs
    ], ran
    for place in ("/", "/srv"):
        assert "nosuid" in seen.facts.mount_at(place).options, seen


@pytest.mark.clause("CAP-001")
def test_direct_has_no_capability(subject: Subject) -> None:
    """In direct mode all five sets are empty, also if the config asks for capabilities."""
    wanted = {
        name: ["CAP_SYS_ADMIN", "CAP_CHOWN"] for name in ("bounding", "effective", "permitted", "inheritable")
    }
    asked = subject.run(mode="direct", change=lambda config: config["process"].update(capabilities=wanted))

    for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert subject.see("direct").facts.capabilities(name) == 0, name
    # Refused or emptied, both keep the rule; kept does not.
    if asked.exit_code == 0:
        assert [asked.facts.capabilities(name) for name in ("Prm", "Eff", "Bnd")] == [0, 0, 0], asked
    else:
        assert asked.outcome == (125, "process.capability"), asked


@pytest.mark.clause("CAP-002")
def test_mapped_has_at_most_the_allowed_capabilities(subject: Subject) -> None:
    """In mapped mode no set goes beyond the eleven allowed capabilities; none is given that was not asked for."""
    names = [f"CAP_{name}" for name in ALLOWED]
    every = dict.fromkeys(("bounding", "effective", "permitted"), names)
    some = {kind: ["CAP_CHOWN", "CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
    full, two = subject.call(
        subject.container(mode="mapped", change=lambda config: config["process"].update(capabilities=every)),
        subject.container(mode="mapped", change=lambda config: config["process"].update(capabilities=some)),
    )

    for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert full.facts.capabilities(name) & ~ALLOWED_MASK == 0, (name, full)
        assert subject.see("mapped").facts.capabilities(name) & ~ALLOWED_MASK == 0, name
    assert full.facts.capabilities("Eff") == ALLOWED_MASK
    assert two.facts.capabilities("Eff") == two.facts.capabilities("Bnd") == 1 << 0 | 1 << 5


@pytest.mark.clause("CAP-003")
def test_a_capability_beyond_is_refused(subject: Subject) -> None:
    """A capability outside of the allowed ones is refused in mapped mode, or left out; never given."""
    for name, bit in (
        ("CAP_SYS_ADMIN", 21),
        ("CAP_NET_ADMIN", 12),
        ("CAP_SYS_PTRACE", 19),
        ("CAP_MKNOD", 27),
    ):
        wanted = {kind: [name] for kind in ("bounding", "effective", "permitted")}
        result = subject.run(
            mode="mapped", change=lambda config, wanted=wanted: config["process"].update(capabilities=wanted)
        )
        if result.exit_code == 0:
            assert result.facts.capabilities("Bnd") & 1 << bit == 0, result
        else:
            assert result.outcome == (125, "process.capability"), result


@pytest.mark.clause("SECCOMP-001")
def test_a_filter_is_in_force(subject: Subject, mode: Mode) -> None:
    """A seccomp filter is in force in the payload."""
    result = subject.see(mode)

    assert result.facts.status["Seccomp"] == "2", result.facts.status


@pytest.mark.clause("SECCOMP-002")
def test_denied_system_calls(subject: Subject, mode: Mode) -> None:
    """Key rings, bpf, perf, namespaces, the mount interface, modules and their like answer EPERM or ENOSYS."""
    attempts = subject.see(mode).facts.attempts
    assert {name: attempts[name] for name in DENIED_CALLS if attempts[name] not in DENIED} == {}

    asked = subject.run("/observe", "filter", mode=mode).facts.attempts
    assert {name: asked[name] for name in FILTERED_CALLS if asked[name] not in DENIED} == {}


@pytest.mark.clause("SECCOMP-006")
def test_an_argument_that_makes_a_call_a_denied_one(subject: Subject, mode: Mode) -> None:
    """A new user namespace, AF_VSOCK, an unusual personality: EPERM any way; what programs do by them works."""
    attempts = subject.run("/observe", "filter", mode=mode).facts.attempts

    wanted = dict.fromkeys(BY_ARGUMENT, errno.EPERM) | dict.fromkeys(USUAL, 0)
    assert {name: attempts[name] for name in wanted} == wanted


@pytest.mark.clause("SECCOMP-007")
def test_another_way_into_the_kernel(subject: Subject, mode: Mode) -> None:
    """By 32-bit programs' entry and by x32's numbers there is no system call."""
    inside, outside = subject.call(
        subject.container("/observe", "filter", mode=mode),
        {"argv": [f"{HOME}/observe", "filter"], "user": "plain"},
    )

    # A kernel without that entry ends the process by a signal, whoever asks.
    i386 = BY_SIGNAL if outside.facts.attempts["i386"] == BY_SIGNAL else errno.ENOSYS
    wanted = {"i386": i386, "x32": errno.ENOSYS}
    assert {name: inside.facts.attempts[name] for name in wanted} == wanted, outside


@pytest.mark.clause("SECCOMP-003")
def test_no_typing_into_a_terminal(subject: Subject, mode: Mode) -> None:
    """TIOCSTI and TIOCLINUX are denied, on a terminal of the payload's own too."""
    result = subject.run(
        *("/observe", "filter"),
        mode=mode,
        terminal=[24, 80],
        change=lambda config: config["process"].update(terminal=True),
    )

    assert result.facts.process["tty"] == "111", result
    attempts = result.facts.attempts
    # What TIOCSTI typed stands in the report, and may break the very line that tells of it.
    assert {attempts.get(name) for name in TYPED} <= DENIED, attempts


@pytest.mark.clause("SECCOMP-005")
def test_a_call_that_is_not_known_is_absent(subject: Subject, mode: Mode) -> None:
    """What the filter cannot judge answers ENOSYS and not EPERM: a C library falls back to an older call."""
    attempts = subject.see(mode).facts.attempts

    assert {name: attempts[name] for name in ("unknown", "clone3")} == dict.fromkeys(
        ("unknown", "clone3"), errno.ENOSYS
    )


@pytest.mark.clause("SECCOMP-004")
def test_fixed_settings_cannot_be_changed(subject: Subject, mode: Mode) -> None:
    """The payload cannot make device nodes, and cannot write to kernel settings (MOUNT-003: nor read kcore)."""
    attempts = subject.see(mode).facts.attempts
    names = ("mknod", "write-proc-sys", "write-core-pattern", "write-sysrq", "write-sys")

    assert {name: attempts[name] for name in names if attempts[name] == 0} == {}


@pytest.mark.clause("PROC-011")
def test_read_only_paths(subject: Subject, mode: Mode) -> None:
    """What of /proc is there to change the machine is read-only, by a mount of its own over each that the host has."""
    there = subject.root(f"ls -d {' '.join(READONLY_PATHS)} 2>/dev/null || true").stdout.split()
    facts = subject.see(mode).facts
    options = {mount.target: mount.options for mount in facts.mounts}

    assert "/proc/sys" in there
    assert [path for path in there if "ro" not in options.get(path, ())] == [], options


@pytest.mark.clause("PROC-012")
def test_the_init_keeps_nothing(subject: Subject, mode: Mode) -> None:
    """Beside a payload the init is filtered as it is, has no capability and no way to the host or to the streams."""
    # Root's look from outside: a payload is not let near it (ATK-007). It may say so before the init has settled.
    look = (
        "init=$(cat /proc/$SUBJECT/task/$SUBJECT/children); init=${init% }\n"
        "for i in $(seq 50); do set -- /proc/$init/fd/*; [ $# -gt 4 ] || break; sleep 0.1; done\n"
        'readlink "$@" /proc/$init/cwd\n'
        "grep -E '^(Seccomp|NoNewPrivs|CapPrm):' /proc/$init/status"
    )
    steps = [{"expect": "ready"}, {"script": look}, {"signal": int(signal.SIGTERM), "to": "user"}]
    (result,) = subject.call(subject.container("/observe", "wait", mode=mode, init=True, steps=steps))

    assert result.problem == "", result
    *links, permitted, privileges, filtered = result.stderr.splitlines()
    assert links == ["/dev/null"] * 3 + ["anon_inode:[signalfd]", "/"], result
    assert permitted.split() == ["CapPrm:", "0" * 16], result
    assert privileges.split() == ["NoNewPrivs:", "1"], result
    assert filtered.split() == ["Seccomp:", "2"], result
