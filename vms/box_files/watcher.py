# ruff: noqa: INP001 -- a program of its own, in no package
"""Watch what a profile rests on, and write a line for every change:  watcher.py LOG PATH...

Runs in the guest as root with the standard library of Python 3.9 and nothing else. Of a file it sees each write, by
inotify, also one that is taken back a moment later, and whether it reads otherwise than at the start. (inotify is said
not to work on /proc: it does not see what the kernel changes by itself, but it sees what programs write. The file is
kept open, since procfs otherwise forgets the inode that is watched and makes another for the next program.) Of a
directory it sees the options that it is mounted with, whenever a mount changes and each second.
"""

import ctypes
import os
import select
import struct
import sys
import time

IN_MODIFY = 0x2
EVENT = struct.Struct("iIII")
EVERY_MS = 1000


def read(path: str) -> str:
    """Return the content of a file, or how a directory is mounted."""
    if not os.path.isdir(path):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError as error:
            # Such as a file that can only be written: its writes are seen all the same.
            return error.strerror or "cannot be read"
    options = "no mount"
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[4] == path:
                options = f"{fields[5]} {fields[-1]}"
    return options


def main() -> None:
    """Watch until killed."""
    place, *paths = sys.argv[1:]
    log = open(place, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 -- until the end of the process

    def tell(line: str) -> None:
        log.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    libc = ctypes.CDLL(None, use_errno=True)
    events = libc.inotify_init1(os.O_CLOEXEC)
    names, held = {}, []
    for path in paths:
        if os.path.isdir(path):
            continue
        held.append(os.open(path, os.O_PATH))
        number = libc.inotify_add_watch(events, path.encode(), IN_MODIFY)
        if number < 0:
            raise OSError(ctypes.get_errno(), f"inotify_add_watch {path}")
        names[number] = path
    known = {path: read(path) for path in paths}
    mounts = os.open("/proc/self/mountinfo", os.O_RDONLY)
    poll = select.poll()
    poll.register(events, select.POLLIN)
    # The kernel raises these two when a mount comes, goes or changes.
    poll.register(mounts, select.POLLERR | select.POLLPRI)
    log.write("watching\n")
    while True:
        ready = dict(poll.poll(EVERY_MS))
        if events in ready:
            data, at = os.read(events, 65536), 0
            while at < len(data):
                number, _, _, length = EVENT.unpack_from(data, at)
                at += EVENT.size + length
                tell(f"{names.get(number, 'something')} was written")
        for path in paths:
            now = read(path)
            if now != known[path]:
                tell(f"{path} changed from {known[path]!r} to {now!r}")
                known[path] = now


main()
