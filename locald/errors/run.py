"""Errors about what `locald run` was asked for."""

from locald.errors import LocaldError


class UserUnknown(LocaldError):
    """A name that the image's own passwd or group file does not have."""

    code = "user.unknown"

    def __init__(self, name: str, table: str) -> None:
        super().__init__(
            f"The image's {table} has no entry for {name!r}.",
            hint="Use a number (-u UID[:GID]) or a name that the image has.",
        )
        self.name = name


class AccountUnusable(LocaldError):
    """An entry of the image's own passwd that no container can be given."""

    code = "user.entry"

    def __init__(self, table: str, entry: str, reason: str) -> None:
        super().__init__(
            f"The entry of {entry!r} in the image's {table} cannot be used: {reason}.",
            hint="Mend the image, or run as a number that its passwd does not have (-u UID[:GID]).",
        )
        self.entry = entry


class UserUnmappable(LocaldError):
    """Direct mode has one user, the caller."""

    code = "user.unmappable"

    def __init__(self, asked: str) -> None:
        super().__init__(
            f"Direct mode runs everything as you; it cannot be {asked!r}.",
            hint="Leave -u out, or run again with --mode mapped.",
        )
        self.asked = asked


class CommandMissing(LocaldError):
    """Neither the image nor the command line says what to run."""

    code = "run.no-command"

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"{reference} names no command, and none was given.",
            hint=f"Give one: locald run {reference} -- COMMAND",
        )


class TerminalMissing(LocaldError):
    """`-t` was asked for away from a terminal."""

    code = "run.no-terminal"

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"-t needs a terminal, and {stream} is none.",
            hint="Run again without -t, or from a terminal.",
        )


class VolumeUnusable(LocaldError):
    """A `-v` whose source or destination cannot be used."""

    code = "run.volume"

    def __init__(self, volume: str, reason: str) -> None:
        super().__init__(
            f"The volume {volume!r} cannot be used: {reason}.",
            hint="Write -v /host/directory:/container/directory[:ro], both absolute; the source must exist.",
        )


class EnvironmentFileUnreadable(LocaldError):
    """An `--env-file` that cannot be read, or a line of it that sets nothing."""

    code = "run.env-file"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}.",
            hint="Write one NAME=VALUE or NAME a line; lines that begin with # are skipped.",
        )


class WorkingDirectoryUnusable(LocaldError):
    """A working directory that is relative, or that is something else in the image."""

    code = "run.workdir"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"The working directory {path!r} cannot be used: {reason}.",
            hint="Give an absolute one with -w DIR.",
        )


class LimitsUnavailable(LocaldError):
    """A limit was asked for where no cgroup can keep it."""

    code = "run.limits"

    def __init__(self, controller: str, code: str, why: str) -> None:
        super().__init__(
            f"A limit of {controller} cannot be kept here ({code}): {why}.",
            hint="Where systemd manages the session: systemd-run --user --scope -p MemoryAccounting=yes "
            "-p TasksAccounting=yes -p CPUWeight=100 locald run ...; `locald doctor` says more. "
            "Or run without limits.",
        )
        self.controller = controller


class BundleUnwritable(LocaldError):
    """The place where bundles are made gives no room or no right."""

    code = "run.bundle"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"No bundle could be made in {path}: {reason}.",
            hint="Nothing was started and nothing was left behind. Make room there, or set XDG_CACHE_HOME.",
        )
        self.path = path


class HelperFailed(LocaldError):
    """What reads and writes files of several owners, as root of a user namespace, gave no answer."""

    code = "helper.failed"

    def __init__(self, status: int, stderr: bytes) -> None:
        # Of a helper that was not started the shim says why, and what mends it: its line is the answer.
        said, _, hint = stderr.decode(errors="backslashreplace").strip().partition("; hint: ")
        super().__init__(
            f"Files of several owners could not be made: {said or f'the helper ended with status {status}'}.",
            hint=f"{hint[:1].upper()}{hint[1:]}." if hint else "See what this host allows: locald doctor",
        )
