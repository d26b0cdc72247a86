"""BUNDLE: what a bundle may hold, what running it gives back, and what is refused before anything happens."""

import json
from typing import Any, Final

import pytest

from conformance.runtimes import NAMESPACES, Config, Mode, read_spec
from conformance.subject import Job, Result, Subject

SIGKILL: Final = 9
# Those at the edges, and those that a shim or a shell has a meaning for.
CODES: Final = (0, 1, 7, 125, 126, 127, 137, 143, 255)

NOT_EXECUTABLE: Final = {"rootfs/plain": {"content": "text", "mode": 0o644}}


def assert_refused(result: Result, code: str) -> None:
    """Judge a refusal: 125, one line with the code, a started event never, nothing new anywhere."""
    assert result.outcome == (125, code), result
    assert len(result.stderr.splitlines()) == 1, result
    assert "; hint: " in result.stderr, result
    assert result.stdout == ""
    assert [event["event"] for event in result.events] in ([], ["refused"]), result
    assert result.new_files == []
    assert result.new_mounts == []
    assert result.leftover == []


def written(**changes: Any) -> Any:
    """Return a change that sets members by their dotted path, written with `__`."""

    def change(config: Config) -> None:
        for path, value in changes.items():
            *parents, last = path.split("__")
            place: Any = config
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value

    return change


@pytest.mark.clause("BUNDLE-001")
def test_the_payload_runs(subject: Subject, mode: Mode) -> None:
    """The payload runs to its end; its output and its exit code 0 come back."""
    result = subject.see(mode)

    assert result.exit_code == 0, result
    assert result.facts.text("argv") == "/observe\nfacts"
    assert result.stderr == ""


@pytest.mark.clause("BUNDLE-002")
def test_exit_codes_are_the_payloads(subject: Subject, mode: Mode) -> None:
    """Every exit code of the payload comes back unchanged, and is told from those the shim uses itself."""
    results = subject.call(
        *(subject.container("/observe", "exit", str(code), mode=mode, status=True) for code in CODES)
    )

    assert [result.exit_code for result in results] == list(CODES)
    # This is how a program tells a payload's 125 from the shim's.
    assert [result.events[-1] for result in results] == [
        {"event": "exited", "status": code} for code in CODES
    ]
    assert all(result.stderr == "" for result in results)


@pytest.mark.clause("BUNDLE-023")
def test_exit_codes_come_back(subject: Subject, mode: Mode) -> None:
    """Every exit code of the payload is the runtime's own, without a status descriptor too."""
    results = subject.call(*(subject.container("/observe", "exit", str(code), mode=mode) for code in CODES))

    assert [result.exit_code for result in results] == list(CODES), results


@pytest.mark.clause("BUNDLE-003")
def test_what_cannot_be_executed(subject: Subject, mode: Mode) -> None:
    """126 for what is not executable, 127 for what is not there."""
    plain, absent = subject.call(
        subject.container("/plain", mode=mode, files=NOT_EXECUTABLE),
        subject.container("/absent", mode=mode),
    )

    assert (plain.exit_code, absent.exit_code) == (126, 127), (plain, absent)
    assert len(plain.stderr.splitlines()) == len(absent.stderr.splitlines()) == 1


@pytest.mark.clause("BUNDLE-024")
def test_a_program_is_looked_for_in_path(subject: Subject, mode: Mode) -> None:
    """A name without a slash is looked for in the PATH of process.env, and there in absolute directories alone."""

    def search(path: str) -> Job:
        change = written(process__env=[f"PATH={path}"], process__cwd="/")
        # A file that may not be executed does not end the search.
        return subject.container(
            "observe",
            "exit",
            "3",
            mode=mode,
            change=change,
            files={"rootfs/plain/observe": {"content": "no"}},
        )

    # Without PATH: in the directories that the standard specs name.
    usual = (
        subject.container(
            *(name, "exit", "3"),
            mode=mode,
            change=written(process__env=[]),
            before=f'cd "$BUNDLE/rootfs"; mkdir -p {directory}; ln observe {directory}/{name}',
        )
        for directory, name in (("usr/local/sbin", "first"), ("bin", "last"))
    )
    wanted = {"/nowhere:/": 3, "/plain:/": 3, "/plain": 126, ".": 127, "": 127, "/nowhere": 127}
    found = [result.exit_code for result in subject.call(*map(search, wanted))]

    assert dict(zip(wanted, found, strict=True)) == wanted
    assert [result.exit_code for result in subject.call(*usual)] == [3, 3]


@pytest.mark.clause("BUNDLE-004")
def test_a_death_by_signal_is_128_plus_its_number(subject: Subject, mode: Mode) -> None:
    """A payload that a signal ended gives 128+N."""
    (result,) = subject.call(
        subject.container(
            *("/observe", "wait"),
            mode=mode,
            status=True,
            steps=[{"expect": "ready"}, {"signal": SIGKILL, "to": "payload"}],
        )
    )

    assert result.problem == "", result
    assert result.exit_code == 128 + SIGKILL, result
    assert result.events[-1] == {"event": "exited", "status": 128 + SIGKILL}


@pytest.mark.clause("BUNDLE-005")
def test_arguments_environment_and_directory_are_bytes(subject: Subject, mode: Mode) -> None:
    """What is not UTF-8 arrives as it was written."""
    odd = "\udcff\udcfe-\N{SNOWMAN}"
    result = subject.run(
        *("/observe", "facts", odd),
        mode=mode,
        change=written(process__env=[f"ODD={odd}"], process__cwd=f"/srv/{odd}"),
        files={f"rootfs/srv/{odd}/mark": {}},
    )

    assert result.exit_code == 0, result
    assert result.facts.lines("argv") == ["/observe", "facts", odd]
    assert result.facts.lines("environ") == [f"ODD={odd}"]
    assert result.facts.process["cwd"] == f"/srv/{odd}"


@pytest.mark.clause("BUNDLE-006")
def test_the_environment_is_the_configs(subject: Subject, mode: Mode) -> None:
    """The payload's environment is process.env and nothing more."""
    job = subject.container(mode=mode, change=written(process__env=["ONE=1", "TWO=zwei drei"]))
    job["env"] = job["env"] | {"SECRET": "of the host", "LD_PRELOAD": "/absent.so", "LISTEN_FDS": "3"}
    (result,) = subject.call(job)

    assert result.facts.lines("environ") == ["ONE=1", "TWO=zwei drei"], result


@pytest.mark.clause("BUNDLE-007")
def test_cwd_and_hostname_are_the_configs(subject: Subject, mode: Mode) -> None:
    """The working directory and the host name are those of the config."""
    result = subject.run(mode=mode, change=written(process__cwd="/srv", hostname="named-here"))

    assert result.facts.process["cwd"] == "/srv", result
    assert result.facts.text("hostname") == "named-here"


@pytest.mark.clause("BUNDLE-008")
def test_a_working_directory_outside_is_refused(subject: Subject, mode: Mode) -> None:
    """A relative process.cwd, and one below /proc, are refused."""
    results = subject.call(
        *(
            subject.container(mode=mode, status=True, change=written(process__cwd=cwd))
            for cwd in ("srv", "", "/proc/self/fd/9")
        )
    )

    for result in results:
        assert_refused(result, "process.cwd")


@pytest.mark.clause("BUNDLE-009")
def test_unknown_members_are_refused(subject: Subject, mode: Mode) -> None:
    """A member that the shim does not know is refused wherever it stands."""
    changes = [
        written(surprise=1),
        written(process__surprise=True),
        written(root__surprise="x"),
        written(linux__surprise=[1]),
        written(process__user__surprise=0),
    ]
    for result in subject.call(
        *(subject.container(mode=mode, status=True, change=change) for change in changes)
    ):
        assert_refused(result, "config.unknown")


@pytest.mark.clause("BUNDLE-025")
def test_what_is_missing_is_named(subject: Subject, mode: Mode) -> None:
    """A config without one of the members that no container can do without is refused by that member's name."""
    paths = (
        *("ociVersion", "root", "process", "linux", "root.path", "process.cwd", "process.user"),
        *("process.user.uid", "process.user.gid"),
    )
    bind = {"type": "bind", "source": "/srv", "options": ["rbind"]}
    jobs = [subject.container(mode=mode, status=True, change=without(path)) for path in paths]
    jobs.append(subject.container(mode=mode, status=True, change=written(mounts=[bind])))
    names = (*paths, "mounts[0].destination")
    for name, result in zip(names, subject.call(*jobs), strict=True):
        assert_refused(result, "config.missing")
        assert f"]: {name} is missing;" in result.stderr, result


def without(path: str) -> Any:
    """Return a change that takes one member away."""
    *parents, last = path.split(".")

    def change(config: Config) -> None:
        place: Any = config
        for parent in parents:
            place = place[parent]
        del place[last]

    return change


@pytest.mark.clause("BUNDLE-026")
def test_an_unbindable_mount(subject: Subject, mode: Mode) -> None:
    """A source or root with an unbindable mount in it is refused: a bind would leave it out and show what it hides."""
    hide = 'mount -t tmpfs -o mode=755 none "$BUNDLE/{0}"; mount --make-unbindable "$BUNDLE/{0}"'
    show = 'umount "$BUNDLE/{0}"'
    bind = {"destination": "/srv", "type": "bind", "source": "{bundle}/own", "options": ["rbind"]}
    files: dict[str, dict[str, str]] = {"own/hidden/secret": {}}
    jobs = [
        subject.container(
            mode=mode,
            status=True,
            change=written(mounts=[bind]),
            files=files,
            before=hide.format(place),
            after=show.format(place),
        )
        for place in ("own/hidden", "rootfs/tmp")
    ]
    for result in subject.call(*jobs):
        assert_refused(result, "mount.unbindable")


@pytest.mark.clause("BUNDLE-010")
def test_malformed_json_is_refused(subject: Subject, mode: Mode) -> None:
    """Duplicate members, NUL in a string, deep nesting, an early end: each with its code."""
    whole = json.dumps(subject.container(mode=mode)["bundle"]["config"])
    texts = {
        "json.duplicate": whole.replace('"hostname"', '"hostname": "a", "hostname"', 1),
        "json.nul": whole.replace("conformance", "con\\u0000formance", 1),
        "json.depth": "[" * 40 + "]" * 40,
        "json.syntax": whole[:-1],
    }
    results = subject.call(
        *(subject.container(mode=mode, status=True, config=text) for text in texts.values())
    )

    for code, result in zip(texts, results, strict=True):
        assert_refused(result, code)


@pytest.mark.clause("BUNDLE-011")
def test_config_json_is_a_small_regular_file(subject: Subject, mode: Mode) -> None:
    """A FIFO, a link, a directory, a device, nothing, or more than 1 MiB as config.json is refused at once."""
    put = (
        'mkfifo "$BUNDLE/config.json"',
        'ln -s /etc/passwd "$BUNDLE/config.json"',
        'mkdir "$BUNDLE/config.json"',
        "true",
        # As /dev/null has it, and with a node of his own he could read what nobody else can.
        'mknod -m 666 "$BUNDLE/config.json" c 1 3',
        'head -c 1100000 /dev/zero > "$BUNDLE/config.json"; chmod 644 "$BUNDLE/config.json"',
    )
    results = subject.call(
        *(subject.container(mode=mode, config="", before=script, limit_s=10, status=True) for script in put)
    )

    for result in results:
        assert not result.timed_out, result
        assert_refused(result, "bundle.config")


@pytest.mark.clause("BUNDLE-012")
def test_features_that_reach_out_are_refused(subject: Subject, mode: Mode) -> None:
    """Hooks, devices, sysctls, seccomp filters, labels, cgroup paths, foreign namespaces: refused by name."""
    cases = {
        "config.hooks": written(hooks={"prestart": [{"path": "/bin/true"}]}),
        "config.devices": written(linux__devices=[{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]),
        "config.sysctl": written(linux__sysctl={"kernel.core_pattern": "|/x"}),
        "config.seccomp": written(linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW"}),
        "config.label": written(process__selinuxLabel="system_u:system_r:init_t:s0"),
        "cgroup.path": written(linux__cgroupsPath="/"),
        "resources.unsupported": written(linux__resources={"unified": {"memory.max": "1"}}),
        "namespace.missing": written(linux__namespaces=[{"type": "pid"}]),
        "config.version": written(ociVersion="2.0.0"),
    }
    joined = [
        written(linux__namespaces=[{"type": kind, "path": f"/proc/1/ns/{name}"}])
        for kind, name in NAMESPACES.items()
    ]
    results = subject.call(
        *(subject.container(mode=mode, status=True, change=change) for change in (*cases.values(), *joined))
    )

    for code, result in zip((*cases, *["namespace.path"] * len(joined)), results, strict=True):
        assert_refused(result, code)


@pytest.mark.clause("BUNDLE-013")
def test_mounts_that_reach_out_are_refused(subject: Subject, mode: Mode) -> None:
    """File systems other than bind and tmpfs, bad destinations, unknown options: refused."""
    cases = [
        ("mount.type", {"destination": "/srv", "type": "ext4", "source": "/dev/vda"}),
        ("mount.type", {"destination": "/srv", "type": "overlay", "source": "overlay"}),
        ("mount.destination", {"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}),
        ("mount.destination", {"destination": "/srv/../..", "type": "tmpfs", "source": "tmpfs"}),
        ("mount.destination", {"destination": "/", "type": "tmpfs", "source": "tmpfs"}),
        ("mount.option", {"destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": ["suid"]}),
        (
            "mount.option",
            {"destination": "/srv", "type": "bind", "source": "/srv", "options": ["rbind", "dev"]},
        ),
    ]
    results = subject.call(
        *(subject.container(mode=mode, status=True, change=written(mounts=[mount])) for _, mount in cases)
    )

    for (code, _), result in zip(cases, results, strict=True):
        assert_refused(result, code)


@pytest.mark.clause("BUNDLE-014")
def test_what_the_caller_cannot_reach_stays_out_of_reach(subject: Subject, mode: Mode) -> None:
    """Root's private bundle, root filesystem or bind source is opened as the caller: refused, and nothing told."""
    secret = {
        "destination": "/srv",
        "type": "bind",
        "source": "{bundle}/private/inside",
        "options": ["rbind"],
    }
    bind, bundle, rootfs = subject.call(
        subject.container(
            mode=mode,
            status=True,
            change=written(mounts=[secret]),
            before='mkdir -p "$BUNDLE/private/inside"; chmod 700 "$BUNDLE/private"',
        ),
        subject.container(mode=mode, before='chown root "$BUNDLE"; chmod 700 "$BUNDLE"'),
        subject.container(mode=mode, before='chown root "$BUNDLE/rootfs"; chmod 700 "$BUNDLE/rootfs"'),
    )

    assert_refused(bind, "mount.source")
    assert bundle.exit_code == 125, bundle
    assert bundle.code in ("bundle.open", "bundle.config"), bundle
    # A directory of root's may be opened for its path alone; it must give nothing away.
    assert rootfs.exit_code != 0, rootfs
    assert "observe" not in rootfs.stdout


@pytest.mark.clause("BUNDLE-015")
def test_the_container_id_is_a_plain_word(subject: Subject, mode: Mode) -> None:
    """An id with a slash, a dot in front, capitals, a newline, too long or empty is refused."""
    jobs = []
    for word in ("../x", ".hidden", "UPPER", "", "a" * 65, "a/b", "a\nb", "\udcff"):
        job = subject.container(mode=mode)
        job["argv"] = [word if part == "{id}" else part for part in job["argv"]]
        jobs.append(job)

    for result in subject.call(*jobs):
        assert result.exit_code in (125, 2), result
        assert result.code in ("id.invalid", "usage"), result
        assert result.stdout == ""


@pytest.mark.clause("BUNDLE-016")
def test_umask_and_limits_of_the_config(subject: Subject, mode: Mode) -> None:
    """process.user.umask and process.rlimits count; a hard limit above the caller's is refused."""

    def lowered(config: Config) -> None:
        config["process"]["user"]["umask"] = 0o27
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]

    seen, above = subject.call(
        subject.container(mode=mode, change=lowered),
        subject.container(
            mode=mode,
            rlimits={"NOFILE": [256, 256]},
            change=written(process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 4096}]),
        ),
    )

    assert seen.facts.process["umask"] == "27", seen
    assert seen.facts.limit("Max open files") == ("64", "128")
    assert above.outcome == (125, "process.rlimit"), above


@pytest.mark.clause("BUNDLE-017")
def test_a_standard_spec_runs(subject: Subject, mode: Mode) -> None:
    """What `runc spec` and `runc spec --rootless` write runs as it is, but for its arguments."""
    config = read_spec("runc-1.1.5-rootless" if mode == "mapped" else "runc-1.1.5")
    config["process"]["args"] = ["/observe", "facts"]
    config["process"]["terminal"] = False
    caller = subject.caller()
    if mode == "mapped":
        for mappings, own in (("uidMappings", caller.uid), ("gidMappings", caller.gid)):
            config["linux"][mappings][0]["hostID"] = own
    else:
        # `runc spec` says root, which a caller without a user namespace is not: the manual names this line.
        config["process"]["user"] = {"uid": caller.uid, "gid": caller.gid}
    (result,) = subject.call(subject.container(mode=mode, config=json.dumps(config)))

    assert result.exit_code == 0, result
    assert result.facts.process["uid"] == ("0" if mode == "mapped" else str(caller.uid))
    # Both specs say root.readonly.
    assert "ro" in result.facts.mount_at("/").options


@pytest.mark.clause("BUNDLE-018")
def test_the_status_descriptor(subject: Subject, mode: Mode) -> None:
    """JSON lines: started with a pid that is the payload's, exited with its status; refused with code and why."""
    ran, refused = subject.call(
        subject.container("/observe", "exit", "7", mode=mode, status=True),
        subject.container(mode=mode, status=True, change=written(surprise=1)),
    )

    assert [event["event"] for event in ran.events] == ["started", "exited"], ran
    assert isinstance(ran.events[0]["pid"], int)
    assert ran.events[0]["pid"] > 1
    assert ran.events[1]["status"] == 7  # the payload's
    assert [event["event"] for event in refused.events] == ["refused"], refused
    assert refused.events[0]["code"] == refused.code == "config.unknown"
    assert refused.events[0]["why"]


@pytest.mark.clause("BUNDLE-019")
def test_the_status_descriptor_is_a_pipe_or_a_socket(subject: Subject, mode: Mode) -> None:
    """A pipe and a local socket will do; a file and a network's socket are refused and get nothing; 0 to 2 too."""
    local, network, file, low = subject.call(
        subject.container("/observe", "exit", "7", mode=mode, status=True, status_kind="local"),
        subject.container(mode=mode, status=True, status_kind="network"),
        subject.container(mode=mode, status=True, status_kind="file", after='cat "$BUNDLE/status"'),
        subject.container(mode=mode)
        | {"argv": [*subject.runtime.make_argv(status=False), "--status-fd", "1"]},
    )

    assert local.exit_code == 7, local  # the payload's
    assert [event["event"] for event in local.events] == ["started", "exited"], local
    assert network.outcome == (125, "status-fd.type"), network
    assert (network.stdout, network.events) == ("", []), network
    assert file.outcome == (125, "status-fd.type"), file
    assert file.after == ""
    assert low.exit_code in (2, 125), low
    assert low.code, low
    assert low.stdout == ""


@pytest.mark.clause("BUNDLE-020")
def test_a_malformed_command_line(subject: Subject) -> None:
    """Exit code 2 and one line, whatever is wrong with the command line."""
    lines: tuple[list[str], ...] = (
        [],
        ["exec"],
        ["bundle"],
        ["bundle", "run"],
        ["bundle", "run", "--bundle"],
        ["check", "surplus"],
        ["--help-me"],
    )
    for result in subject.call(*(subject.shim(*words) for words in lines)):
        assert result.outcome == (2, "usage"), result
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.clause("BUNDLE-021")
def test_standard_streams_are_the_callers(subject: Subject, mode: Mode) -> None:
    """The payload reads the caller's standard input and writes to his standard output."""
    result = subject.run("/observe", "cat", mode=mode, stdin="through the container\n")

    assert (result.exit_code, result.stdout) == (0, "through the container\n"), result


@pytest.mark.clause("BUNDLE-022")
def test_nothing_is_left_behind(subject: Subject, mode: Mode) -> None:
    """After a run there is no process, no mount, no state entry and no file of root's in the bundle."""
    caller = subject.caller()
    result = subject.run(mode=mode, after=f"ls /run/locald-shim/{caller.uid} 2>/dev/null || true")

    assert result.facts.text("argv") == "/observe\nfacts", result
    assert result.leftover == []
    assert result.new_mounts == []
    # Mount points that were missing are made, as the caller.
    assert [entry for entry in result.new_files if f" {caller.uid}:" not in entry] == []
    token = (
        result.data["argv"][result.data["argv"].index("--id") + 1] if "--id" in result.data["argv"] else ""
    )
    assert token not in result.after.split()
