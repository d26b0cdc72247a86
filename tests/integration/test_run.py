"""`locald run` as an ordinary user, with the installed setuid shim: statuses, signals, terminals, what is left."""

import fcntl
import json
import os
import re
import signal
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fixtures import TestUser
from tests.integration.installed import Installed, as_user

pytestmark = pytest.mark.root
WAIT_S = 20
MODES = ("mapped", "direct")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until something holds; fail with its name."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, f"in vain: {what}"
        time.sleep(0.02)


@pytest.fixture
def image(layouts: Path) -> str:
    """A small image of one owner."""
    return f"oci:{layouts}/busybox"


@pytest.fixture(autouse=True)
def _nothing_is_left(installed: Installed) -> Iterator[None]:
    """Whatever a test does: no bundle stays."""
    yield
    left = list(installed.bundles.iterdir()) if installed.bundles.exists() else []
    assert left == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "exit 125"), 125),
        (("/etc/passwd",), 126),
        (("no-such-program",), 127),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("sh", "-c", "kill -TERM $$"), 143),
    ],
)
def test_the_exit_status_is_the_commands(
    installed: Installed, image: str, mode: str, words: tuple[str, ...], status: int
) -> None:
    """Its own, 126 or 127 where it cannot be executed, 128+N for a signal."""
    assert installed.locald("run", "--mode", mode, image, "--", *words).status == status


def test_stdin_is_empty_unless_asked_for(installed: Installed, image: str) -> None:
    """And stdout and stderr stay apart; bytes are bytes."""
    data = bytes(range(256))
    assert installed.locald("run", image, "--", "cat", data=data).out == ""
    echoed = installed.locald("run", "-i", image, "--", "cat", data=data)
    assert echoed.out.encode(errors="surrogateescape") == data
    apart = installed.locald("run", image, "--", "sh", "-c", "echo a; echo b >&2")
    assert (apart.out, apart.err) == ("a\n", "b\n")


def test_nothing_of_the_hosts_environment_leaks_in(installed: Installed, image: str) -> None:
    """But what the user names."""
    env = {"SECRET": "x", "LD_PRELOAD": "/nothing", "WANTED": "w"}
    result = installed.locald("run", "-e", "WANTED", "-e", "A=b", image, "--", "/bin/env", env=env)
    names = {line.partition("=")[0] for line in result.out.splitlines()}
    assert names == {"PATH", "HOME", "WANTED", "A"}


def test_variables_of_a_file(installed: Installed, image: str) -> None:
    """As they stand there, from here where only a name does; `-e` has the last word. No file is one clear line."""
    variables = installed.user.home / f"variables-{os.getpid()}"
    variables.write_bytes(b'# ours\n\nA=one\r\nQUOTED="as it is" $HOME\nWANTED\nUNSET\nB=file\n')
    try:
        words = ("run", "--env-file", str(variables), "-e", "B=option", image, "--", "/bin/env")
        result = installed.locald(*words, env={"WANTED": "w"})
    finally:
        variables.unlink()
    said = set(result.out.splitlines()) - {"HOME=/root"}
    assert {line for line in said if not line.startswith("PATH=")} == {
        "A=one",
        'QUOTED="as it is" $HOME',
        "WANTED=w",
        "B=option",
    }, result
    missing = installed.locald("run", "--env-file", str(variables), image, "--", "true")
    assert (missing.status, "[run.env-file]" in missing.err) == (125, True)


@pytest.mark.parametrize("mode", MODES)
def test_the_command_is_process_1_only_without_the_init(installed: Installed, image: str, mode: str) -> None:
    """`--no-init` makes it so; else process 1 is a stage of the shim, and the command its child."""
    script = "echo $$; cat /proc/1/comm; true"
    words = ("--mode", mode, image, "--", "sh", "-c", script)
    alone = installed.locald("run", "--no-init", *words)
    assert (alone.status, alone.out) == (0, "1\nsh\n"), alone
    below = installed.locald("run", *words)
    number, name = below.out.splitlines()
    assert (below.status, number) == (0, "2"), below
    assert name != "sh"


def test_files_of_etc_are_there(installed: Installed, image: str) -> None:
    """The host's with its network, the container's own without one."""
    shared = installed.locald("run", image, "--", "cat", "/etc/resolv.conf", "/etc/hostname")
    assert shared.out == Path("/etc/resolv.conf").read_text() + os.uname().nodename + "\n"
    alone = installed.locald(
        "run", "--network", "none", "--name", "box", image, "--", "sh", "-c", "hostname; cat /etc/hosts"
    )
    assert alone.out.splitlines()[0] == "box"
    assert "127.0.0.1\tbox" in alone.out


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_into_a_volume_is_the_callers(
    installed: Installed, layouts: Path, tmp_path: Path, mode: str
) -> None:
    """By root and by another user of the image alike; `ro` cannot be written."""
    volume = installed.user.home / f"volume-{os.getpid()}-{mode}"
    volume.mkdir()
    os.chown(volume, installed.user.uid, installed.user.gid)
    del tmp_path
    try:
        for number, name in enumerate(("busybox", "owners")):
            words = (
                "run",
                "--mode",
                mode,
                "-v",
                f"{volume}:/v",
                f"oci:{layouts}/{name}",
                "--",
                "touch",
                f"/v/{number}",
            )
            result = installed.locald(*words)
            assert result.status == 0, result
            status = (volume / str(number)).stat()
            assert (status.st_uid, status.st_gid) == (installed.user.uid, installed.user.gid)
        words = (
            "run",
            "--mode",
            mode,
            "-v",
            f"{volume}:/v:ro",
            f"oci:{layouts}/busybox",
            "--",
            "touch",
            "/v/x",
        )
        assert installed.locald(*words).status == 1
    finally:
        subprocess.run(["/bin/rm", "-r", str(volume)], check=True)


def test_owners_and_users_are_the_images(installed: Installed, layouts: Path) -> None:
    """In mapped mode several owners show as they are, whoever runs."""
    image = f"oci:{layouts}/owners"
    listing = installed.locald(
        "run", image, "--", "stat", "-c", "%u:%g", "/srv/nobody", "/srv/www", "/srv/opaque"
    )
    assert listing.out.split() == ["65534:65534", "33:33", "999:998"], listing
    assert installed.locald("run", "-u", "app", image, "--", "id", "-u").out == "999\n"
    assert installed.locald("run", "-u", "0", image, "--", "id", "-u").out == "0\n"


def test_what_a_container_leaves_of_other_ids_goes_away(installed: Installed, layouts: Path) -> None:
    """Closed directories of subordinate ids, which the user alone could not remove."""
    script = "mkdir -p /x/y; touch /x/y/z; chown -R 7:7 /x; chmod 0 /x/y /x"
    result = installed.locald("run", "-u", "0", f"oci:{layouts}/owners", "--", "sh", "-c", script)
    assert result.status == 0, result


def test_without_subordinate_ids_the_mode_is_direct_and_it_says_so(
    installed: Installed, users: tuple[TestUser, TestUser], layouts: Path
) -> None:
    """And a mode that was asked for is not exchanged for another."""
    other = Installed(users[1], installed.bin)
    image = f"oci:{layouts}/owners"
    result = other.locald("run", image, "--", "id", "-u")
    assert (result.status, result.out) == (0, f"{other.user.uid}\n")
    assert "running in direct mode" in result.err
    refused = other.locald("run", "--mode", "mapped", image, "--", "true")
    assert (refused.status, "[subids.missing]" in refused.err) == (125, True)
    unmappable = other.locald("run", "-u", "33", image, "--", "true")
    assert (unmappable.status, "[user.unmappable]" in unmappable.err) == (125, True)


def test_in_direct_mode_the_caller_has_a_name(installed: Installed, image: str) -> None:
    """In the container's passwd and group."""
    result = installed.locald("run", "--mode", "direct", image, "--", "id")
    name, uid = installed.user.name, installed.user.uid
    assert f"uid={uid}({name})" in result.out
    assert f"gid={installed.user.gid}({name})" in result.out


def test_a_read_only_root_is_read_only(installed: Installed, image: str) -> None:
    """And a working directory that is missing is made all the same."""
    result = installed.locald(
        "run", "--read-only", "-w", "/new/dir", image, "--", "sh", "-c", "pwd; touch /x"
    )
    assert (result.status, result.out) == (1, "/new/dir\n")


def running(installed: Installed, image: str, *words: str, script: str) -> "subprocess.Popen[bytes]":
    """Start a container and wait until its script says that it runs."""
    started = installed.start("run", *words, image, "--", "sh", "-c", f"{script}")
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_locald_ends_the_container(installed: Installed, image: str, number: int) -> None:
    """Forwarded, and its status is 128 and the signal; the bundle goes."""
    # tail says it, once it is executed: until then busybox' shell ignores QUIT, and what comes so early is lost.
    with running(installed, image, script="echo ready > /said; exec tail -f /said") as started:
        started.send_signal(number)
        assert started.wait(WAIT_S) == 128 + number


def test_a_signal_that_the_command_handles_is_its_own_business(installed: Installed, image: str) -> None:
    """The status is the command's."""
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    with running(installed, image, script=script) as started:
        started.terminate()
        assert started.wait(WAIT_S) == 42


def test_after_sigkill_the_next_start_tidies_up(installed: Installed, image: str) -> None:
    """The container of a dead `locald` is ended, its bundle removed."""
    with running(installed, image, script="echo ready; exec sleep 3217") as started:
        started.kill()
        started.wait(WAIT_S)
        assert len(list(installed.bundles.iterdir())) == 1
        assert installed.locald("run", image, "--", "true").status == 0
        wait_until(lambda: not _processes("sleep 3217"), "the orphan has gone")


def test_killing_the_shim_ends_everything(installed: Installed, image: str) -> None:
    """137, no process, no bundle."""
    with running(installed, image, script="echo ready; exec sleep 3218") as started:
        (shim,) = (pid for pid in _processes("bundle run") if _parent(pid) == started.pid)
        os.kill(shim, signal.SIGKILL)
        assert started.wait(WAIT_S) == 137
        wait_until(lambda: not _processes("sleep 3218"), "the payload has gone")


def test_a_full_disk_is_one_clear_line(installed: Installed, image: str, tmp_path: Path) -> None:
    """Nothing is started and nothing stays."""
    place = installed.user.home / f"small-{os.getpid()}"
    place.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=256k,mode=777", "none", str(place)], check=True)
    del tmp_path
    try:
        result = installed.locald("run", image, "--", "true", env={"XDG_CACHE_HOME": str(place)})
        assert result.status == 125
        assert len(result.err.splitlines()) == 2, result.err
        assert result.err.startswith(("locald: [store.full]", "locald: [run.bundle]"))
        assert list((place / "locald/bundles").iterdir()) == []
    finally:
        subprocess.run(["/bin/umount", str(place)], check=True)
        place.rmdir()


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("run", "-t", "IMAGE", "--", "true"), 125, "run.no-terminal"),
        (("run", "-v", "/no/such:/x", "IMAGE"), 125, "run.volume"),
        (("run", "-v", "/etc:/etc/passwd", "IMAGE"), 125, "run.volume"),
        (("run", "-v", "/etc/passwd:/etc", "IMAGE"), 125, "run.volume"),
        (("run", "-v", "/etc:/etc/..", "IMAGE"), 125, "run.volume"),
        (("run", "-u", "nobody-here", "IMAGE", "--", "true"), 125, "user.unknown"),
        (("run", "-w", "etc", "IMAGE", "--", "true"), 125, "run.workdir"),
        (("run", "--name", "A B", "IMAGE", "--", "true"), 2, "usage"),
        (("run", "oci:/no/such", "--", "true"), 125, "image.not-found"),
        (("rmi", "no.such/image"), 125, "image.not-found"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    installed: Installed, image: str, words: tuple[str, ...], status: int, code: str
) -> None:
    """A line with a stable code, a line that mends."""
    result = installed.locald(*(image if word == "IMAGE" else word for word in words))
    assert result.status == status
    first, second = result.err.splitlines()
    assert first.startswith(f"locald: [{code}]: ")
    assert second.startswith("  hint: ")


def test_a_wrong_command_line_is_2(installed: Installed) -> None:
    """With words from click."""
    result = installed.locald("run", "--no-such-option", "image")
    assert (result.status, "No such option" in result.err) == (2, True)


def test_an_image_is_listed_and_removed(installed: Installed, layouts: Path) -> None:
    """A table for people, JSON for programs; the last name of an image takes its layers and trees along."""
    place = installed.user.home / f"data-{os.getpid()}"
    env = {"XDG_DATA_HOME": str(place)}
    name = f"oci:{layouts}/owners"
    try:
        place.mkdir()
        os.chown(place, installed.user.uid, installed.user.gid)
        assert installed.locald("images", env=env).out == "IMAGE  ID  SIZE  PULLED\n"
        # A run, so that there are trees as well, with files of subordinate ids.
        assert installed.locald("run", name, "--", "true", env=env).status == 0
        (image,) = json.loads(installed.locald("images", "--json", env=env).out)
        assert (image["reference"], image["platform"]) == (name, "linux/amd64")
        head, row = installed.locald("images", env=env).out.splitlines()
        assert head.split() == ["IMAGE", "ID", "SIZE", "PULLED"]
        pulled = time.strftime("%Y-%m-%d %H:%M", time.localtime(image["pulled_at_s"]))
        size = f"{image['size_bytes'] / 1e6:.1f}"
        number = image["id"].removeprefix("sha256:")[:12]
        assert row.split() == [name, number, size, "MB", *pulled.split()]
        # A column begins where its head does.
        assert head.index("ID") == row.index(number)
        assert head.index("PULLED") == row.index(pulled)
        store = place / "locald/store"
        assert [*store.glob("trees/*"), *store.glob("blobs/sha256/*")] != []
        removed = installed.locald("rmi", name, env=env)
        assert (removed.status, removed.err) == (0, ""), removed
        assert re.fullmatch(rf"removed {re.escape(name)} \({size} MB\)\n", removed.out)
        assert [*store.glob("trees/*"), *store.glob("blobs/sha256/*"), *store.glob("tmp/*")] == []
        assert json.loads(installed.locald("images", "--json", env=env).out) == []
        assert "[image.not-found]" in installed.locald("rmi", name, env=env).err
    finally:
        subprocess.run(["/bin/rm", "-rf", str(place)], check=True)


def test_doctor_is_content(installed: Installed) -> None:
    """Where everything was set up; --json has the same checks, each with its mend."""
    result = installed.locald("doctor")
    assert result.status == 0, result
    lines = [line.split() for line in result.out.splitlines() if not line.startswith(" ")]
    assert {line[0] for line in lines} <= {"ok", "warn"}
    parsed = installed.locald("doctor", "--json")
    assert (parsed.status, parsed.err) == (0, "")
    checks = json.loads(parsed.out)
    assert [[check["status"], check["id"]] for check in checks] == [line[:2] for line in lines]
    assert all(set(check) == {"id", "status", "found", "mend"} for check in checks)
    assert all(check["found"] and (check["mend"] or check["status"] == "ok") for check in checks)
    assert {"shim.file", "host.lsm", "host.userns", "cgroup.cpu", "store.images"} <= {c["id"] for c in checks}


def test_doctor_of_a_host_without_a_policy_fails(installed: Installed, policy: Path) -> None:
    """Exit 1, and the check that fails names the mend; in --json as well."""
    kept = policy.read_text()
    policy.unlink()
    try:
        result = installed.locald("doctor", "--json")
    finally:
        policy.write_text(kept)
    failed = [check for check in json.loads(result.out) if check["status"] == "fail"]
    assert (result.status, [check["id"] for check in failed]) == (1, ["shim.policy"])
    assert failed[0]["mend"] == f"Run: sudo {installed.bin}/locald admin setup"


# --- at a terminal -----------------------------------------------------------------------------------


class Terminal:
    """A pty that is the controlling terminal of `locald`, and this test at its other end."""

    def __init__(self, installed: Installed, *words: str) -> None:
        self.master, slave = os.openpty()
        os.fchown(slave, installed.user.uid, installed.user.gid)
        self.resize(lines=24, columns=80)
        self.process = subprocess.Popen(  # type: ignore[call-overload]
            [str(installed.bin / "locald"), *words],
            **as_user(installed.user, {"TERM": "xterm"}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  # one ioctl, and no threads here
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.seen = b""

    def resize(self, *, lines: int, columns: int) -> None:
        """Change the size, as a window does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Send keys."""
        os.write(self.master, keys)

    def expect(self, text: bytes) -> None:
        """Wait until the screen shows a text, and forget what came before it."""

        def arrived() -> bool:
            with suppress(OSError):
                self.seen += os.read(self.master, 4096)
            return text in self.seen

        wait_until(arrived, f"{text!r} in {self.seen!r}")
        self.seen = self.seen.partition(text)[2]

    def end(self) -> int:
        """Wait for the end; return the status."""
        status = int(self.process.wait(WAIT_S))
        os.close(self.master)
        return status


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_reaches_the_command(installed: Installed, image: str) -> None:
    """Without -t the terminal itself signals the group, once."""
    terminal = Terminal(installed, "run", image, "--", "sh", "-c", "echo ready; exec sleep 60")
    terminal.expect(b"ready")
    terminal.type(b"\x03")
    assert terminal.end() == 130


def test_ctrl_z_without_a_shell_that_could_go_on_changes_nothing(installed: Installed, image: str) -> None:
    """A session's first program is stopped by no key: what would continue it? Of a shell's job: test_tmux.py."""
    terminal = Terminal(installed, "run", image, "--", "sh", "-c", "echo ready; sleep 0.3; echo done; exit 5")
    terminal.expect(b"ready")
    terminal.type(b"\x1a")
    terminal.expect(b"done")
    assert terminal.end() == 5


def test_an_interactive_shell_has_a_terminal_of_its_own(installed: Installed, image: str) -> None:
    """Its size follows the window; Ctrl-C ends what runs in it and not the shell."""
    terminal = Terminal(installed, "run", "-it", image, "--", "sh")
    terminal.type(b"tty; stty size; echo one$((1))\n")
    terminal.expect(b"/dev/")
    terminal.expect(b"24 80")
    terminal.expect(b"one1")
    terminal.resize(lines=40, columns=100)
    os.kill(terminal.process.pid, signal.SIGWINCH)
    time.sleep(0.2)
    terminal.type(b"stty size; sleep 60\n")
    terminal.expect(b"40 100")
    time.sleep(0.3)
    terminal.type(b"\x03")
    terminal.type(b"echo two$((2)); exit 3\n")
    terminal.expect(b"two2")
    assert terminal.end() == 3


def _processes(words: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                line = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if words.encode() in line:
                found.append(int(name))
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_shim_of_the_tests_is_the_real_one(installed: Installed) -> None:
    """Setuid and root's: nothing here ran against a stand-in."""
    status = installed.shim.stat()
    assert (status.st_uid, status.st_mode & stat.S_ISUID) == (0, stat.S_ISUID)
