"""The few system calls that Python 3.11 has no name for. For root children of the tests only."""

import ctypes
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

SYS_KEYCTL = 250
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_REMOUNT = 1, 2, 8, 32
MS_BIND, MS_REC, MS_UNBINDABLE, MS_PRIVATE = 0x1000, 0x4000, 0x2_0000, 0x4_0000

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for new ones."""
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), f"unshare({flags:#x})")


def mount(
    source: str, target: str | os.PathLike[str], kind: str = "", flags: int = 0, data: str = ""
) -> None:
    """Mount, remount or bind."""
    path = os.fsencode(target)
    if _libc.mount(os.fsencode(source), path, kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} on {path!r}")


def detach(target: Path) -> None:
    """Take a mount away with all below it: umount2(2) with MNT_DETACH."""
    if _libc.umount2(os.fsencode(target), 2) != 0:
        raise OSError(ctypes.get_errno(), f"umount2 {target}")


def rename_interface(name: bytes, new: bytes) -> None:
    """Give a network interface that is down another name: SIOCSIFNAME of netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8923, name.ljust(16, b"\0") + new.ljust(16, b"\0"))


def private_mounts() -> None:
    """Give this process a mount namespace of its own, out of which nothing propagates."""
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def prctl(option: int, *arguments: int) -> int:
    """Change an attribute of this process, or ask for one that is returned."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    result: int = _libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
    return result


def bind_over(content: str | bytes, target: str, holder: Path) -> Callable[[], None]:
    """Return a step for `Call.prepare`: for that call, a file of `content` lies over `target`."""
    holder.write_bytes(content if isinstance(content, bytes) else content.encode())

    def step() -> None:
        private_mounts()
        mount(str(holder), target, "", MS_BIND)

    return step


def join_session_keyring() -> None:
    """Give this process a new session keyring: keyctl(2) KEYCTL_JOIN_SESSION_KEYRING."""
    if _libc.syscall(SYS_KEYCTL, 1, None) < 0:
        raise OSError(ctypes.get_errno(), "KEYCTL_JOIN_SESSION_KEYRING")


def session_keyring() -> int:
    """Return the number of this process's session keyring: keyctl(2) KEYCTL_GET_KEYRING_ID."""
    number: int = _libc.syscall(SYS_KEYCTL, 0, -3, 0)
    if number < 0:
        raise OSError(ctypes.get_errno(), "KEYCTL_GET_KEYRING_ID")
    return number


def attach(pid: int) -> str:
    """Try to trace a process with PTRACE_ATTACH; return the name of the error, or nothing."""
    if _libc.ptrace(16, pid, None, None) == 0:
        return ""
    return errno.errorcode[ctypes.get_errno()]


def set_personality(persona: int) -> None:
    """Change the execution domain of this process."""
    if _libc.personality(ctypes.c_ulong(persona)) == -1:
        raise OSError(ctypes.get_errno(), f"personality({persona:#x})")


def install_allow_all_filter() -> None:
    """Put a seccomp filter in force that allows everything; root may do so without no_new_privs."""

    class Filter(ctypes.Structure):
        _fields_ = (
            ("code", ctypes.c_ushort),
            ("jt", ctypes.c_ubyte),
            ("jf", ctypes.c_ubyte),
            ("k", ctypes.c_uint),
        )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter)))

    allow = Filter(0x06, 0, 0, 0x7FFF_0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    program = Program(1, ctypes.pointer(allow))
    if _libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), 0, 0) != 0:  # PR_SET_SECCOMP, MODE_FILTER
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def exchange(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> None:
    """Swap two names in one step: renameat2(2) with RENAME_EXCHANGE."""
    at_cwd, rename_exchange = -100, 2
    if _libc.renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), rename_exchange) != 0:
        raise OSError(ctypes.get_errno(), f"renameat2 {first} {second}")
