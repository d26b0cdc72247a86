"""Turn an image into a bundle and run it: the `ContainerRuntime` and, for Linux, the one through the shim.

Imports helper, bundle, rootfs, mountpoints, images, spec, shim, host, process and below. Whatever is decided here,
the shim checks again: it trusts no part of a bundle.
"""

import os
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from locald import bundle, mountpoints, rootfs, shim, spec
from locald.deadline import Deadline
from locald.errors.run import BundleUnwritable, HelperFailed, VolumeUnusable, WorkingDirectoryUnusable
from locald.errors.shim import (
    KernelTooOld,
    ModeForbidden,
    ModeNotAllowed,
    SubordinateIdsMissing,
    UserNamespacesDenied,
    UserNamespacesExhausted,
)
from locald.images.owners import Owners
from locald.images.trees import cached_tree
from locald.process import attend, capture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from locald.host import Host
    from locald.images.store import Image, Store
    from locald.images.trees import Tree

# A large image, on a slow disk, unpacked as root of a user namespace.
HELPER_LIMIT_S = 3600
MAX_HOSTNAME_BYTES = 64
# By the code that the shim's `check` gives for a mode that does not work.
MODE_ERRORS: dict[str | None, type[ModeNotAllowed]] = {
    kind.code: kind for kind in (UserNamespacesExhausted, UserNamespacesDenied, ModeForbidden, KernelTooOld)
}


class Request(NamedTuple):
    """A `locald run`, as the user asked for it."""

    reference: str
    command: tuple[str, ...] = ()
    name: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    volumes: tuple[spec.Bind, ...] = ()
    entrypoint: str | None = None
    network: str = "host"
    mode: str = "auto"
    read_only: bool = False
    init: bool = True
    interactive: bool = False
    terminal: bool = False
    terminal_size: tuple[int, int] | None = None
    resources: "Mapping[str, Any]" = MappingProxyType({})  # what limits.py makes


class ContainerRuntime(Protocol):
    """What can run containers; on Linux the shim, elsewhere a Linux in between."""

    def prepare_bundle(self, image: "Image", bundle_path: str) -> None:
        """Write into the empty directory `bundle_path` all that running `image` takes.

        Raises:
            LocaldError: Nothing was started.
        """

    def run_container(self, bundle_path: str, container_id: str) -> int:
        """Run a prepared bundle to its end and return its exit status.

        That is the process's own, 128+N if signal N ended it, 126 or 127 if it could not be executed, and 125
        if the runtime refused or failed, which has been explained on stderr.
        """


class Places(NamedTuple):
    """Where what a container sees really lies in its image, and what has to be made for that."""

    binds: tuple[spec.Bind, ...]
    directories: list[str]
    files: list[str]
    volumes: tuple[tuple[str, str], ...]  # (path in the image, the bundle's directory for it)


class LinuxRuntime:
    """Runs containers through the setuid shim, as the caller."""

    def __init__(
        self,
        request: Request,
        *,
        host: "Host",
        shim_path: str,
        abilities: shim.Abilities,
        store: "Store",
        bundles: str,
        note: "Callable[[str], None]",
    ) -> None:
        """Keep what running takes.

        Args:
            request: What the user asked for.
            host: Facts about this machine.
            shim_path: The shim, found and looked at.
            abilities: What it allows here.
            store: Where images are.
            bundles: The directory below which our own helpers' bundles are made.
            note: Tells the user one line.
        """
        self._request = request
        self._host = host
        self._shim = shim_path
        self._abilities = abilities
        self._store = store
        self._bundles = bundles
        self._note = note
        self._stop_signal: int | None = None

    def prepare_bundle(self, image: "Image", bundle_path: str) -> None:
        """Choose the mode, copy the image and write config.json; see `ContainerRuntime`."""
        request = self._request
        mode, owners, account = self._choose(image)
        tree = cached_tree(image, self._store, owners=owners, as_root=self._run_as_root)
        try:
            root = str(tree.path)
            hostname = make_hostname(request, self._host)
            places = self._find_places(image, root, bundle_path, mode, account, hostname)
            shared = request.read_only and not (places.directories or places.files or tree.sealed)
            if not shared:
                tree.copy_to(Path(bundle_path, bundle.ROOTFS), as_root=self._run_as_root)
                self._make_mountpoints(bundle_path, tree, places)
            self._copy_volumes(tree, places)
        except BaseException:
            tree.close()
            raise
        # A tree that is used itself stays open, which keeps it from removal until this process ends.
        if not shared:
            tree.close()
        options = spec.Options(
            mode=mode,
            command=request.command,
            entrypoint=request.entrypoint,
            environment=request.environment,
            workdir=request.workdir,
            network=request.network,
            hostname=hostname,
            read_only=request.read_only,
            terminal=request.terminal,
            terminal_size=request.terminal_size,
            init=request.init,
            resources=request.resources,
        )
        config = spec.make_runtime_config(
            image.config,
            options,
            account,
            spec.Caller(self._host.uid, self._host.gid, self._abilities.subordinate_gids),
            reference=request.reference,
            root=root if shared else bundle.ROOTFS,
            binds=places.binds,
        )
        bundle.write_config(bundle_path, config)
        self._stop_signal = spec.make_stop_signal(image.config)

    def run_container(self, bundle_path: str, container_id: str) -> int:
        """Start the shim and attend to it until it ends; see `ContainerRuntime`."""
        # The reader stays open: the shim writes what nobody here needs to know, and the FIFO tells that it lives.
        _reader, status_fd = bundle.open_status(bundle_path)
        argv = shim.run_argv(self._shim, bundle_path, container_id)
        stop = {} if self._stop_signal is None else {"stop_signal": self._stop_signal}
        with _terminal_given_back() if self._request.terminal else nullcontext():
            return attend(
                argv,
                env={},
                empty_stdin=not self._request.interactive,
                kept_fd=status_fd,
                started=lambda pid: _write_pid(bundle_path, pid),
                **stop,
            )

    # --- who and how ----------------------------------------------------------------------------------

    def _choose(self, image: "Image") -> tuple[str, Owners, spec.Account]:
        """Return the mode, who owns the files of its tree, and who the container's process is."""
        request, host = self._request, self._host
        mode, why = make_mode(request.mode, self._abilities, image, host.user, caller=(0, 0))
        wanted = request.user or spec.inherited(image.config).get("User") or ""
        # Any tree of this image answers the question; this is the one that most runs need.
        owners = Owners.mapped(0, 0) if mode == "mapped" else Owners.squashed()
        with cached_tree(image, self._store, owners=owners, as_root=self._run_as_root) as tree:
            account = rootfs.find_account(str(tree.path), wanted)
        if mode == "mapped":
            ids = (account.uid, account.gid)
            mode, why = make_mode(request.mode, self._abilities, image, host.user, caller=ids)
        if mode == "mapped":
            return mode, Owners.mapped(account.uid, account.gid), account
        runs_as = spec.make_direct_account(account, spec.Caller(host.uid, host.gid), request.user)
        if why:
            self._note(f"running in direct mode: {why}")
        if account.uid != host.uid:
            self._note(f"the image's user {wanted or 'root'!r} runs as you, {host.user} (uid {host.uid})")
        return mode, Owners.squashed(), runs_as

    # --- what the container sees ----------------------------------------------------------------------

    def _find_places(
        self,
        image: "Image",
        root: str,
        bundle_path: str,
        mode: str,
        account: spec.Account,
        hostname: str,
    ) -> Places:
        request = self._request
        etc = bundle.make_etc(self._host, hostname, request.network)
        if mode == "direct":
            passwd, group = (rootfs.read_file(root, f"/etc/{name}") for name in ("passwd", "group"))
            etc |= bundle.make_accounts(self._host, account, passwd, group)
        binds: dict[str, spec.Bind] = {}
        directories = [path for path in mountpoints.FIXED if not rootfs.find_path(root, path).is_directory]
        files: list[str] = []
        volumes: list[tuple[str, str]] = []
        for number, path in enumerate(spec.volumes(image.config)):
            found = rootfs.find_path(root, path)
            source = f"{bundle_path}/volumes/{number}"
            volumes.append((found.path if found.is_directory else "", source))
            binds[found.path] = spec.Bind(f"{source}/{bundle.ROOTFS}", found.path)
            if found.mode is None:
                directories.append(found.path)
        for name, content in etc.items():
            found = rootfs.find_path(root, f"/etc/{name}")
            if not found.is_directory:
                binds[found.path] = spec.Bind(
                    bundle.write_file(bundle_path, f"etc/{name}", content), found.path
                )
                if found.mode is None:
                    files.append(found.path)
        for volume in request.volumes:
            found = self._find_destination(root, volume)
            binds[found.path] = volume._replace(destination=found.path)
            if found.mode is None:
                (directories if os.path.isdir(volume.source) else files).append(found.path)
        mounted = tuple(binds)
        workdir = self._find_workdir(image, root, mounted)
        if workdir is not None:
            directories.append(workdir)
        # Parents first: a mount made later would hide one made earlier below it.
        ordered = sorted(binds.values(), key=lambda bind: bind.destination.count("/"))
        kept = tuple((path, source) for path, source in volumes if _is_used(source, ordered))
        return Places(tuple(ordered), directories, files, kept)

    def _find_destination(self, root: str, volume: spec.Bind) -> rootfs.Found:
        text = f"{volume.source}:{volume.destination}"
        found = rootfs.find_path(root, volume.destination)
        if found.path == "/":
            raise VolumeUnusable(text, "nothing can be mounted over the root of the container")
        if found.mode is not None and found.is_directory != os.path.isdir(volume.source):
            raise VolumeUnusable(text, "one of the two is a directory and the other is not")
        return found

    def _find_workdir(self, image: "Image", root: str, mounted: "Sequence[str]") -> str | None:
        """Return the working directory if it has to be made: it is neither in the image nor below a mount."""
        options = spec.Options(mode="direct", workdir=self._request.workdir)
        path = spec.make_workdir(image.config, options)
        found = rootfs.find_path(root, path)
        if any(found.path == place or found.path.startswith(place + "/") for place in mounted):
            return None
        if found.mode is not None and not found.is_directory:
            raise WorkingDirectoryUnusable(path, "it is no directory in the image")
        return None if found.is_directory else found.path

    # --- making it ------------------------------------------------------------------------------------

    def _make_mountpoints(self, bundle_path: str, tree: "Tree", places: Places) -> None:
        if not (places.directories or places.files):
            return
        root = f"{bundle_path}/{bundle.ROOTFS}"
        # What is made belongs to the image's root, who is not the caller where X is not 0.
        numbers = tree.owners.on_disk(0, 0)
        try:
            if numbers is None or numbers == (0, 0):
                mountpoints.make_mountpoints(root, places.directories, places.files, None)
                return
            owner = mountpoints.Owner(*numbers)
            argv = mountpoints.argv(root, places.directories, places.files, owner)
        except OSError as error:
            raise BundleUnwritable(error.filename or root, error.strerror or str(error)) from error
        said = self._run_as_root(argv, readable=[], writable=[Path(bundle_path)])
        if said:
            raise BundleUnwritable(root, said.decode(errors="replace"))

    def _copy_volumes(self, tree: "Tree", places: Places) -> None:
        """Fill anonymous volumes with what the image has there, as podman does."""
        for path, target in places.volumes:
            os.makedirs(target)
            rootfs_of_volume = Path(target, bundle.ROOTFS)
            if not path:
                rootfs_of_volume.mkdir()
            elif tree.owners == Owners.squashed():
                # Imported here: few images have volumes.
                from locald.images.copying import copy_tree  # noqa: PLC0415

                prefix = path.lstrip("/") + "/"
                below = {
                    name.removeprefix(prefix): bits
                    for name, bits in tree.sealed.items()
                    if name.startswith(prefix)
                }
                copy_tree(Path(f"{tree.path}{path}"), rootfs_of_volume, sealed=below)
            else:
                from locald.images.trees import run_as_root  # noqa: PLC0415

                words = ["copy", f"{tree.path}{path}", str(rootfs_of_volume)]
                run_as_root(self._run_as_root, words, readable=tree.path, writable=Path(target))

    def _run_as_root(
        self, argv: "Sequence[str]", *, readable: "Sequence[Path]", writable: "Sequence[Path]"
    ) -> bytes:
        """Run a program of ours as root of a user namespace: see images.RootRunner."""
        # Imported here: an image of one owner needs none.
        from locald import helper  # noqa: PLC0415

        made = bundle.make_bundle(self._bundles)
        try:
            helper.write_bundle(
                made.path,
                argv,
                caller=spec.Caller(self._host.uid, self._host.gid),
                readable=map(str, readable),
                writable=map(str, writable),
            )
            command = [self._shim, "bundle", "run", "--bundle", made.path, "--id", new_id()]
            output = capture(command, deadline=Deadline.after(seconds=HELPER_LIMIT_S))
            # Whoever asked reads the answer, also of a failure; without one nothing was started.
            if output.status != 0 and not output.stdout:
                raise HelperFailed(output.status, output.stderr)
            return output.stdout
        finally:
            made.remove(make_remover(self._shim))


def make_remover(shim_path: str) -> "Callable[[Path], None]":
    """Return what removes PATH/rootfs where files belong to subordinate ids; the shim does it in their map."""

    def remove(path: Path) -> None:
        argv = shim.cleanup_argv(shim_path, str(path))
        capture(argv, deadline=Deadline.after(seconds=HELPER_LIMIT_S)).checked()
        # The shim empties it. The directory may be a subordinate id's, which its parent's owner can remove.
        with suppress(FileNotFoundError):
            os.rmdir(path / bundle.ROOTFS)

    return remove


def make_mode(
    asked: str, abilities: shim.Abilities, image: "Image", user: str, *, caller: tuple[int, int]
) -> tuple[str, str]:
    """Return the mode, and why it is direct where the user left the choice.

    Args:
        asked: "auto", "mapped" or "direct".
        abilities: What the shim allows here.
        image: Whose files need ids.
        user: The caller's name, for messages.
        caller: The container's uid and gid that are the caller.

    Raises:
        ModeNotAllowed: What was asked for does not work here, or, for "auto", neither of them (`host.*`).
        SubordinateIdsMissing: Mapped mode was asked for and there are too few (`subids.missing`).
    """
    if asked == "direct":
        _require(abilities, "direct")
        return "direct", ""
    if asked == "mapped":
        _require(abilities, "mapped")
    why = abilities.mapped.why or ""
    if abilities.mapped.allowed:
        missing = None
        for owners, own, granted in (
            (image.owner_uids, caller[0], abilities.subordinate_uids),
            (image.owner_gids, caller[1], abilities.subordinate_gids),
        ):
            needed = spec.needed_ids(owners, own)
            if needed > granted:
                missing = SubordinateIdsMissing(needed_ids=needed, granted_ids=granted, user=user)
        if missing is None:
            return "mapped", ""
        if asked == "mapped":
            raise missing
        why = f"this image needs {missing.needed_ids} subordinate ids and you have {missing.granted_ids}"
    if not abilities.direct.allowed:
        _require(abilities, "mapped")
    _require(abilities, "direct")
    return "direct", why


def make_hostname(request: Request, host: "Host") -> str:
    """Return the host's own name where the container has the host's network, as podman does; else the container's."""
    name = host.hostname if request.network == "host" else request.name or "locald"
    plain = name.replace("-", "").replace(".", "").replace("_", "")
    fits = plain.isascii() and plain.isalnum() and len(name) <= MAX_HOSTNAME_BYTES
    return name if fits else "localhost"


def new_id() -> str:
    """Return a container id that nobody else has."""
    return os.urandom(8).hex()


def _require(abilities: shim.Abilities, mode: str) -> None:
    found = abilities.mode(mode)
    if not found.allowed:
        kind = MODE_ERRORS.get(found.code, UserNamespacesDenied)
        raise kind(mode, found.why or "the shim gave no reason")


def _is_used(source: str, binds: "Sequence[spec.Bind]") -> bool:
    return any(bind.source == f"{source}/{bundle.ROOTFS}" for bind in binds)


def _terminal_given_back() -> "AbstractContextManager[None]":
    from locald.terminal import given_back  # noqa: PLC0415  # most runs have no terminal

    return given_back()


def _write_pid(bundle_path: str, pid: int) -> None:
    bundle.write_file(bundle_path, bundle.SHIM_PID, str(pid).encode())
