"""Errors of registries and their credentials. `locald run` of a cached image never loads them."""

from locald.errors.images import ImageError


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
