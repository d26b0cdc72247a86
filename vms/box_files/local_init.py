# ruff: noqa: INP001, S603, T201 -- a program of its own, in no package: it may start and print
"""Process 1 of the `local` profile's pid namespace: makes the private view, then reaps.

Started by `vms.local` as a script of its own, in mount, pid, ipc, uts and network namespaces that
are new, so everything it mounts is gone with its last process. Argument 1 is a JSON object with
overlays, fresh, users, make_users (a script of /bin/sh), search; it prints `ready` when commands may enter.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

STAGE = "/mnt"
"""Covered by a tmpfs for as long as the overlays are being made."""


def run(*command: str) -> str:
    """Run a command that has to work and return its output."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"local: exit code {done.returncode}: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def cover(overlays: list[str], fresh: list[str]) -> None:
    """Make the directories of the profile private, keeping owner and mode of what they cover."""
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "vms", STAGE)
    # Not every machine has a /srv.
    for number, directory in enumerate(filter(os.path.isdir, overlays)):
        upper, work = (Path(STAGE, str(number), name) for name in ("upper", "work"))
        for path in (upper, work):
            path.mkdir(parents=True)
        status = Path(directory).stat()
        upper.chmod(status.st_mode & 0o7777)
        os.chown(upper, status.st_uid, status.st_gid)
        layers = f"lowerdir={directory},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", layers, "vms", directory)
    # The overlays hold their upper directories by themselves.
    run("umount", STAGE)
    for directory in filter(os.path.isdir, fresh):
        mode = Path(directory).stat().st_mode & 0o7777
        run("mount", "-t", "tmpfs", "-o", f"mode={mode:04o}", "vms", directory)


def main() -> None:
    """Set up, say so, and collect every orphan until killed."""
    plan = json.loads(sys.argv[1])
    os.umask(0o022)
    os.chdir("/")
    run("ip", "link", "set", "lo", "up")
    cover(plan["overlays"], plan["fresh"])
    run("/bin/sh", "-c", plan["make_users"], "make-users.sh", *plan["users"])
    # What other tests of this machine need stays installed and cannot be run from in here: a
    # device node is neither a regular file nor executable.
    for engine in run(*plan["search"]).splitlines():
        # On a machine at work one may have gone since; what came since is found when engines are proven absent.
        if os.path.lexists(engine):
            run("mount", "--bind", "/dev/null", engine)
    # Blocked before anything can end in here, so no end is missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    print("ready", flush=True)
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


main()
