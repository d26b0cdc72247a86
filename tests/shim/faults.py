"""Which calls may fail without the container being refused, each with its reason: reviewed, complete, and used.

A call that is not here has to end in a refusal. Patterns are of `PROCESS CALL`: the shim itself is 0, its first
child 0.0; with an init stage that one stays PID 1 and the payload comes of 0.0.0; 0.1 is a terminal's relay.
"""

from fnmatch import fnmatchcase

from tests.shim.tracer import Boundary, Outcome

# They have nothing to return to.
NEVER_RETURNS = frozenset({"exit", "exit_group", "rt_sigreturn"})

# The payload is exactly what it is without the fault.
HARMLESS = {
    # Before anything is read.
    "0 mprotect": "makes what the loader relocated read-only: hardening of our own memory, nothing depends on it",
    "0 fcntl:GETFD": "a stream counts as closed and /dev/null takes its number, if it is free",
    "0 openat2 .": "the caller's directory: a relative bundle would be refused",
    "0 setitimer": "execve keeps the caller's timers: a signal from one ends his own call",
    "0 rt_sigaction": "each signal's action: what the caller ignored stays so, which he may ask for anyway",
    "* umask": "umask(2) cannot fail; what is made for the container has explicit modes",
    "0 prctl:PDEATHSIG": "execve of a set-user-id program has cleared it",
    "0 prctl:CHILD_SUBREAPER": "a subreaper would inherit processes that the pid namespace ends anyway",
    "0 prctl:26": "PR_SET_TSC: without the time stamp counter only the payload would be slower to ask",
    "0 prctl:29": "PR_SET_TIMERSLACK",
    "0 personality": "execve of a set-user-id program has cleared the bits that matter",
    "0 prlimit64": "raising a limit of our own: with a lower one, what needs more fails by itself",
    "0 prctl:GET_NO_NEW_PRIVS": "with no_new_privs execve would have given us no privilege at all",
    # What is asked a second time, or where the answer is looked at again.
    "0 mount_setattr": "asks whether the kernel has it: any answer but ENOSYS says yes",
    "0 getpid": "a name for a draft of the state entry, locked and checked whatever it is",
    "0 flock": "the draft is given up and made again",
    "0 fstat": "the draft is given up and made again",
    "0 newfstatat": "the draft is given up and made again",
    "0 getdents64": "EINTR: called again",
    "0 read": "EINTR: called again",
    "* write": "EINTR: called again; or a network parameter, which is a convenience",
    "0 waitid": "EINTR: called again",
    "0 futex": "EINTR: called again, for the thread that bounds the opening of files",
    "* ppoll": "EINTR: called again; the supervisor's last wait may also wake for nothing",
    "0 clock_gettime": "cannot fail; a wait would be bounded by another moment",
    # A descriptor is freed whatever close(2) returns.
    "* close": "the descriptor is closed",
    # The end of a run.
    "0 unlinkat": "the state entry is nobody's and goes at the caller's next call",
    # Set-up of the container.
    "0 ioctl:0x5413": "TIOCGWINSZ: the container's terminal keeps the size that it was made with",
    "0 ioctl:0x5414": "TIOCSWINSZ: the container's terminal keeps the size that it was made with",
    "0.0 fstat": "what is to be masked counts as a file: right for files, and refused by the kernel for directories",
    "0.0 openat2 sys/net/*": "a network parameter of the container's own network: a convenience",
    # The init stage, which has dropped everything.
    "0.0 openat2 /dev/null": "PID 1 keeps the payload's streams open",
    "0.0 dup2": "PID 1 keeps one of the payload's streams open",
    "0.0 chdir": "PID 1 stays in the payload's directory",
    "0.0 read": "PID 1 reads its signals again",
    "0.0.0 setsid": "EINTR and the like: the payload shares PID 1's session",
    "0.0.0 setpgid": "the payload shares PID 1's process group",
    # The terminal's relay, which is wholly the caller.
    "0.1 ioctl:*": "the caller's terminal keeps its modes or its size",
    "0.1 read": "read again, or the end of what the caller types",
    "0.1 rt_sigprocmask": "what ends any program of the caller's ends the relay",
    "0.1 prctl:NO_NEW_PRIVS": "the relay executes nothing",
    "0.1 setresuid": "the first of them: root's effective id is taken up, which it has already",
    "0.1 prctl:KEEPCAPS": "keeps the caller from tracing it until it is undumpable; it holds nothing of root's",
    "0.1 clock_gettime": "cannot fail",
}

# `bind`: what comes is exactly what comes without the fault. What it shares with a run is in HARMLESS.
HARMLESS_TO_BIND = {
    "0 setresuid": "the first of them: root's effective id is taken up, which it has already",
}

# `install`: the new shim is in its place, whole. What it shares with a run is in HARMLESS.
HARMLESS_TO_INSTALL = {
    "0 kill": "who wrote an old draft may live: it stays until the next installation",
    "0 setresuid": "the first of them: root's effective id is taken up, which it has already",
    "0 prctl:KEEPCAPS": "for the change of ids after which the answer is given; root's stay as they are",
}

# The payload runs, or did; what is new about it, and why that is nothing that its caller could not do.
TOLERATED = {
    "0 sysinfo": ("tmpfs", "unknown memory: a tmpfs without a size is as small as can be"),
    "* umask": ("Umask", "umask(2) cannot fail; the caller chooses the payload's anyway"),
    "0.0 prlimit64": (
        "limits",
        "a soft limit stays at the caller's own hard limit, which he may choose himself",
    ),
    "0.0.0 prlimit64": (
        "limits",
        "a soft limit stays at the caller's own hard limit, which he may choose himself",
    ),
    "0.1 read": ("", "the caller's side of the relay ended early: output is missing"),
    "0.1 write": ("", "the caller's side of the relay ended early: output is missing"),
}

# How a run may end other than with the payload's own status or 125 and a line: status and code, and why.
ENDINGS = {
    "* execve": (126, "exec.not-executable", "that is what it means that a program cannot be executed"),
    "0.1 read": (
        129,
        None,
        "the terminal's relay ended as when its caller hangs up, and so the payload got HUP",
    ),
    "0.1 write": (
        129,
        None,
        "the terminal's relay ended as when its caller hangs up, and so the payload got HUP",
    ),
    "0.0 waitid": (125, None, "PID 1 has let go of everything that leads outside: nobody is left to tell"),
}


def matches(pattern: str, boundary: Boundary) -> bool:
    """Say whether `pattern` is of this boundary."""
    name = f"{boundary.where} {boundary.call}"
    return fnmatchcase(name, pattern) or fnmatchcase(f"{name} {boundary.text}", pattern)


def is_harmless(boundary: Boundary) -> bool:
    """Say whether the review found that this call may fail unnoticed."""
    return any(matches(pattern, boundary) for pattern in HARMLESS)


def is_harmless_to_bind(boundary: Boundary) -> bool:
    """Say whether the review found that this call of `bind` may fail unnoticed."""
    return is_harmless(boundary) or any(matches(pattern, boundary) for pattern in HARMLESS_TO_BIND)


def is_harmless_to_install(boundary: Boundary) -> bool:
    """Say whether the review found that this call of `install` may fail unnoticed."""
    return is_harmless(boundary) or any(matches(pattern, boundary) for pattern in HARMLESS_TO_INSTALL)


def tolerated(boundary: Boundary, outcome: Outcome, difference: str) -> bool:
    """Say whether the review found that a run with this fault may end like this."""
    for pattern, (status, code, _) in ENDINGS.items():
        if matches(pattern, boundary) and (outcome.status, outcome.code) == (status, code):
            return True
    about = [word for pattern, (word, _) in TOLERATED.items() if matches(pattern, boundary)]
    return outcome.stderr == "" and outcome.status == 0 and any(word in difference for word in about)
