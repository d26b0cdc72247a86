"""Every error that a user of locald can meet: its code, sentence, next step and exit code.

Imports nothing of locald: every module raises from here.

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
    │   └── KernelTooOld             host.kernel-old
    ├── SubordinateIdsMissing        subids.missing
    ├── UserUnknown                  user.unknown
    ├── UserUnmappable               user.unmappable
    ├── CommandMissing               run.no-command
    ├── TerminalMissing              run.no-terminal
    ├── VolumeUnusable               run.volume
    ├── EnvironmentFileUnreadable    run.env-file
    ├── WorkingDirectoryUnusable     run.workdir
    ├── BundleUnwritable             run.bundle
    ├── SetupNeedsRoot               admin.not-root
    ├── SetupUserMissing             admin.no-user
    ├── SetupUserUnknown             admin.user-unknown
    ├── PolicyForeign                admin.policy
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


# --- images: references, sources, store and layers -------------------------------------------------


class ImageError(LocaldError):
    """What all errors about images share; never raised itself."""


class ReferenceInvalid(ImageError):
    """A name that is no image reference."""

    code = "image.reference-invalid"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(
            f"{text!r} is not an image reference: {reason}.",
            hint="Write [HOST[:PORT]/]NAME[:TAG|@DIGEST], oci:DIRECTORY[:TAG] or oci-archive:FILE[:TAG].",
        )
        self.text = text


class PlatformInvalid(ImageError):
    """A text that is no platform."""

    code = "image.platform-invalid"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a platform.",
            hint="Write OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm64/v8.",
        )
        self.text = text


class ImageNotFound(ImageError):
    """Neither the store nor the source has this image."""

    code = "image.not-found"

    def __init__(self, reference: str, where: str) -> None:
        super().__init__(
            f"There is no image {reference} in {where}.",
            hint="Check its name and tag; `locald images` lists what is here.",
        )
        self.reference = reference


class PlatformUnavailable(ImageError):
    """The image exists, but not for the platform that is wanted."""

    code = "image.platform-unavailable"

    def __init__(self, reference: str, wanted: str, offered: list[str]) -> None:
        super().__init__(
            f"{reference} has no variant for {wanted}; it has {', '.join(offered) or 'none at all'}.",
            hint="Choose another image or tag, or pull for one of these platforms.",
        )
        self.wanted = wanted
        self.offered = offered


class ManifestInvalid(ImageError):
    """A manifest, an index, an image config or a layout that contradicts the image spec."""

    code = "image.manifest-invalid"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"{what} cannot be used: {reason}.",
            hint="The image was built or stored wrongly; ask its publisher, or build and push it again.",
        )
        self.reason = reason


class MediaTypeUnsupported(ImageError):
    """An image made of parts that locald does not read (schema 1, encrypted layers, artifacts)."""

    code = "image.media-type"

    def __init__(self, what: str, media_type: str) -> None:
        super().__init__(
            f"{what} is of the type {media_type!r}, which locald does not read.",
            hint="Push it as an OCI or docker v2s2 image with tar, tar+gzip or tar+zstd layers.",
        )
        self.media_type = media_type


class DigestMismatch(ImageError):
    """Bytes that are not what their digest promised."""

    code = "image.digest-mismatch"

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(
            f"{what} is not what was promised: expected {expected}, found {found}.",
            hint="Nothing was kept. Try again; if it stays so, the source or a proxy alters data.",
        )
        self.expected = expected
        self.found = found


class LayerInvalid(ImageError):
    """A layer that is no proper archive, or that tries to reach outside of its root filesystem."""

    code = "image.layer-invalid"

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(
            f"Layer {layer} cannot be unpacked: {reason}.",
            hint="Nothing was kept. The image is broken or hostile: do not run it, ask its publisher.",
        )
        self.layer = layer
        self.reason = reason


class OwnerUnmapped(ImageError):
    """A file of the image belongs to an id that the caller's subordinate ids do not reach."""

    code = "image.owner-unmapped"

    def __init__(self, path: str, uid: int, gid: int) -> None:
        super().__init__(
            f"{path} in the image belongs to {uid}:{gid}, beyond your subordinate ids.",
            hint="Run with --mode direct, or ask for a longer range in /etc/subuid and /etc/subgid.",
        )
        self.path = path
        self.uid = uid
        self.gid = gid


class StoreFull(ImageError):
    """The disk, or the caller's quota, has no room left."""

    code = "store.full"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"No space is left for {path}.",
            hint="Nothing was kept. Free some space (`locald rmi` removes images) and try again.",
        )
        self.path = path


class StoreUnusable(ImageError):
    """The store cannot be read or written, or is not what this version of locald writes."""

    code = "store.unusable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"The image store {path} cannot be used: {reason}.",
            hint="It must be your own directory on a local disk; removing it loses only pulled images.",
        )
        self.path = path


class TreeForeign(ImageError):
    """A tree holds files of the caller's subordinate ids, which he alone cannot remove."""

    code = "store.tree-foreign"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} holds files of your subordinate ids, which only the shim can remove for you.",
            hint=f"Run `locald-shim cleanup --bundle {path}`.",
        )
        self.path = path


class RegistryError(ImageError):
    """What all answers of a registry share that end a pull; never raised itself."""

    def __init__(self, registry: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.registry = registry


class RegistryUnreachable(RegistryError):
    """No connection, or one that stayed silent or broke again and again."""

    code = "registry.unreachable"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry,
            f"{registry} cannot be reached: {reason}.",
            hint="Check the name, the network and any proxy.",
        )


class RegistryInterrupted(RegistryError):
    """The connection broke inside a blob more often than is tried."""

    code = "registry.interrupted"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry,
            f"{registry} dropped the connection inside a blob again and again: {reason}.",
            hint="Nothing half is kept. Try again; what was complete is not fetched again.",
        )


class RegistryInsecure(RegistryError):
    """Only plain HTTP is to be had, from a host other than this one."""

    code = "registry.insecure"

    def __init__(self, registry: str, url: str) -> None:
        super().__init__(
            registry,
            f"{registry} leads to {url}, which is not protected by TLS.",
            hint="locald speaks plain HTTP with loopback addresses only: give the registry a certificate.",
        )
        self.url = url


class RegistryTls(RegistryError):
    """The registry's certificate does not prove who it is, or TLS fails otherwise."""

    code = "registry.tls"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry,
            f"TLS with {registry} fails: {reason}.",
            hint="For a private authority, add its certificate to the system's, or set SSL_CERT_FILE.",
        )


class RegistryUnauthorized(RegistryError):
    """401: no credentials, or none that count here."""

    code = "registry.unauthorized"

    def __init__(self, registry: str, repository: str, *, had_credentials: bool) -> None:
        verb = "refuses your" if had_credentials else "asks for"
        super().__init__(
            registry,
            f"{registry} {verb} credentials for {repository}.",
            hint=f"Check the name (many registries answer so for what does not exist), or log in: "
            f"`podman login {registry}` or `docker login {registry}`; locald reads their files.",
        )
        self.had_credentials = had_credentials


class RegistryDenied(RegistryError):
    """403: known, but not allowed."""

    code = "registry.denied"

    def __init__(self, registry: str, repository: str) -> None:
        super().__init__(
            registry,
            f"{registry} denies you {repository}.",
            hint="Ask its owner for read access, or check the name.",
        )


class RegistryRateLimited(RegistryError):
    """429, also after waiting."""

    code = "registry.rate-limited"

    def __init__(self, registry: str) -> None:
        super().__init__(
            registry,
            f"{registry} says that you ask too often.",
            hint="Wait, or log in: most registries allow more to known users.",
        )


class RegistryFailed(RegistryError):
    """A 5xx after retries, or an answer that the protocol does not know."""

    code = "registry.failed"

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(
            registry, f"{registry} failed: {reason}.", hint="Try again later; the fault is not here."
        )


class CredentialsUnreadable(ImageError):
    """A credentials file exists and is not what podman or docker writes."""

    code = "registry.auth-file"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}.", hint="Mend or remove it, then log in again.")
        self.path = path


# --- programs: what locald starts ------------------------------------------------------------------


class ProgramFailed(LocaldError):
    """A program that locald needed did not do its work."""

    code = "program.failed"

    def __init__(self, argv: "Sequence[str]", reason: str, stderr: bytes) -> None:
        said = stderr.decode(errors="backslashreplace").strip()
        command = " ".join(_quoted(word) for word in argv)
        super().__init__(
            f"{argv[0]} failed: {reason}{': ' + said if said else ''}.",
            hint=f"Run it yourself to see more: {command}",
        )
        self.argv = argv
        self.stderr = stderr


# --- shim: the setuid program beside `locald` ------------------------------------------------------


class ShimError(LocaldError):
    """The shim that belongs to this `locald` cannot be used; `setup` is the command that mends it."""

    def __init__(self, message: str, *, hint: str, setup: "Sequence[str] | None" = None) -> None:
        super().__init__(message, hint=hint)
        self.setup = setup

    @classmethod
    def mended_by_setup(cls, message: str, setup: "Sequence[str]") -> "ShimError":
        """Return the error whose hint is the command `setup`, which only an administrator can run."""
        return cls(message, hint=f"Run: {' '.join(_quoted(word) for word in setup)}", setup=setup)


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
    """The shim speaks another protocol than this `locald`."""

    code = "shim.outdated"


class ShimPolicyDenied(ShimError):
    """The policy of this host is absent or does not let this user in."""

    code = "shim.policy"


# --- host: what this machine allows ----------------------------------------------------------------


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


class KernelTooOld(ModeNotAllowed):
    """The kernel lacks what the shim needs."""

    code = "host.kernel-old"


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


# --- run: what was asked for -----------------------------------------------------------------------


class UserUnknown(LocaldError):
    """A name that the image's own passwd or group file does not have."""

    code = "user.unknown"

    def __init__(self, name: str, table: str) -> None:
        super().__init__(
            f"The image's {table} has no entry for {name!r}.",
            hint="Use a number (-u UID[:GID]) or a name that the image has.",
        )
        self.name = name


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


class BundleUnwritable(LocaldError):
    """The place where bundles are made gives no room or no right."""

    code = "run.bundle"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"No bundle could be made in {path}: {reason}.",
            hint="Nothing was started and nothing was left behind. Make room there, or set XDG_CACHE_HOME.",
        )
        self.path = path


# --- admin: what only an administrator may do ------------------------------------------------------


class SetupNeedsRoot(LocaldError):
    """`admin setup` was called by an ordinary user."""

    code = "admin.not-root"

    def __init__(self, setup: "Sequence[str]") -> None:
        super().__init__(
            "Setting up locald needs an administrator.",
            hint=f"Run: {' '.join(_quoted(word) for word in setup)}",
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


class PolicyForeign(LocaldError):
    """The policy file is not in a state that locald may add to."""

    code = "admin.policy"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path} was left as it is: {reason}.",
            hint="Look at it, then repair or remove it, and run the set-up again.",
        )


class SetupPlaceRefused(LocaldError):
    """The shim cannot be set up where it is installed."""

    code = "admin.place"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path} cannot become setuid there: {reason}.",
            hint="Install locald on a local file system without nosuid, such as /opt/locald: "
            "python3 -m venv /opt/locald && /opt/locald/bin/pip install locald",
        )


def _quoted(word: str) -> str:
    # shlex costs as much to import as all of this module; a path with a space is rare, and must still work.
    if word and all(letter.isalnum() or letter in "@%+=:,./-_" for letter in word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"
