"""HOST: hosts that take something away from the product, and hosts that it has to refuse."""

from typing import Final

import pytest

from conformance.runtimes import MODES
from conformance.subject import HOME, PREFIX, Subject

SMALL: Final = f"oci:{HOME}/images/small"
SEVEN: Final = ("--", "/bin/observe", "exit", "7")


def expected_code(subject: Subject) -> str:
    """Return how mapped mode is refused here: by a security module or by the limit."""
    return "host.userns-denied" if "apparmor" in subject.guest.profile.traits else "host.userns-limit"


@pytest.mark.clause("HOST-001")
def test_mapped_mode_is_refused_with_its_reason(subject: Subject) -> None:
    """With and without subordinate ids, with and without init; one line, and the status descriptor says the same."""
    results = subject.call(
        *(
            subject.container("/observe", "exit", "7", mode="mapped", user=user, init=init, status=True)
            for user in ("plain", "bare")
            for init in (False, True)
        )
    )

    for result in results:
        assert result.outcome == (125, expected_code(subject)), result
        assert len(result.stderr.splitlines()) == 1, result
        assert [(event["event"], event["code"]) for event in result.events] == [
            ("refused", expected_code(subject))
        ], result.events
        assert (result.leftover, result.new_mounts, result.new_files) == ([], [], []), result


@pytest.mark.clause("HOST-002")
def test_locald_takes_direct_mode_and_says_so(subject: Subject) -> None:
    """Without --mode the payload runs and a line says in which mode and why; --mode mapped is refused, with a hint."""
    left, forced = subject.call(
        subject.locald("run", "--no-input", SMALL, *SEVEN),
        subject.locald("run", "--no-input", "--mode", "mapped", SMALL, *SEVEN),
    )

    assert left.exit_code == 7, left
    assert "running in direct mode: " in left.stderr, left
    assert forced.outcome == (125, expected_code(subject)), forced
    assert "--mode direct" in forced.stderr, forced


@pytest.mark.clause("HOST-003")
def test_check_and_doctor_name_it(subject: Subject) -> None:
    """`check` has mapped mode with its code and direct mode as allowed; doctor warns and says what mends it."""
    check, doctor = subject.call(subject.shim("check"), subject.locald("doctor", "--json"))
    modes = check.answer["modes"]
    (userns,) = (entry for entry in doctor.answer if entry["id"] == "host.userns")

    assert modes["direct"]["allowed"] is True, modes
    assert (modes["mapped"]["allowed"], modes["mapped"]["code"]) == (False, expected_code(subject)), modes
    assert userns["status"] == "warn", userns
    assert modes["mapped"]["why"] in userns["found"], userns
    assert "Direct mode runs without." in userns["mend"], userns


@pytest.mark.clause("HOST-004")
def test_a_home_mounted_nosuid(subject: Subject) -> None:
    """A shim in a home is refused, with where to install; setup gives it no bit; the one in /opt binds from there."""
    caller = subject.caller()
    home = f"/home/plain/{subject.make_token()}"
    prefix = f"{home}/locald"
    shim = f"{prefix}/bin/locald-shim"
    before = (
        f"install -d -o {caller.uid} -g {caller.gid} {home} {home}/data; cp -a {PREFIX} {prefix}; "
        f"sed -i '1s|{PREFIX}|{prefix}|' {prefix}/bin/locald"
    )
    touch = ("--", "/bin/observe", "touch", "/data/made")
    setuid, setup, volume = subject.call(
        subject.locald("run", "--no-input", SMALL, *SEVEN, prefix=prefix, before=before, trace=True),
        subject.locald(
            *("admin", "setup", "--allow-user", "plain"),
            user="root",
            prefix=prefix,
            before=f"chmod 0755 {shim}",
            after=f"stat -c %a {shim}",
        ),
        subject.locald(
            *("run", "--no-input", "-v", f"{home}/data:/data", SMALL, *touch),
            after=f"stat -c %u:%g {home}/data/made || true; rm -r {home}",
        ),
    )

    assert setuid.outcome == (125, "shim.nosuid"), setuid
    assert "/opt/locald" in setuid.stderr, setuid
    assert not [program for _, program in setuid.executed if "shim" in program], setuid.executed
    assert setup.outcome == (125, "admin.place"), setup
    assert setup.after.strip() == "755", setup
    assert volume.stdout == "touch 0\n", volume
    assert volume.after.strip() == f"{caller.uid}:{caller.gid}", volume


@pytest.mark.clause("HOST-005")
def test_hidden_processes(subject: Subject) -> None:
    """The caller stops, continues and ends what he cannot look up; another user sees none of it."""
    bare = subject.caller("bare")
    look = (
        f"setpriv --reuid {bare.uid} --regid {bare.gid} --clear-groups stat -c %u /proc/[0-9]* 2>/dev/null"
        " | sort -u; test -e /proc/$SUBJECT && echo seen-by-root"
    )
    for mode in MODES:
        result = subject.run(
            *("/observe", "wait"),
            mode=mode,
            init=True,
            steps=[
                {"expect": "ready"},
                {"script": look},
                {"signal": 20, "to": "user"},
                {"expect_stopped": True},
                {"signal": 18, "to": "user"},
                {"expect_stopped": False},
                {"signal": 15, "to": "user"},
            ],
        )

        assert result.problem == "", result
        assert result.exit_code == 143, result
        assert [line for line in result.stderr.splitlines() if line.isdigit()] == [str(bare.uid)], result
        assert "seen-by-root" in result.stderr, result
        assert result.leftover == [], result


@pytest.mark.clause("HOST-006")
def test_an_old_kernel_is_refused(subject: Subject) -> None:
    """In both modes, with one line that names the version, and nothing was begun."""
    results = subject.call(
        *(
            subject.container("/observe", "exit", "7", mode=mode, user=user, status=True)
            for mode in MODES
            for user in ("plain", "bare")
        )
    )

    for result in results:
        assert result.outcome == (125, "host.kernel-old"), result
        assert len(result.stderr.splitlines()) == 1, result
        assert "5.12" in result.stderr, result
        assert [(event["event"], event["code"]) for event in result.events] == [
            ("refused", "host.kernel-old")
        ]
        assert (result.leftover, result.new_mounts, result.new_files) == ([], [], []), result


@pytest.mark.clause("HOST-007")
def test_an_old_kernel_is_told(subject: Subject) -> None:
    """`check` and `version` answer as anywhere; both modes have the code and the reason."""
    check, version = subject.call(subject.shim("check"), subject.shim("version"))
    told = check.answer

    assert (check.exit_code, version.exit_code) == (0, 0), (check, version)
    for mode in MODES:
        assert told["modes"][mode]["allowed"] is False, told
        assert told["modes"][mode]["code"] == "host.kernel-old", told
        assert "5.12" in told["modes"][mode]["why"], told
    assert version.answer["protocol"] == told["protocol"]
