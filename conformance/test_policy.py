"""POLICY: root's file decides, is told as it is, and is edited so that an administrator's words stay."""

import pytest

from conformance.runtimes import find_modes
from conformance.subject import STRANGER, Result, Subject, copy_installation
from conformance.test_setuid import POLICY, with_policy

# The policy is one file for everybody.
pytestmark = pytest.mark.alone


@pytest.mark.clause("POLICY-001")
def test_only_listed_modes_run(subject: Subject) -> None:
    """With `modes = direct` a mapped container is refused, a direct one runs; with `none` neither does."""
    caller = subject.caller()
    results = []
    for modes in ("direct", "mapped", "none"):
        text = f"version = 1\\nallow-user = {caller.uid}\\nmodes = {modes}\\n"
        before, after = with_policy(f"printf '{text}' > {POLICY}")
        payload = ("/observe", "exit", "7")
        results += subject.call(
            subject.container(*payload, mode="mapped", before=before, after=after),
            subject.container(*payload, mode="direct", before=before, after=after),
        )

    runs, refused = (7, ""), (125, "policy.mode")
    assert [result.outcome for result in results[:2]] == [refused, runs], results
    # Where the host can have it; with what it is refused elsewhere HOST-001 says.
    if "mapped" in find_modes(subject.guest.profile.traits):
        assert results[2].outcome == runs, results[2]
    assert [result.outcome for result in results[3:]] == [refused] * 3, results


@pytest.mark.clause("POLICY-002")
def test_check_tells_what_holds(subject: Subject) -> None:
    """The defaults where the file is silent, and every key where it is not; a stranger is told no more than no."""
    caller = subject.caller()
    least = f"version = 1\\nallow-user = {caller.uid}\\n"
    full = (
        f"{least}modes = direct\\nbind-ports = 8443 80\\nbind-addresses = ::1 0.0.0.0\\n"
        "max-containers = 5\\nmin-shim = 0.0.1\\n"
    )
    answers = []
    for text in (least, full):
        before, after = with_policy(f"printf '{text}' > {POLICY}")
        result, stranger = subject.call(
            subject.shim("check", before=before, after=after),
            subject.shim("check", user=STRANGER, before=before, after=after),
        )
        assert (result.exit_code, result.stdout != "") == (0, True), result
        assert result.answer["policy"] == {"allowed": True, "code": None, "why": None}, result
        answers.append(result.answer["effective"])
        told = stranger.answer
        assert (told["policy"]["allowed"], told["policy"]["code"]) == (False, "shim.policy"), stranger
        assert not told.get("effective"), stranger

    assert answers[0] == {
        "modes": ["mapped", "direct"],
        "bind-ports": [80, 443],
        "bind-addresses": ["127.0.0.1", "::1"],
        "max-containers": 256,
        "min-shim": None,
    }
    assert answers[1] == {
        "modes": ["direct"],
        "bind-ports": [8443, 80],
        "bind-addresses": ["::1", "0.0.0.0"],  # noqa: S104  # an administrator may
        "max-containers": 5,
        "min-shim": "0.0.1",
    }


@pytest.mark.clause("POLICY-003")
def test_a_fault_lets_nobody_in(subject: Subject) -> None:
    """Each fault is told with its line, and none is read as something near it."""
    caller = subject.caller()
    faults = (
        "bind-ports = 80-90",
        "bind-ports = 0",
        "bind-ports =",
        "bind-addresses = localhost",
        "bind-addresses = ::1%lo",
        "modes = mapped direct everything",
        "modes = mapped mapped",
        "max-containers = unlimited",
        "min-shim = latest",
        "ports = 80",
    )
    jobs = []
    for fault in faults:
        text = f"version = 1\\nallow-user = {caller.uid}\\n{fault}\\n".replace("%", "%%")
        before, after = with_policy(f"printf '{text}' > {POLICY}")
        jobs.append(subject.container(mode="direct", before=before, after=after))
    for fault, result in zip(faults, subject.call(*jobs), strict=True):
        assert result.outcome == (125, "shim.policy"), (fault, result)
        assert "line 3: " in result.stderr, (fault, result)


def set_up(subject: Subject, policy: str, *options: str) -> Result:
    """Set up a copy of the installation under a policy; show the policy after it, and after a second time."""
    prefix = f"/opt/locald-{subject.make_token()}"
    command = f"{prefix}/bin/locald admin setup {' '.join(options)}"
    before, after = with_policy(f"printf '{policy}' > {POLICY}")
    return subject.root(
        # Whichever line fails, or is cut off: what is left would be there for every test that comes later.
        f"trap '[ ! -e {POLICY}.kit ] || {{ {after}; }}; rm -rf {prefix}' EXIT; trap 'exit 1' HUP INT TERM\n"
        f"{copy_installation(prefix)}"
        f"rm {prefix}/bin/locald-shim; cp /opt/locald/bin/locald-shim {prefix}/bin/locald-shim\n"
        f"chmod 755 {prefix}/bin/locald-shim\n"
        f"{before}\n{command} >{prefix}/said 2>&1 || true\ncat {POLICY}; echo ---\n"
        f"{command} >{prefix}/said 2>&1 || true\ncat {POLICY}; echo ---\n"
        f"cat {prefix}/said; stat -c 'mode %a' {prefix}/bin/locald-shim"
    )


@pytest.mark.clause("POLICY-004")
def test_setup_adds_and_keeps(subject: Subject) -> None:
    """A user, a group and the minimum; comments, order and what else there is stay; a second run changes nothing."""
    caller = subject.caller()
    own = "# ours\\nversion=1\\nmin-shim = 0.0.1 # once\\nbind-ports = 80 8443\\n"
    result = set_up(subject, own, "--allow-user", "plain", "--allow-group", "plain")
    first, second, rest = result.stdout.split("---\n")

    version = subject.call(subject.shim("version"))[0].answer["version"]
    kept = f"# ours\nversion=1\nmin-shim = {version} # once\nbind-ports = 80 8443\n"
    added = f"allow-user = {caller.uid}  # plain\nallow-group = {caller.gid}  # plain\n"
    assert first == kept + added, result
    assert second == first, result
    assert "mode 4755" in rest, result


@pytest.mark.clause("POLICY-005")
def test_setup_refuses_what_it_should_not_touch(subject: Subject) -> None:
    """Before anything is changed: the policy is as it was, and the shim beside it not setuid."""
    for text, code in (
        ("version = 1\\nmin-shim = 99.0.0\\n", "admin.min-shim"),
        ("version = 1\\nmode = direct\\n", "admin.policy"),
        ("version = 1\\nbind-ports = 80 80\\n", "admin.policy"),
    ):
        result = set_up(subject, text, "--allow-user", "plain")
        first, second, rest = result.stdout.split("---\n")
        assert first == second == text.replace("\\n", "\n"), result
        assert f"[{code}]" in rest, result
        assert "mode 755" in rest, result
