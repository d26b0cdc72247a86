"""pip, pipx and uv: both programs side by side, the set-up, an upgrade, and the set-up again."""

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from tests.fixtures import TestUser
from tests.integration.installed import INSTALLERS, Installed, fresh_place, make_newer

pytestmark = pytest.mark.root


def is_set_up(shim: Path) -> bool:
    """Tell whether a shim is root's, setuid, and has one name."""
    status = shim.lstat()
    return (status.st_uid, stat.S_IMODE(status.st_mode), status.st_nlink) == (0, 0o4755, 1)


def refusal(result: object) -> str:
    """Return the command that the error of `locald run` ends with."""
    assert getattr(result, "status") == 125  # noqa: B009  # any Result
    first, second = getattr(result, "err").splitlines()[-2:]  # noqa: B009
    assert first.startswith("locald: [shim.not-setuid]: ")
    return str(second.removeprefix("  hint: Run: "))


@pytest.mark.parametrize("tool", sorted(INSTALLERS))
def test_install_set_up_run_upgrade(
    tool: str,
    users: tuple[TestUser, TestUser],
    wheel: Path,
    layouts: Path,
    policy: Path,
    tmp_path: Path,
) -> None:
    """As the README says, for an ordinary user, in both modes; an upgrade asks for the set-up once more."""
    del policy
    user = users[0]
    place = fresh_place(user, tool)
    install = INSTALLERS[tool](user, place)
    image = f"oci:{layouts}/busybox"
    newer = make_newer(wheel, "0.1.1")
    for package, version in ((wheel, "0.1.0"), (newer, "0.1.1")):
        made = install(package)
        assert f"locald {version}\n" in made.locald("version").out
        command = refusal(made.locald("run", image, "--", "true"))
        assert command == f"sudo {made.bin}/locald admin setup"
        links = _names_of(made.shim, place)
        said = made.set_up()
        assert said.status == 0, said
        assert is_set_up(made.shim)
        # uv's cache has the other name of what was installed: it must not become setuid.
        assert not any(path.lstat().st_mode & stat.S_ISUID for path in links if path != made.shim)
        for mode, uid in (("mapped", 0), ("direct", user.uid)):
            result = made.locald("run", "--mode", mode, image, "--", "id", "-u")
            assert (result.status, result.out) == (0, f"{uid}\n"), result
    del tmp_path
    shutil.rmtree(place)


def test_set_up_twice_changes_nothing_else(installed: Installed, policy: Path) -> None:
    """A new inode each time, the policy as it was, one line for each user."""
    before, inode = policy.read_text(), installed.shim.stat().st_ino
    assert installed.set_up().status == 0
    assert policy.read_text() == before
    assert installed.shim.stat().st_ino != inode
    assert is_set_up(installed.shim)


def test_set_up_keeps_what_an_administrator_wrote(installed: Installed, policy: Path) -> None:
    """Comments, groups and limits; a line is added at the end."""
    kept = policy.read_text()
    own = "# ours\nversion = 1\nallow-group = 4\nmax-containers = 7\n"
    try:
        policy.write_text(own)
        assert installed.set_up().status == 0
        assert policy.read_text().startswith(own)
        assert f"allow-user = {installed.user.uid}" in policy.read_text()
    finally:
        policy.write_text(kept)


def test_bind_works_for_an_ordinary_user(installed: Installed, policy: Path) -> None:
    """`admin bind-test` says so; it passes on the shim's line for a port that the policy does not list."""
    port = next(number for number in range(601, 1024) if not is_used(number))
    kept = policy.read_text()
    try:
        policy.write_text(f"{kept}bind-ports = {port}\n")
        works = installed.locald("admin", "bind-test", "--port", str(port))
        assert (works.status, works.err) == (0, ""), works
        assert "works" in works.out
        refused = installed.locald("admin", "bind-test", "--port", "22")
        assert (refused.status, refused.out, refused.err.count("\n")) == (125, "", 1), refused
        assert "[bind.port]" in refused.err
        with socket.create_server(("127.0.0.1", port)):
            assert "[bind.in-use]" in installed.locald("admin", "bind-test", "--port", str(port)).err
        shown = installed.locald("doctor").out
        assert f"ports that can be bound: {port};" in shown, shown
    finally:
        policy.write_text(kept)


def is_used(port: int) -> bool:
    """Say whether something listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_older_shim_is_not_set_up(installed: Installed, policy: Path) -> None:
    """`admin.min-shim`, before anything is touched; users and groups are added by name."""
    kept, inode = policy.read_text(), installed.shim.stat().st_ino
    try:
        policy.write_text("# ours\nversion = 1\nmin-shim = 9.0.0 # future\n")
        result = installed.set_up()
        assert (result.status, "[admin.min-shim]" in result.err) == (125, True), result
        assert installed.shim.stat().st_ino == inode
        lowered = installed.set_up("--lower-min-shim", "--allow-group", installed.user.name)
        assert lowered.status == 0, lowered
        text = policy.read_text()
        assert text.startswith("# ours\nversion = 1\nmin-shim = 0.1.0 # future\n"), text
        assert "allow-group = " in text
        assert "allow-user" not in text
    finally:
        policy.write_text(kept)


def test_older_shims_go_on_working_where_the_administrator_says_so(
    installed: Installed, policy: Path
) -> None:
    """`--no-min-shim` leaves the minimum as it is, none or a lower one; without it the set-up raises it."""
    kept = policy.read_text()
    try:
        for before in ("", "min-shim = 0.0.1\n"):
            policy.write_text(f"# ours\nversion = 1\n{before}")
            result = installed.set_up("--no-min-shim")
            assert result.status == 0, result
            user = f"allow-user = {installed.user.uid}  # {installed.user.name}\n"
            assert policy.read_text() == f"# ours\nversion = 1\n{before}{user}"
        assert installed.set_up().status == 0
        assert "min-shim = 0.1.0\n" in policy.read_text()
    finally:
        policy.write_text(kept)


def test_a_prefix_of_the_users_is_explained(installed: Installed) -> None:
    """Who can change it, what that allows and what not, and where to install on a shared host."""
    *_, said = installed.set_up().out.splitlines()
    assert said.startswith(f"{installed.bin} can be changed by {installed.user.name}: ")
    assert said.endswith("install into a prefix of root's, such as /opt/locald.")


@pytest.mark.parametrize(
    "content", ["version = 2\n", "nonsense\n", "allow-user = 1\n", "version = 1\nother = 1\n"]
)
def test_a_policy_that_nobody_understands_stops_the_set_up(
    installed: Installed, policy: Path, content: str
) -> None:
    """Before anything is touched."""
    kept, inode = policy.read_text(), installed.shim.stat().st_ino
    try:
        policy.write_text(content)
        result = installed.set_up()
        assert (result.status, "[admin.policy]" in result.err) == (125, True)
        assert policy.read_text() == content
        assert installed.shim.stat().st_ino == inode
    finally:
        policy.write_text(kept)


def test_an_ordinary_user_is_told_the_command(installed: Installed) -> None:
    """`admin setup` without root changes nothing."""
    result = installed.locald("admin", "setup")
    assert result.status == 125
    assert "[admin.not-root]" in result.err
    assert f"sudo {installed.bin}/locald admin setup" in result.err


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("not-setuid", "shim.not-setuid"),
        ("owner", "shim.owner"),
        ("writable", "shim.writable"),
        ("linked", "shim.linked"),
        ("absent", "shim.missing"),
        ("symlink", "shim.missing"),
        ("fifo", "shim.missing"),
        ("directory", "shim.missing"),
    ],
)
def test_a_sibling_that_is_not_in_order_is_refused(
    installed: Installed, layouts: Path, users: tuple[TestUser, TestUser], fault: str, code: str
) -> None:
    """Each with its own code, whatever PATH, cwd and argv[0] offer instead; the set-up mends what it can."""
    shim, aside = installed.shim, installed.shim.with_name("aside")
    shutil.copy2(shim, aside)
    try:
        if fault == "not-setuid":
            shim.chmod(0o755)
        elif fault == "owner":
            os.chown(shim, users[0].uid, users[0].gid)
            shim.chmod(0o4755)
        elif fault == "writable":
            shim.chmod(0o4775)
        elif fault == "linked":
            os.link(shim, shim.with_name("second"))
        else:
            shim.unlink()
            if fault == "symlink":
                shim.symlink_to(aside)
            elif fault == "fifo":
                os.mkfifo(shim)
            elif fault == "directory":
                shim.mkdir()
        env = {"PATH": f"{installed.bin}:/usr/bin:/bin"}
        result = installed.locald("run", f"oci:{layouts}/busybox", "--", "true", env=env)
        assert result.status == 125
        assert f"[{code}]" in result.err
    finally:
        installed.shim.with_name("second").unlink(missing_ok=True)
        if fault == "directory":
            shim.rmdir()
        shim.unlink(missing_ok=True)
        os.rename(aside, shim)
        assert installed.set_up().status == 0


def _names_of(path: Path, place: Path) -> list[Path]:
    inode = path.stat().st_ino
    return [
        Path(directory, name)
        for directory, _, names in os.walk(place)
        for name in names
        if os.lstat(Path(directory, name)).st_ino == inode
    ]
