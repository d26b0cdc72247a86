"""Errors about the setuid program beside `locald`, and about what this host lets it do."""

from typing import TYPE_CHECKING

from locald.errors import LocaldError, quote_command

if TYPE_CHECKING:
    from collections.abc import Sequence


class ShimError(LocaldError):
    """The shim that belongs to this `locald` cannot be used; `setup` is the command that mends it."""

    def __init__(self, message: str, *, hint: str, setup: "Sequence[str] | None" = None) -> None:
        super().__init__(message, hint=hint)
        self.setup = setup

    @classmethod
    def mended_by_setup(cls, message: str, setup: "Sequence[str]") -> "ShimError":
        """Return the error whose hint is the command `setup`, which only an administrator can run."""
        return cls(message, hint=f"Run: {quote_command(setup)}", setup=setup)


class ShimMissing(ShimError):
    """The installation names no locald-shim, or the file is gone or is no regular file."""

    code = "shim.missing"


class ShimNotSetuid(ShimError):
    """Nobody has run `locald admin setup` since locald was installed or upgraded."""

    code = "shim.not-setuid"


class ShimOwner(ShimError):
    """The shim is setuid, and somebody other than root owns it."""

    code = "shim.owner"


class ShimWritable(ShimError):
    """The group or everybody may write to the shim."""

    code = "shim.writable"


class ShimLinked(ShimError):
    """The shim has a second name, which would outlive an upgrade."""

    code = "shim.linked"


class ShimNosuid(ShimError):
    """The file system that holds the shim ignores setuid bits."""

    code = "shim.nosuid"


class ShimOutdated(ShimError):
    """The shim speaks another protocol than this `locald`, or the policy wants a newer one (`min-shim`)."""

    code = "shim.outdated"


class ShimPolicyDenied(ShimError):
    """The policy of this host is absent or does not let this user in."""

    code = "shim.policy"


class ModeNotAllowed(LocaldError):
    """The mode that was asked for does not work here; what all these errors share."""

    def __init__(self, mode: str, why: str) -> None:
        super().__init__(
            f"{mode.capitalize()} mode does not work on this host: {why}.", hint=self._hint(mode)
        )
        self.mode = mode
        self.why = why

    @staticmethod
    def _hint(mode: str) -> str:
        other = "direct" if mode == "mapped" else "mapped"
        return f"Run again with --mode {other}; `locald doctor` says what an administrator can change."


class UserNamespacesExhausted(ModeNotAllowed):
    """user.max_user_namespaces is 0, or all are in use."""

    code = "host.userns-limit"


class UserNamespacesDenied(ModeNotAllowed):
    """A sysctl or a security module denies user namespaces."""

    code = "host.userns-denied"


class ModeForbidden(ModeNotAllowed):
    """The policy of this host does not list the mode."""

    code = "policy.mode"


class KernelTooOld(ModeNotAllowed):
    """The kernel lacks what the shim needs."""

    code = "host.kernel-old"

    @staticmethod
    def _hint(mode: str) -> str:
        # The other mode rests on the same calls.
        del mode
        return "Boot a kernel of version 5.12 or newer; neither mode runs on this one."


class SubordinateIdsMissing(LocaldError):
    """The image's files belong to more ids than this user has."""

    code = "subids.missing"

    def __init__(self, *, needed_ids: int, granted_ids: int, user: str) -> None:
        super().__init__(
            f"Mapped mode needs {needed_ids} subordinate ids for this image; {user} has {granted_ids}.",
            hint=f"Run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} "
            "(with a free range), or run again with --mode direct.",
        )
        self.needed_ids = needed_ids
        self.granted_ids = granted_ids
