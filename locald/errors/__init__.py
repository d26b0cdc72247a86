"""Every error that a user of locald can meet: its code, sentence, next step and exit code.

Imports nothing of locald: every module raises from here. What all have in common is here; the rest is in one module
a family, since `locald run` pays for every class that it loads and meets neither a registry nor the set-up.

    LocaldError
    ├── UsageError                   usage
    ├── ProgramFailed                program.failed
    ├── ShimError
    │   ├── ShimMissing              shim.missing
    │   ├── ShimNotSetuid            shim.not-setuid
    │   ├── ShimOwner                shim.owner
    │   ├── ShimWritable             shim.writable
    │   ├── ShimLinked               shim.linked
    │   ├── ShimNosuid               shim.nosuid
    │   ├── ShimOutdated             shim.outdated
    │   └── ShimPolicyDenied         shim.policy
    ├── ModeNotAllowed
    │   ├── UserNamespacesExhausted  host.userns-limit
    │   ├── UserNamespacesDenied     host.userns-denied
    │   ├── ModeForbidden            policy.mode
    │   └── KernelTooOld             host.kernel-old
    ├── SubordinateIdsMissing        subids.missing
    ├── UserUnknown                  user.unknown
    ├── AccountUnusable              user.entry
    ├── UserUnmappable               user.unmappable
    ├── CommandMissing               run.no-command
    ├── TerminalMissing              run.no-terminal
    ├── VolumeUnusable               run.volume
    ├── EnvironmentFileUnreadable    run.env-file
    ├── WorkingDirectoryUnusable     run.workdir
    ├── LimitsUnavailable            run.limits
    ├── BundleUnwritable             run.bundle
    ├── HelperFailed                 helper.failed
    ├── SetupNeedsRoot               admin.not-root
    ├── SetupUserMissing             admin.no-user
    ├── SetupUserUnknown             admin.user-unknown
    ├── SetupGroupUnknown            admin.group-unknown
    ├── SetupShimOlder               admin.min-shim
    ├── PolicyForeign                admin.policy
    ├── BindUnserved                 bind.unserved
    ├── SetupPlaceRefused            admin.place
    └── ImageError
        ├── ReferenceInvalid         image.reference-invalid
        ├── PlatformInvalid          image.platform-invalid
        ├── ImageNotFound            image.not-found
        ├── PlatformUnavailable      image.platform-unavailable
        ├── ManifestInvalid          image.manifest-invalid
        ├── MediaTypeUnsupported     image.media-type
        ├── DigestMismatch           image.digest-mismatch
        ├── LayerInvalid             image.layer-invalid
        ├── OwnerUnmapped            image.owner-unmapped
        ├── StoreFull                store.full
        ├── StoreUnusable            store.unusable
        ├── TreeForeign              store.tree-foreign
        ├── CredentialsUnreadable    registry.auth-file
        └── RegistryError
            ├── RegistryUnreachable  registry.unreachable
            ├── RegistryInterrupted  registry.interrupted
            ├── RegistryInsecure     registry.insecure
            ├── RegistryTls          registry.tls
            ├── RegistryUnauthorized registry.unauthorized
            ├── RegistryDenied       registry.denied
            ├── RegistryRateLimited  registry.rate-limited
            └── RegistryFailed       registry.failed
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class LocaldError(Exception):
    """What happened, what to do about it, and how the process ends."""

    code: ClassVar[str]  # stable: tests, --json and the manual use it, never the wording
    exit_code: ClassVar[int] = 125  # locald itself; 126, 127 and 128+N speak of the container

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LocaldError):
    """The command line asks for something that does not go together."""

    code = "usage"
    exit_code = 2


class ProgramFailed(LocaldError):
    """A program that locald needed did not do its work."""

    code = "program.failed"

    def __init__(self, argv: "Sequence[str]", reason: str, stderr: bytes) -> None:
        said = stderr.decode(errors="backslashreplace").strip()
        command = quote_command(argv)
        super().__init__(
            f"{argv[0]} failed: {reason}{': ' + said if said else ''}.",
            hint=f"Run it yourself to see more: {command}",
        )
        self.argv = argv
        self.stderr = stderr


def quote_command(words: "Sequence[str]") -> str:
    """Return `words` as one line for a POSIX shell, to be copied from a hint."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    # shlex costs as much to import as all of this module; a path with a space is rare, and must still work.
    if word and all(letter.isalnum() or letter in "@%+=:,./-_" for letter in word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"
