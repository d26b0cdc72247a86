"""The checks of a host: stable ids, a status each, a mend wherever it is not well."""

import os
from pathlib import Path

import pytest

from locald import doctor, shim
from locald.errors.shim import ShimError, ShimNotSetuid, ShimOutdated, ShimPolicyDenied
from locald.host import Host

FINE = shim.Mode(allowed=True, code=None, why=None)
DENIED = shim.Mode(allowed=False, code="host.userns-limit", why="none are left")
POLICY = shim.Policy(["mapped", "direct"], [80, 443], ["127.0.0.1", "::1"], 256, None)
NO_CGROUP = shim.Mode(allowed=False, code="resources.delegation", why="no cgroup is yours")
LIMITS = {"memory": FINE, "pids": NO_CGROUP, "cpu": FINE}
HOST = Host(1000, 1000, "ann", "/nowhere", "machine", b"", b"")


def abilities(**changed: object) -> shim.Abilities:
    """Return what a host in good order allows, changed where a test says so."""
    known = {"kernel": "6.1", "mapped": FINE, "direct": FINE, "subordinate_uids": 65536}
    known |= {"subordinate_gids": 65536, "cgroup": "unified", "policy": POLICY, "limits": LIMITS, **changed}
    return shim.Abilities(**known)  # type: ignore[arg-type]


@pytest.fixture
def _set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shim in good order and places of the user's own."""
    monkeypatch.setattr(shim, "find_installation", lambda: shim.Installation("/b/locald", "/b/locald-shim"))
    monkeypatch.setattr(shim, "find_shim", lambda installation: installation.shim)
    monkeypatch.setattr(shim, "ask_abilities", lambda _installation: abilities())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.usefixtures("_set_up")
def test_the_ids_are_stable_and_every_fault_has_a_mend() -> None:
    """Tests, --json and the manual use them."""
    checks = list(doctor.run_checks(HOST))
    assert [check.id for check in checks] == [
        "shim.file",
        "shim.protocol",
        "shim.policy",
        "policy.modes",
        "policy.bind",
        "policy.containers",
        "policy.version",
        "host.kernel",
        "host.userns",
        "host.direct",
        "subids.uid",
        "subids.gid",
        "cgroup.layout",
        "cgroup.memory",
        "cgroup.pids",
        "cgroup.cpu",
        "host.lsm",
        "store.images",
        "store.bundles",
    ]
    assert all(check.mend for check in checks if check.status != "ok")
    assert not [check for check in checks if check.status == "fail"]


@pytest.mark.usefixtures("_set_up")
@pytest.mark.parametrize("error", [ShimNotSetuid, ShimPolicyDenied, ShimOutdated])
def test_a_shim_that_cannot_be_used_fails_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, error: type[ShimError]
) -> None:
    """And what can be seen without it is still looked at."""

    def refuse(_installation: shim.Installation) -> shim.Abilities:
        raise error.mended_by_setup("no.", ["sudo", "/b/locald", "admin", "setup"])

    step = "find_shim" if error is ShimNotSetuid else "ask_abilities"
    monkeypatch.setattr(shim, step, refuse)
    checks = list(doctor.run_checks(HOST))
    (failed,) = (check for check in checks if check.status == "fail")
    assert failed.mend == "Run: sudo /b/locald admin setup"
    assert {"host.kernel", "store.images"} <= {check.id for check in checks}


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("5.12.0", "ok"),
        ("6.18.44-x", "ok"),
        ("5.10.0-30-amd64", "fail"),
        ("4.19", "fail"),
        ("odd", "warn"),
        ("6.1-rc1", "ok"),
    ],
)
def test_kernels_are_told_apart(release: str, status: str) -> None:
    """5.12 is the least."""
    assert doctor.check_kernel(release).status == status


def test_one_mode_is_enough_and_none_is_not() -> None:
    """Mapped denied is a warning while direct works."""
    statuses = {check.id: check.status for check in doctor.check_modes(abilities(mapped=DENIED))}
    assert statuses == {"host.userns": "warn", "host.direct": "ok"}
    statuses = {
        check.id: check.status for check in doctor.check_modes(abilities(mapped=DENIED, direct=DENIED))
    }
    assert statuses["host.direct"] == "fail"


def test_a_kernel_that_is_too_old_is_what_is_to_be_mended() -> None:
    """In the words of `check` on Debian 11: neither mode is offered in the place of the other."""
    old = shim.Mode(allowed=False, code="host.kernel-old", why="this kernel is older than 5.12")
    checks = {check.id: check for check in doctor.check_modes(abilities(mapped=old, direct=old))}

    assert checks["host.direct"].status == "fail"
    assert "5.12" in checks["host.userns"].found
    assert checks["host.userns"].mend == "Upgrade to Linux 5.12 or newer."
    assert doctor.check_kernel("5.10.0-35-cloud-amd64").status == "fail"


def test_few_subordinate_ids_are_a_warning() -> None:
    """With the command that grants them."""
    checks = list(doctor.check_subordinate_ids(abilities(subordinate_uids=0), "ann"))
    assert [check.status for check in checks] == ["warn", "ok"]
    assert "usermod --add-subuids" in checks[0].mend


@pytest.mark.parametrize(
    ("flags", "free", "status"), [(0, 1 << 31, "ok"), (0, 5, "warn"), (os.ST_NOEXEC, 1 << 31, "fail")]
)
def test_places_must_have_room_and_allow_execution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: int, free: int, status: str
) -> None:
    """Containers run from there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not/yet"))
    facts = os.statvfs_result((1, 1, free, free, free, 0, 0, 0, flags, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: facts)
    assert {check.status for check in doctor.check_places(HOST)} == {status}


def test_places_must_be_the_callers_to_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever room they have; each is named as it would be, the right is that of what is there already."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    closed = str(tmp_path / "data")
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (closed, os.W_OK | os.X_OK))
    facts = os.statvfs_result((1, 1, 1 << 31, 1 << 31, 1 << 31, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: facts)
    images, bundles = doctor.check_places(HOST)
    assert (images.id, images.status) == ("store.images", "fail")
    assert images.found == f"{closed}/locald cannot be written"
    assert "XDG_DATA_HOME" in images.mend
    assert bundles.status == "ok"


SELINUX = "lockdown,capability,yama,selinux,bpf"


@pytest.mark.parametrize(
    ("modules", "domain", "enforce", "status", "found"),
    [
        (
            SELINUX,
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
            "1",
            "ok",
            "you are unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023; SELinux is enforcing",
        ),
        (
            SELINUX,
            "user_u:user_r:user_t:s0",
            "1",
            "warn",
            "you are user_u:user_r:user_t:s0; SELinux is enforcing",
        ),
        (SELINUX, "staff_u:staff_r:staff_t:s0", "1", "warn", "SELinux is enforcing"),
        # Permissive: the kernel writes down what it would deny, and denies nothing.
        (
            SELINUX,
            "user_u:user_r:user_t:s0",
            "0",
            "ok",
            "you are user_u:user_r:user_t:s0; SELinux is not enforcing",
        ),
        (SELINUX, "root:unconfined_r:unconfined_t:s0", "1", "ok", "SELinux is enforcing"),
        (SELINUX, "system_u:system_r:init_t:s0", "1", "ok", "SELinux is enforcing"),
        (
            "lockdown,capability,yama,apparmor",
            "unconfined",
            None,
            "ok",
            "you are unconfined; SELinux is not enforcing",
        ),
        (
            None,
            None,
            None,
            "ok",
            "unknown (securityfs is not mounted); you are unconfined; SELinux is not enforcing",
        ),
    ],
)
def test_a_confined_login_on_an_enforcing_host_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    modules: str | None,
    domain: str | None,
    enforce: str | None,
    status: str,
    found: str,
) -> None:
    """Its policy may not let it run the shim; elsewhere the modules and the domain are only told."""
    # As the kernel writes them: with a NUL or a line end, or not at all.
    files = {
        "/sys/kernel/security/lsm": modules,
        "/proc/self/attr/current": domain and f"{domain}\0\n",
        "/sys/fs/selinux/enforce": enforce,
    }
    monkeypatch.setattr(doctor, "_read", lambda path: files[path] or "")
    check = doctor.check_lsm()
    assert (check.id, check.status) == ("host.lsm", status)
    assert check.found.startswith(modules or "unknown")
    assert check.found.endswith(found)
    assert ("semanage login" in check.mend) == (status == "warn")


def test_the_policy_is_told_in_words() -> None:
    """Every key of it that a user can meet; no mode at all is worth a warning."""
    told = {check.id: check.found for check in doctor.check_policy(POLICY)}
    assert told == {
        "policy.modes": "the policy allows mapped and direct mode",
        "policy.bind": "ports that can be bound: 80, 443; addresses: 127.0.0.1, ::1",
        "policy.containers": "256 containers at a time",
        "policy.version": "the policy takes a shim of any version",
    }
    tight = list(doctor.check_policy(shim.Policy([], [], [], 1, "0.2.0")))
    assert [check.status for check in tight] == ["warn", "ok", "ok", "ok"]
    assert "from version 0.2.0 on" in tight[3].found
