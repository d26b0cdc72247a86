"""Errors of what only an administrator may do."""

from typing import TYPE_CHECKING

from locald.errors import LocaldError, quote_command

if TYPE_CHECKING:
    from collections.abc import Sequence


class SetupNeedsRoot(LocaldError):
    """`admin setup` was called by an ordinary user."""

    code = "admin.not-root"

    def __init__(self, setup: "Sequence[str]") -> None:
        super().__init__(
            "Setting up locald needs an administrator.",
            hint=f"Run: {quote_command(setup)}",
        )


class SetupUserMissing(LocaldError):
    """Root called `admin setup` without saying for whom."""

    code = "admin.no-user"

    def __init__(self) -> None:
        super().__init__(
            "Called as root without sudo: nothing says which user may run containers.",
            hint="Add --allow-user NAME.",
        )


class SetupUserUnknown(LocaldError):
    """`--allow-user` names nobody on this host, or root."""

    code = "admin.user-unknown"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} cannot be allowed: {reason}.", hint="Give a user of this host.")


class SetupGroupUnknown(LocaldError):
    """`--allow-group` names no group of this host, or root's."""

    code = "admin.group-unknown"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} cannot be allowed: {reason}.", hint="Give a group of this host.")


class SetupShimOlder(LocaldError):
    """The policy asks for a newer shim than the one that would be set up."""

    code = "admin.min-shim"

    def __init__(self, path: str, version: str, wanted: str, setup: "Sequence[str]") -> None:
        super().__init__(
            f"{path} wants a shim of version {wanted} or newer, and this one is {version}; nothing was changed.",
            hint=f"Install a newer locald, or let older shims work again: {quote_command(setup)} --lower-min-shim",
        )
        self.version, self.wanted = version, wanted


class PolicyForeign(LocaldError):
    """The policy file is not in a state that locald may add to."""

    code = "admin.policy"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path} was left as it is: {reason}.",
            hint="Look at it, then repair or remove it, and run the set-up again.",
        )


class BindUnserved(LocaldError):
    """The shim sent something else than a socket that listens where it was asked to, or nothing reaches it."""

    code = "bind.unserved"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(
            f"{place} was given, and does not work: {reason}.",
            hint="See whether a packet filter stands before it (nft list ruleset), then report it with "
            "the output of `locald doctor`.",
        )


class SetupPlaceRefused(LocaldError):
    """The shim cannot be set up where it is installed."""

    code = "admin.place"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path} cannot become setuid there: {reason}.",
            hint="Install locald on a local file system without nosuid, such as /opt/locald: "
            "python3 -m venv /opt/locald && /opt/locald/bin/pip install ./locald-*.whl",
        )
