"""Where locald is and works: mounts on which a setuid program means nothing, and hosts of another shape.

The places are real, each in a mount namespace that ends with the command. Network file systems proper are judged
by their type at the boundary of statfs(2) (tests/unit/test_admin.py, shim/src/install.rs): their servers decide who
owns a file, exactly as a FUSE program does.
"""

import ast
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.integration.installed import PATH, Installed, Result

pytestmark = pytest.mark.root
LIMIT_S = 60
SETPRIV = "/usr/bin/setpriv"
# PLACE is the whole virtual environment: what lies in it is copied, so that every path stays what it was.
NOSUID_TMPFS = """
copy=$(mktemp -d) && cp -a PLACE/. "$copy" && mount -t tmpfs -o nosuid,mode=755,size=512m none PLACE
cp -a "$copy/." PLACE && rm -r "$copy"
"""
NOSUID_BIND = "mount --bind PLACE PLACE && mount -o remount,bind,nosuid PLACE"
# All that could be held against it is that a program serves it: setuid bits count, and everybody may use it.
FUSE = "copy=$(mktemp -d) && mount --bind PLACE $copy && bindfs -o suid,dev,allow_other,nonempty $copy PLACE"


def run_at(installed: Installed, place: str, *words: str, as_root: bool) -> Result:
    """Run a program where `place` has changed the mount of the installation, for it alone."""
    user = installed.user
    change = place.replace("PLACE", shlex.quote(str(installed.bin.parent)))
    identity = [SETPRIV, f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    command = shlex.join([*([] if as_root else identity), *words])
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "SUDO_UID": str(user.uid)}
    environment["HOME"] = "/root" if as_root else str(user.home)
    # A mount of FUSE ends with its program: in a pid namespace both end with the command.
    apart = ("/usr/bin/unshare", "--mount", "--propagation=private", "--pid", "--mount-proc", "--kill-child")
    done = subprocess.run(
        [*apart, "/bin/sh", "-ec", f"{change}\n{command}; exit $?"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd="/",
    )
    return Result(done.returncode, done.stdout, done.stderr)


def names_of(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and mode of each file: what a refusal leaves as it was."""
    return {entry.name: (entry.stat().st_ino, entry.stat().st_mode) for entry in os.scandir(directory)}


@pytest.mark.parametrize(
    ("place", "why"),
    [
        pytest.param(NOSUID_TMPFS, "its file system is mounted nosuid", id="nosuid-tmpfs"),
        pytest.param(NOSUID_BIND, "its file system is mounted nosuid", id="nosuid-bind"),
        pytest.param(FUSE, "its file system is fuse", id="fuse"),
    ],
)
def test_setup_refuses_and_says_where_instead(installed: Installed, place: str, why: str) -> None:
    """`admin.place`, the mend, and nothing was touched."""
    before = names_of(installed.bin)
    result = run_at(installed, place, f"{installed.bin}/locald", "admin", "setup", as_root=True)
    assert result.status == 125, result
    first, second = result.err.splitlines()
    assert first.startswith(f"locald: [admin.place]: {installed.shim} cannot become setuid there: {why}")
    assert second.startswith(
        "  hint: Install locald on a local file system without nosuid, such as /opt/locald"
    )
    assert names_of(installed.bin) == before


@pytest.mark.parametrize(
    ("place", "code"),
    [
        pytest.param(NOSUID_TMPFS, "install.nosuid", id="nosuid-tmpfs"),
        pytest.param(FUSE, "install.network-fs", id="fuse"),
    ],
)
def test_the_shim_refuses_by_itself(installed: Installed, place: str, code: str) -> None:
    """Whoever calls `install` without locald gets the same answer."""
    result = run_at(installed, place, str(installed.shim), "install", as_root=True)
    assert result.status == 125, result
    (line,) = result.err.splitlines()
    assert line.startswith(f"locald-shim: refused [{code}]: ")
    assert "/opt/locald" in line


@pytest.mark.parametrize("place", [NOSUID_TMPFS, NOSUID_BIND], ids=["tmpfs", "bind"])
def test_a_shim_on_nosuid_is_named_before_it_is_called(
    installed: Installed, layouts: Path, place: str
) -> None:
    """`run` and `doctor`, for the user: the code, and where to install instead."""
    command = (f"{installed.bin}/locald", "run", f"oci:{layouts}/busybox", "--", "true")
    result = run_at(installed, place, *command, as_root=False)
    assert result.status == 125, result
    first, second = result.err.splitlines()
    assert first.startswith("locald: [shim.nosuid]: ")
    assert "/opt/locald" in second
    doctor = run_at(installed, place, f"{installed.bin}/locald", "doctor", as_root=False)
    assert doctor.status == 1
    assert "shim.nosuid" in doctor.out


def test_the_shim_itself_knows_that_it_has_no_effect(installed: Installed) -> None:
    """`check` is an answer, not a failure; `bundle run` refuses."""
    check = run_at(installed, NOSUID_BIND, str(installed.shim), "check", as_root=False)
    assert check.status == 0, check
    assert '"setuid":false' in check.out
    words = ("bundle", "run", "--bundle", "/nowhere", "--id", "x")
    refused = run_at(installed, NOSUID_BIND, str(installed.shim), *words, as_root=False)
    assert refused.status == 125
    (line,) = refused.err.splitlines()
    assert line.startswith("locald-shim: refused [")


def test_on_an_ordinary_mount_of_its_own_all_is_well(installed: Installed, layouts: Path) -> None:
    """The control: what these tests change is the mount's flags and nothing else."""
    plain = "mount --bind PLACE PLACE"
    command = (f"{installed.bin}/locald", "run", f"oci:{layouts}/busybox", "--", "true")
    assert run_at(installed, plain, *command, as_root=False).status == 0
    assert run_at(installed, plain, f"{installed.bin}/locald", "admin", "setup", as_root=True).status == 0


# The image is unpacked by a helper, which sees of the host what it needs.
UNBINDABLE = """
mount -t tmpfs -o mode=755 none /mnt && mount --make-unbindable /mnt
mkdir /mnt/below && mount -t tmpfs -o mode=755 none /mnt/below && mount --make-unbindable /mnt/below
"""
# As where /home is a link, and the home lies below an unbindable mount that is not locald's matter.
ELSEWHERE = """
mount -t tmpfs -o mode=755 none /mnt && mkdir -p /mnt/real && chown USER /mnt/real && ln -s real /mnt/home
"""


@pytest.mark.parametrize("place", [UNBINDABLE, ELSEWHERE], ids=["unbindable", "linked"])
def test_several_owners_are_unpacked_on_any_host(installed: Installed, layouts: Path, place: str) -> None:
    """With a mount that cannot be bound somewhere, with a store that links lead to; `volumes` are copied alike."""
    data = f"{installed.user.home}/data-{os.getpid()}" if place is UNBINDABLE else "/mnt/home/data"
    command = [
        "/usr/bin/env",
        f"XDG_DATA_HOME={data}",
        f"XDG_CACHE_HOME={data}/cache",
        f"{installed.bin}/locald",
    ]
    stat = ("stat", "-c", "%u:%g", "/srv/nobody", "/srv/www")
    try:
        changed = place.replace("USER", str(installed.user.uid))
        result = run_at(
            installed, changed, *command, "run", f"oci:{layouts}/owners", "--", *stat, as_root=False
        )
        assert (result.status, result.out.split()) == (0, ["65534:65534", "33:33"]), result
    finally:
        subprocess.run(["/bin/rm", "-rf", data], check=True)


STORE_IN_UNBINDABLE = "mount -t tmpfs -o mode=777 none /mnt && mount --make-unbindable /mnt"


@pytest.mark.parametrize(
    ("image", "said"), [("owners", "locald: [helper.failed]: "), ("busybox", "locald-shim: failed ")]
)
def test_a_store_in_an_unbindable_mount_names_it(
    installed: Installed, layouts: Path, image: str, said: str
) -> None:
    """Nothing can run there; the user learns which mount it is and what mends it."""
    command = [
        "/usr/bin/env",
        "XDG_DATA_HOME=/mnt/data",
        "XDG_CACHE_HOME=/mnt/cache",
        f"{installed.bin}/locald",
    ]
    result = run_at(
        installed, STORE_IN_UNBINDABLE, *command, "run", f"oci:{layouts}/{image}", "--", "true", as_root=False
    )
    assert result.status == 125, result
    assert said in result.err
    assert "[mount.unbindable]: /mnt/" in result.err
    assert "mount --make-private" in result.err.splitlines()[-1]


# What a helper says of where it is: the root directory, what it may write to, and one of the host's own directories.
LOOK = """
import os, sys
sys.stdout.write(repr((sorted(os.listdir("/")), os.path.exists("/etc/passwd"), os.access(sys.argv[1], os.W_OK),
    os.access(sys.prefix, os.W_OK), os.getuid(), sorted(os.listdir("/sys/class/net")))))
"""
HELP = """
import sys
from locald import helper, runtime, shim, spec
from locald.bundle import make_bundle
from locald.deadline import Deadline
from locald.process import capture
program, place, look = sys.argv[1:]
made = make_bundle(place)
argv = [sys.executable, "-c", look, place]
helper.write_bundle(made.path, argv, caller=spec.Caller(*map(int, CALLER)), readable=[], writable=[place])
try:
    command = [program, "bundle", "run", "--bundle", made.path, "--id", "x"]
    sys.stdout.buffer.write(capture(command, deadline=Deadline.after(seconds=60)).checked())
finally:
    made.remove(runtime.make_remover(program))
"""


def test_a_helper_sees_no_more_than_it_needs(installed: Installed) -> None:
    """Neither the host's accounts nor its network; nothing that it could write to, but where it works."""
    user = installed.user
    place = f"{user.home}/helper-{os.getpid()}"
    script = HELP.replace("CALLER", repr((user.uid, user.gid)))
    words = [f"{installed.bin}/python", "-c", script, str(installed.shim), place, LOOK]
    try:
        result = run_at(installed, "true", *words, as_root=False)
    finally:
        subprocess.run(["/bin/rm", "-rf", place], check=True)
    assert result.status == 0, result
    names, accounts, writable, installation, uid, links = ast.literal_eval(result.out)
    top = user.home.parts[1]
    assert set(names) <= {"dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sys", "usr", top}, names
    assert (accounts, writable, installation, uid, links) == (False, True, False, 0, ["lo"])
