"""What a guest promises, on each kind of machine: `local` by root, a virtual one by marker `vm`.

ci/nox -s vms      # builds the box if need be; minutes, not seconds
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import vms
from vms.deadline import Deadline

ROOT = Path(__file__).parents[3]
VIRTUAL = "debian12-selinux"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("local", marks=pytest.mark.root),
        pytest.param(VIRTUAL, marks=pytest.mark.vm),
    ],
)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vms.Guest]:
    """Bring a machine up for all tests of this file, and take it away."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "local":
            # Another run's `local` is left alone; a box is too dear to be built for a test.
            patch.setenv("LOCALD_VMS_HOME", str(tmp_path_factory.mktemp("home")))
        with vms.booted(request.param) as up:
            yield up


def test_the_profile_is_in_force(guest: vms.Guest) -> None:
    """Each fact, with its evidence in the message if not."""
    proof = vms.prove(guest)

    assert proof.in_force, proof.missing


def test_an_engine_that_appears_is_found(guest: vms.Guest) -> None:
    """Off $PATH as well; and the proof holds again without it."""
    guest.succeed(["install", "-D", "-m", "755", "/bin/true", "/opt/deep/inside/runc"], user="root")

    missing = vms.prove(guest).missing

    assert [piece.stdout for piece in missing] == ["/opt/deep/inside/runc"]
    guest.succeed(["rm", "/opt/deep/inside/runc"], user="root")


@pytest.mark.root
def test_a_tree_below_what_the_sandbox_covers() -> None:
    """A clone in /home or /tmp, which `local` covers, brings it up all the same: its files are read before."""
    with tempfile.TemporaryDirectory(dir="/tmp") as clone:
        shutil.copytree(ROOT / "vms", Path(clone, "vms"))
        for verb in ("up", "destroy"):
            subprocess.run(
                [sys.executable, "-m", "vms", verb, "local"],
                cwd=clone,
                env={"PATH": os.environ["PATH"], "LOCALD_VMS_HOME": f"{clone}/home"},
                timeout=120,
                check=True,
            )


@pytest.mark.parametrize("code", [0, 1, 125, 255])
def test_exit_codes(guest: vms.Guest, code: int) -> None:
    """255 is the command's, not ssh's."""
    assert guest.run(["sh", "-c", f"exit {code}"]).exit_code == code


def test_bytes_in_and_out(guest: vms.Guest) -> None:
    """Arguments, environment, stdin and both streams."""
    output = guest.run(
        ["sh", "-c", 'printf %s "$1$V"; cat; echo no >&2; kill -9 $$', "sh", b"\xff"],
        env={"V": b"\xfe '"},
        stdin=b"\0in",
    )

    assert (output.stdout, output.stderr, output.exit_code) == (b"\xff\xfe '\0in", b"no\n", 137)


def test_users_are_who_they_are(guest: vms.Guest) -> None:
    """Each in his home, with his groups only, and root is root."""
    for name in guest.profile.users:
        user = guest.user(name)
        output = guest.succeed(["sh", "-c", "id -u; id -G; pwd; umask"], user=name)
        assert output.text.split() == [str(user.uid), str(user.gid), user.home, "0022"]
    assert guest.succeed(["id", "-u"], user="root").text == "0"


def test_sudo_of_asker_wants_a_password(guest: vms.Guest) -> None:
    """And has no terminal to ask at, so it fails rather than hangs."""
    output = guest.fail(["sudo", "true"], user="asker", deadline=Deadline.after(30))

    assert "password" in output.error_text
    guest.succeed(["sudo", "-S", "true"], user="asker", stdin=b"asker\n")


def test_a_terminal_when_asked_for(guest: vms.Guest) -> None:
    """A controlling one; without asking there is none."""
    check = ["sh", "-c", "test -t 0 && echo here > /dev/tty; exit 3"]

    assert guest.run(check, terminal=True).stdout == b"here\r\n"
    assert guest.run(check).stdout == b""
    assert guest.run(check, terminal=True).exit_code == 3


def test_a_trace_follows_a_setuid_program(guest: vms.Guest) -> None:
    """What LEAF claims rest on: root traces, the command has its privilege all the same."""
    command = ["strace", "-u", "asker", "-f", "-qq", "-e", "trace=execve,execveat"]

    output = guest.succeed([*command, "sudo", "-S", "id", "-u"], user="root", stdin=b"asker\n")

    assert output.text == "0"
    assert output.stderr.count(b"execve(") >= 2


def test_a_hanging_command_is_ended_in_the_guest(guest: vms.Guest) -> None:
    """With what it started; the guest itself is fine."""
    start = time.monotonic()

    output = guest.run(["sh", "-c", "sleep 4321 & sleep 4321"], deadline=Deadline.after(2))

    assert output.timed_out
    assert time.monotonic() - start < 25
    assert guest.run(["pgrep", "-fx", "sleep 4321"], user="root").exit_code == 1


def test_files_travel(guest: vms.Guest, tmp_path: Path) -> None:
    """Bytes, files with a mode, directories with links."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(100_000))
    (tmp_path / "tree/link").symlink_to("file")

    guest.push(tmp_path / "tree", "/home/plain/tree", user="plain")
    guest.push(b"secret", "/root/secret", mode=0o600)

    assert guest.pull("/home/plain/tree/link", user="plain") == (tmp_path / "tree/file").read_bytes()
    assert guest.succeed(["stat", "-c", "%a %U", "/root/secret"], user="root").text == "600 root"


def test_it_reaches_nobody(guest: vms.Guest) -> None:
    """Loopback is all there is, so a test can depend on nothing outside."""
    assert guest.run(["curl", "-sm", "5", "http://192.0.2.1/"]).exit_code in (7, 28)


def test_a_second_handle_sees_the_same_machine(guest: vms.Guest) -> None:
    """Every xdist worker has one."""
    guest.push(b"x", "/home/plain/seen", user="plain")

    assert vms.connect(guest.profile.name).pull("/home/plain/seen", user="plain") == b"x"


@pytest.mark.vm
def test_revert_forgets_and_sets_the_clock(guest: vms.Guest) -> None:
    """A clean machine again, in seconds."""
    if not isinstance(guest, vms.Revertible):
        assert guest.profile.kind == "local"
        return
    guest.save()
    guest.succeed(["touch", "/home/plain/later"])
    asked_at = time.time()

    guest.revert()

    assert guest.run(["test", "-e", "/home/plain/later"]).exit_code == 1
    # Behind by what it took to tell it, which nobody bounds; after it was asked to revert.
    assert asked_at <= float(guest.succeed(["date", "+%s.%N"]).text) <= time.time() + 1


@pytest.mark.root
def test_ending_the_controller_leaves_nothing(tmp_path: Path) -> None:
    """TERM at any moment: no process, no mount, no account."""
    script = (
        "import vms, time\nwith vms.booted('local') as guest:\n"
        "    print('up', flush=True)\n    guest.run(['sleep', '4322'])\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"LOCALD_VMS_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGTERM)
    child.wait(timeout=30)

    left = subprocess.run(["/usr/bin/pgrep", "-fx", "sleep 4322"], check=False, capture_output=True)
    assert left.stdout == b""
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
