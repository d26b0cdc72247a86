"""LEAF, PRIV: the setuid program executes nothing but the payload, and gives away nothing."""

import re
from typing import Final

import pytest

from conformance import logs
from conformance.hostile import USERS, Hostile
from conformance.observation import Facts
from conformance.runtimes import Mode
from conformance.subject import HOME, LOCALD, PREFIX, SHIM, STRANGER, Job, Subject, copy_installation

ENGINES: Final = (
    "runc",
    "crun",
    "youki",
    "podman",
    "docker",
    "dockerd",
    "containerd",
    "nerdctl",
    "buildah",
    "bwrap",
)
# One file for everybody: a test that changes it runs alone.
ETC: Final = "/etc/locald"
POLICY: Final = f"{ETC}/policy"
SETPRIV: Final = "/usr/bin/setpriv"
SMALL: Final = f"oci:{HOME}/images/small"
ADDRESSED: Final = re.compile(r" (connect|sendto|sendmsg|sendmmsg)\(.*sa_family=")


def with_policy(script: str) -> tuple[str, str]:
    """Return scripts that change the policy file, and that bring it back."""
    before = f"cp -p {POLICY} {POLICY}.kit; {script}"
    return before, f"rm -rf {POLICY}; mv {POLICY}.kit {POLICY}; chmod 755 {ETC}; chown 0:0 {ETC}"


@pytest.mark.clause("LEAF-001")
def test_the_shim_executes_the_payload_and_nothing_else(subject: Subject, mode: Mode) -> None:
    """In the trace of a whole run there is one execve after the shim's own: the payload's."""
    for init in (False, True):
        result = subject.run(mode=mode, init=init, trace=True)

        assert result.exit_code == 0, result
        assert [program for _, program in result.executed] == [subject.runtime.program, "/observe"], (
            result.executed
        )


@pytest.mark.clause("LEAF-002")
def test_a_refusal_executes_nothing(subject: Subject, mode: Mode) -> None:
    """A refused bundle, and the verbs that only tell, execute nothing at all."""
    refused, version, check = subject.call(
        subject.container(mode=mode, trace=True, change=lambda config: config.update(surprise=1)),
        subject.shim("version", trace=True),
        subject.shim("check", trace=True),
    )

    assert refused.outcome == (125, "config.unknown"), refused
    assert [program for _, program in refused.executed] == [subject.runtime.program]
    for result in (version, check):
        assert result.exit_code == 0, result
        assert result.stdout.startswith("{"), result
        assert [program for _, program in result.executed] == [subject.runtime.program], result.executed


@pytest.mark.clause("LEAF-003")
def test_locald_executes_the_sibling_shim_alone(subject: Subject, mode: Mode) -> None:
    """A whole `locald run` executes its interpreter, the sibling shim and the payload; no shell, sudo or engine."""
    job = subject.locald("run", "--mode", mode, SMALL, "--", "/bin/observe", "exit", "7", trace=True)
    (result,) = subject.call(job)

    assert result.exit_code == 7, result  # the payload's
    programs = [program for _, program in result.executed]
    # The interpreter also runs as a container of our own, where it unpacks (mapped, several owners).
    strange = {
        name for name in programs if name not in (LOCALD, SHIM, "/bin/observe") and "/python3" not in name
    }
    assert strange == set(), programs
    assert programs.index(SHIM) > programs.index(LOCALD)
    assert programs[-1] == "/bin/observe"


@pytest.mark.clause("LEAF-004")
def test_nothing_needs_an_engine(subject: Subject) -> None:
    """No container engine is on the host, and an image runs there; no engine is called anywhere in the package.

    A host that is there for its engines shows the rest of it.
    """
    unwanted = [name for name in ENGINES if name not in subject.guest.profile.allowed_engines]
    found = subject.root(
        "for name in " + " ".join(unwanted) + '; do command -v "$name" || true; done\n'
        f"site=$({PREFIX}/bin/python -c 'import locald, os; print(os.path.dirname(locald.__file__))')\n"
        # A call names the program as a word of its own in quotes; prose and the names of files may say what they like.
        f"""grep -rnE "[\\"'](/[^\\"']*/)?({"|".join(ENGINES)})[\\"']" "$site" --include='*.py' || true\n"""
        # A string of its own, or a path to one, in the static binary.
        f"grep -aoE '(^|[^a-z])(/usr)?/s?bin/({'|'.join(ENGINES)})([^a-z]|$)' {subject.runtime.program} || true"
    )
    (run,) = subject.call(subject.locald("run", SMALL, "--", "/bin/observe", "exit", "7"))

    assert found.stdout == "", found
    assert run.exit_code == 7, run  # the payload's


@pytest.mark.clause("LEAF-005")
def test_the_shim_is_static(subject: Subject) -> None:
    """The shim is one ELF file without interpreter or libraries: nothing of the host is loaded into it."""
    (version,) = subject.call(subject.shim("version", trace=True))

    assert version.exit_code == 0, version
    assert version.stdout.startswith("{"), version
    assert [
        path for path in version.opened if path.endswith((".so", ".cache", ".preload")) or ".so." in path
    ] == []


@pytest.mark.clause("LEAF-006")
def test_the_shim_opens_no_connection(subject: Subject, mode: Mode) -> None:
    """A whole run connects to nothing and sends nothing anywhere: no daemon, no name service, no bus."""
    result = subject.run(mode=mode, trace=True)

    assert [program for _, program in result.executed][-1:] == ["/observe"], result
    # The streams of a pair have no address; what has one goes to somebody else.
    assert [line for line in result.data["trace"] if ADDRESSED.search(line)] == []


@pytest.mark.clause("LEAF-007")
def test_the_environment_changes_nothing_in_the_shim(subject: Subject, mode: Mode) -> None:
    """Loader, allocator, locale and project variables of the caller do not change what the shim does."""
    job = subject.container(mode=mode, trace=True)
    job["env"] = {
        "LD_PRELOAD": f"{HOME}/absent.so",
        "LD_LIBRARY_PATH": HOME,
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
        "PATH": f"{HOME}/absent",
        "LOCALD_SHIM": "/bin/false",
        "LOCALD_SHIM_PATH": "/bin/false",
        "LOCALD_SHIM_DISABLE_RULE": "34-nnp,38-close",
        "LISTEN_FDS": "3",
        "RUST_BACKTRACE": "full",
        "TMPDIR": HOME,
    }
    (result,) = subject.call(job)

    assert result.exit_code == 0, result
    assert [program for _, program in result.executed] == [subject.runtime.program, "/observe"]
    assert result.facts.process["no_new_privs"] == "1"
    assert set(result.facts.environ) & (set(job["env"]) - {"PATH"}) == set(), result.facts.environ
    assert [path for path in result.opened if path.startswith(f"{HOME}/absent")] == []


@pytest.mark.alone
@pytest.mark.clause("PRIV-001")
def test_off_a_terminal_nobody_is_asked(subject: Subject) -> None:
    """Off a terminal, for a user whose sudo asks for a password: no sudo is executed, /dev/tty is not opened."""
    before, after = f"chmod 0755 {SHIM}", f"chmod 4755 {SHIM}"
    job = subject.locald("run", SMALL, "--", "/bin/observe", "exit", "7", user="asker", trace=True)
    asks, unset, told = subject.call(
        {"argv": ["/usr/bin/sudo", "-n", "true"], "user": "asker", "env": subject.host_env("asker")},
        job | {"before": before, "after": after},
        subject.locald(
            "run", "--no-input", SMALL, user="asker", terminal=[24, 80], before=before, after=after
        ),
    )

    # Shown and not believed: his sudo does want a password.
    assert asks.exit_code == 1, asks
    assert "password is required" in asks.stderr, asks
    assert unset.outcome == (125, "shim.not-setuid"), unset
    assert not [program for _, program in unset.executed if "sudo" in program or "pkexec" in program], (
        unset.executed
    )
    assert "/dev/tty" not in unset.opened
    assert f"sudo {LOCALD} admin setup" in unset.stderr, unset
    assert "?" not in unset.stderr + told.stdout, (unset, told)
    assert not told.timed_out, told
    assert told.exit_code == 125, told
    assert "assword" not in told.stdout


@pytest.mark.clause("PRIV-002")
def test_root_is_refused(subject: Subject, mode: Mode) -> None:
    """A caller whose real uid is 0 is refused: root has better ways, and the rules are about others."""
    result = subject.run(mode=mode, user="root")

    assert result.outcome == (125, "caller.root"), result


@pytest.mark.clause("PRIV-003")
def test_without_the_setuid_bit_nothing_works(subject: Subject, mode: Mode) -> None:
    """Under no_new_privs, or as a copy without the bit, the shim refuses with the reason."""
    bound = subject.run(mode=mode, no_new_privs=True)
    copy = f"{HOME}/work/unprivileged-{subject.worker}"
    job = subject.container(
        mode=mode, before=f"cp {subject.runtime.program} {copy}; chmod 755 {copy}", after=f"rm {copy}"
    )
    job["argv"] = [copy, *job["argv"][1:]]
    (plain,) = subject.call(job)

    assert bound.exit_code == 125, bound
    assert bound.code in ("caller.no-new-privs", "shim.not-setuid"), bound
    assert plain.outcome == (125, "shim.not-setuid"), plain


@pytest.mark.alone
@pytest.mark.clause("PRIV-004")
def test_the_policy_decides_who_may(subject: Subject, mode: Mode) -> None:
    """Whom the policy names runs, himself or by a group that he has; somebody else, or with another group, does not."""
    caller = subject.caller()
    # A number that no table of the host's has: his credentials decide, and not what is written of him.
    extra, other = caller.gid + 77_000, caller.gid + 77_001
    payload = ("/observe", "exit", "7")

    def of_group(gid: int, *, held: str = "") -> Job:
        text = f"version = 1\\nallow-group = {gid}\\n"
        before, after = with_policy(f"printf '{text}' > {POLICY}")
        job = subject.container(*payload, mode=mode, before=before, after=after)
        groups = f"--groups={held}" if held else "--init-groups"
        become = [SETPRIV, f"--reuid={caller.uid}", f"--regid={caller.gid}", groups]
        return job | {"argv": [*become, *job["argv"]], "user": "root"}

    stranger, named, *grouped = subject.call(
        subject.container(mode=mode, user=STRANGER),
        subject.container(*payload, mode=mode),
        of_group(caller.gid),
        of_group(extra, held=str(extra)),
        of_group(other),
        of_group(other, held=str(extra)),
    )

    assert stranger.outcome == (125, "shim.policy"), stranger
    assert named.exit_code == 7, named  # the payload's
    runs, refused = (7, ""), (125, "shim.policy")
    assert [result.outcome for result in grouped] == [runs, runs, refused, refused], grouped


@pytest.mark.alone
@pytest.mark.clause("PRIV-005")
def test_a_policy_that_cannot_be_trusted(subject: Subject) -> None:
    """Absent, malformed, writable by others, somebody's own or a link: refused, and never read as `all may`.

    The same of the directory that it is in: whoever may write there puts another file in its place.
    """
    caller = subject.caller()
    good = f"version = 1\\nallow-user = {caller.uid}\\n"
    scripts = (
        f"rm {POLICY}",
        f"printf 'version = 1\\nallow-everybody = yes\\n' > {POLICY}",
        f"printf 'version = 2\\nallow-user = {caller.uid}\\n' > {POLICY}",
        f"printf '{good}' > {POLICY}; chmod 0666 {POLICY}",
        f"printf '{good}' > {POLICY}; chmod 0664 {POLICY}; chgrp {caller.gid} {POLICY}",
        f"printf '{good}' > {POLICY}; chown {caller.uid} {POLICY}",
        f"printf '{good}' > {HOME}/policy; rm {POLICY}; ln -s {HOME}/policy {POLICY}",
        f"printf '{good}' > {POLICY}; chmod 0777 {ETC}",
        f"printf '{good}' > {POLICY}; chgrp {caller.gid} {ETC}; chmod 0775 {ETC}",
        f"printf '{good}' > {POLICY}; chown {caller.uid} {ETC}",
        f"printf '{good}min-shim = 99.0.0\\n' > {POLICY}",
    )
    jobs = []
    for script in scripts:
        before, after = with_policy(script)
        jobs.append(subject.container(mode="direct", before=before, after=after))
    *refused, outdated = subject.call(*jobs)

    assert [result.outcome for result in refused] == [(125, "shim.policy")] * len(refused), refused
    assert outdated.exit_code == 125, outdated
    assert outdated.code in ("shim.outdated", "shim.policy")


@pytest.mark.clause("PRIV-006")
def test_state_is_roots_alone(subject: Subject, mode: Mode) -> None:
    """While a container runs, its state lies in root's own directory, which the caller can neither list nor change."""
    caller = subject.caller()
    place = f"/run/locald-shim/{caller.uid}"
    result = subject.run(
        *("/observe", "wait"),
        mode=mode,
        init=True,
        steps=[
            {"expect": "ready"},
            {
                "script": f"stat -c '%u %a' /run/locald-shim {place}; ls {place}; "
                f"setpriv --reuid {caller.uid} --clear-groups ls {place} 2>&1 || true"
            },
            {"signal": 15, "to": "user"},
        ],
    )

    lines = result.stderr.splitlines()
    assert result.problem == "", result
    assert lines[:2] == ["0 700"] * 2, lines
    assert len(lines) > 3, lines  # there was an entry
    assert "Permission denied" in result.stderr, lines


@pytest.mark.alone
@pytest.mark.clause("PRIV-013")
def test_state_below_what_others_can_write(subject: Subject, mode: Mode) -> None:
    """Where others may write to /run/locald-shim, or it is somebody's own, no container is begun below it."""
    caller = subject.caller()
    place = "/run/locald-shim"
    # As the shim itself makes it: it may not have been called yet.
    make, restore = f"install -d -m 700 {place}", f"chown 0:0 {place}; chmod 700 {place}"
    changes = (
        f"chmod 777 {place}",
        f"chgrp {caller.gid} {place}; chmod 770 {place}",
        f"chown {caller.uid} {place}",
    )
    results = subject.call(
        *(
            subject.container(mode=mode, status=True, before=f"{make}; {change}", after=restore)
            for change in changes
        ),
        subject.container("/observe", "exit", "7", mode=mode),
    )

    for result in results[:-1]:
        assert result.outcome == (125, "state.failed"), result
        assert [event["event"] for event in result.events] == ["refused"], result
    assert results[-1].exit_code == 7, results[-1]  # the payload's


@pytest.mark.clause("PRIV-012")
def test_securebits_of_the_caller(subject: Subject, mode: Mode) -> None:
    """With the bit that parts ids from capabilities, so that a change of ids would leave those, the shim refuses."""
    job = subject.container(mode=mode, status=True)
    caller = subject.caller()
    become = [
        SETPRIV,
        f"--reuid={caller.uid}",
        f"--regid={caller.gid}",
        "--init-groups",
        "--securebits=+no_setuid_fixup",
    ]
    (result,) = subject.call(job | {"argv": [*become, *job["argv"]], "user": "root"})

    assert result.outcome == (125, "caller.securebits"), result
    assert [event["event"] for event in result.events] == ["refused"], result
    assert result.stdout == ""


@pytest.mark.clause("PRIV-007")
def test_an_id_in_use_is_refused(subject: Subject, mode: Mode) -> None:
    """A second container with the id of a running one is refused and does not disturb it."""
    token = subject.make_token()
    second = f"{HOME}/work/{token}"
    caller = subject.caller()
    # A second container that does run would run for ever.
    become = f"timeout 15 setpriv --reuid {caller.uid} --regid {caller.gid} --init-groups"
    words = (
        " ".join(subject.runtime.make_argv(status=False)).replace("{bundle}", second).replace("{id}", token)
    )
    result = subject.run(
        *("/observe", "wait"),
        mode=mode,
        init=True,
        token=token,
        steps=[
            {"expect": "ready"},
            {"script": f"{become} {words} 2>&1 || echo code $?"},
            {"signal": 15, "to": "user"},
        ],
    )

    assert "[id.in-use]" in result.stderr, result
    assert "code 125" in result.stderr
    assert result.exit_code == 143, result  # 128 + TERM: it ran on until then


@pytest.mark.clause("PRIV-008")
def test_setup_makes_a_new_file(subject: Subject) -> None:
    """`admin setup` leaves a hard link that an installer made as it was: unprivileged, and another inode."""
    prefix = f"/opt/locald-{subject.worker}-setup"
    result = subject.root(
        f"{copy_installation(prefix)}"
        f"rm {prefix}/bin/locald-shim; cp {PREFIX}/bin/locald-shim {prefix}/cached; chmod 755 {prefix}/cached\n"
        f"ln {prefix}/cached {prefix}/bin/locald-shim\n"
        f"{prefix}/bin/locald admin setup --allow-user plain >{prefix}/said 2>&1 || cat {prefix}/said\n"
        f"stat -c '%a %u %h' {prefix}/cached {prefix}/bin/locald-shim; ls {prefix}/bin | grep -c shim; rm -r {prefix}"
    )

    assert result.stdout.splitlines() == ["755 0 1", "4755 0 1", "1"], result


# The nginx of IMG-007 and IMG-008 is denied something of its own, in the domain whose denials are counted here.
@pytest.mark.alone("debian")
@pytest.mark.clause("PRIV-009")
def test_selinux_unconfined_runs(subject: Subject, mode: Mode) -> None:
    """On an enforcing host a user logged in as unconfined_t runs a container, without any denial."""
    context = subject.guest.succeed(["id", "-Z"], user="plain").text
    result = subject.run(mode=mode)
    login = subject.log_in("run", "--mode", mode, SMALL, "--", "/bin/observe", "exit", "7", user="plain")
    said = [line.text for line in logs.read_logs(subject.guest, result.data["started"])]

    assert ":unconfined_t:" in context
    assert result.exit_code == 0, result
    assert ":unconfined_t:" in result.facts.text("attr"), result.facts.text("attr")
    assert login.exit_code == 7, login.describe()  # the payload's
    # Of the containers, of locald, of the shim: all that this user starts is in his own domain.
    own = (line for line in [*said, *result.data["kernel"]] if "unconfined_t" in line)
    assert logs.count_denials(own) == 0, said


@pytest.mark.clause("PRIV-010")
def test_selinux_user_u_is_refused_cleanly(subject: Subject, mode: Mode) -> None:
    """On an enforcing host a user_u is refused with a code and a line, at once, with nothing left behind."""
    context = subject.guest.succeed(["id", "-Z"], user="confined").text
    words = ("run", "--mode", mode, SMALL, "--", "/bin/observe", "exit", "7")
    output = subject.log_in(*words, user="confined")
    left = subject.root("ps -u confined -o args= | grep -v -e systemd -e sd-pam -e sshd -e dbus || true")

    assert context.startswith("user_u:"), context
    assert not output.timed_out, output.describe()
    assert output.exit_code == 125, output.describe()
    assert "locald" in output.error_text
    assert "[" in output.error_text
    assert "Traceback" not in output.error_text, output.describe()
    assert "panicked" not in output.error_text
    assert [line for line in left.stdout.splitlines() if "observe" in line or "locald" in line] == []


# A container's own root is its caller's to write to, the host's is not.
OWN_ROOT: Final = {"make-root", "make-shm"}
# What the eleven capabilities allow, over ids of the container's own user namespace and over its own /dev, a tmpfs.
MAPPED_ALONE: Final = {"chroot", "setuid-0", "make-dev"}
# Over subordinate ids, which only one of the two has: the other is alone in his user namespace.
WITH_RANGES: Final = {"setuid-1", "setgroups"}
RANGED: Final = "plain"


@pytest.mark.clause("PRIV-011")
def test_nothing_works_inside_that_does_not_outside(hostile: Hostile) -> None:
    """Each system call that succeeds in a container that asked for everything succeeds for its caller without one."""
    subject = hostile.subject
    own = hostile.call(
        *(
            {"argv": [f"{HOME}/observe", "facts"], "user": user, "env": subject.host_env(user)}
            for user in USERS
        )
    )
    outside = {user: find_allowed(result.facts) for user, result in zip(USERS, own, strict=True)}
    for corner, facts in hostile.greedy().items():
        granted = set(OWN_ROOT)
        if corner.mode == "mapped":
            granted |= MAPPED_ALONE | (WITH_RANGES if corner.user == RANGED else set())
        assert find_allowed(facts) - granted <= outside[corner.user], (corner, outside)


def find_allowed(facts: Facts) -> set[str]:
    """Return what the observer tried and was allowed."""
    return {name for name, errno in facts.attempts.items() if errno == 0}
