"""Unpacked images: a cache of trees in the store, and what runs as root of a user namespace to make them.

    store/trees/<chain id>-<owners>/rootfs     whole: made aside, put on disk, then renamed
    store/trees/<chain id>-<owners>/meta.json  what was left out or noted while unpacking

The chain id is that of the layers (image-spec config.md): images that differ in their config alone share a tree.

Imports `store`, `files`, `owners` and `errors`; the unpacker only to make a tree: most runs find one.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from locald.errors import LocaldError
from locald.errors.images import ImageError, StoreUnusable
from locald.images import files
from locald.images.owners import Owners
from locald.images.store import Image, Store

if TYPE_CHECKING:
    from types import TracebackType

META_VERSION = 1


class RootRunner(Protocol):
    """Runs a program of locald's own as root of a user namespace, in a container of ours.

    There 0 is the caller and k is his k-th subordinate id. Of the host it sees what Python and locald are made of,
    `readable`, and `writable`, which it may change.
    """

    def __call__(self, argv: Sequence[str], *, readable: Sequence[Path], writable: Sequence[Path]) -> bytes:
        """Run `argv`, a Python, to its end and return what it wrote to stdout, whatever its exit code.

        Raises:
            LocaldError: It could not be started.
        """


class Tree:
    """An unpacked image, kept from removal until `close`."""

    def __init__(
        self, path: Path, owners: Owners, notes: dict[str, int], sealed: dict[str, int], fd: int
    ) -> None:
        """Take what `cached_tree` found.

        Args:
            path: The root filesystem; never write there.
            owners: Reduced: squashed where all files are the caller's.
            notes: What unpacking left out, by kind: `device`, `xattr:NAME`.
            sealed: Modes that the copies get, where the tree itself must stay readable.
            fd: Holds the shared lock; let a process inherit it that uses `path` for longer.
        """
        self.path = path
        self.owners = owners
        self.notes = notes
        self.sealed = sealed
        self.fd = fd

    def close(self) -> None:
        """Let the tree be removed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def copy_to(self, target: Path, *, as_root: RootRunner | None = None) -> None:
        """Copy the tree to `target`, which must not exist, in a directory of the caller's.

        Raises:
            StoreFull: (exit 125, `store.full`).
        """
        if self.owners == Owners.squashed():
            # Imported here: a read-only container needs no copy.
            from locald.images.copying import copy_tree  # noqa: PLC0415

            copy_tree(self.path, target, sealed=self.sealed)
        else:
            words = ["copy", str(self.path), str(target)]
            run_as_root(as_root, words, readable=self.path, writable=target.parent)


def cached_tree(image: Image, store: Store, *, owners: Owners, as_root: RootRunner | None = None) -> Tree:
    """Return the unpacked image, from the cache or made now; close it when its container has ended.

    Args:
        image: As the store returned it.
        store: Where it came from.
        owners: Who owns what; images of a single owner need no `as_root` whatever is said here.
        as_root: How to make a tree of several owners.

    Raises:
        LayerInvalid: (exit 125, `image.layer-invalid`).
        OwnerUnmapped: (exit 125, `image.owner-unmapped`).
        StoreFull: (exit 125, `store.full`).
        StoreUnusable: (exit 125, `store.unusable`).
    """
    owners = owners.reduced(image.owner_uids, image.owner_gids)
    key = f"{image.chain.hex}-{owners}"
    while (tree := _open_tree(store, key, owners)) is None:
        store.clean()
        with store.sharing(), files.store_errors(store.root), store.workspace() as work:
            made = work / key
            made.mkdir()
            facts = unpack(image, store, made / "rootfs", owners=owners, as_root=as_root, readable=True)
            facts["version"] = META_VERSION
            files.write_durably(made, "meta.json", json.dumps(facts).encode(), beside=work)
            _sync_file_system(made)
            # Another process may have been faster: its tree is the same, so ours is discarded.
            with suppress(FileExistsError):
                _rename_new(made, store.trees / key)
    return tree


def unpack(
    image: Image,
    store: Store,
    target: Path,
    *,
    owners: Owners,
    as_root: RootRunner | None = None,
    readable: bool = False,
) -> dict[str, Any]:
    """Unpack `image` into `target`, which must not exist; return what was noted: `notes` and `sealed`.

    Raises: as `cached_tree`.
    """
    for layer in image.layers:
        if not store.has_blob(layer.blob):
            raise StoreUnusable(str(store.root), f"{layer.blob.digest} is missing; pull the image again")
    arguments = [f"{layer.diff_id}@{store.blob_path(layer.blob.digest)}" for layer in image.layers]
    if owners == Owners.squashed():
        # Imported here: it brings tarfile.
        from locald.images.unpack import unpack_layers  # noqa: PLC0415

        return unpack_layers(target, owners, arguments, readable=readable)
    words = ["layers", str(target), str(owners), *arguments]
    return run_as_root(as_root, words, readable=store.blobs, writable=target.parent)


def run_as_root(
    as_root: RootRunner | None, arguments: Sequence[str], *, readable: Path, writable: Path
) -> dict[str, Any]:
    """Run `python -m locald.images.unpack` by `as_root` and return its answer.

    Raises:
        LocaldError: The one that it met there.
    """
    if as_root is None:
        raise TypeError("a tree of several owners needs as_root")
    output = as_root(
        # -P keeps the working directory out of sys.path.
        [sys.executable, "-P", "-m", "locald.images.unpack", *arguments],
        readable=[readable],
        writable=[writable],
    )
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict) or not answer:
        raise StoreUnusable(str(writable), "the unpacker ended without an answer")
    if "error" in answer:
        raise _error_of(**answer["error"])
    return answer


def _error_of(code: str, message: str, hint: str) -> LocaldError:
    """Make the error that another process of ours reported."""
    todo: list[type[LocaldError]] = [ImageError]
    for kind in todo:
        todo += kind.__subclasses__()
        if getattr(kind, "code", None) == code:
            error = kind.__new__(kind)
            LocaldError.__init__(error, message, hint=hint)
            return error
    return StoreUnusable("the tree", message)


def _open_tree(store: Store, key: str, owners: Owners) -> Tree | None:
    with files.store_errors(store.root):
        fd = files.open_locked_directory(store.trees / key, shared=True)
        if fd is None:
            return None
        try:
            meta = json.loads((store.trees / key / "meta.json").read_bytes())
            return Tree(store.trees / key / "rootfs", owners, meta["notes"], meta["sealed"], fd)
        except (ValueError, KeyError) as error:
            os.close(fd)
            raise StoreUnusable(str(store.trees / key), "its meta.json is damaged") from error
        except BaseException:
            os.close(fd)
            raise


def _rename_new(source: Path, target: Path) -> None:
    """Rename the directory `source`, unless `target` is there."""
    try:
        files.rename_durably(source, target)
    except OSError as error:
        # rename(2) replaces an empty directory only, and a tree is not empty.
        if target.exists():
            raise FileExistsError(str(target)) from error
        raise


def _sync_file_system(path: Path) -> None:
    """Put a whole new tree on disk: after a power cut a tree is whole or absent, too."""
    # Imported here: only making a tree needs it. Python has no syncfs(2), and fsync(2) a file is far slower.
    import ctypes  # noqa: PLC0415

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(fd)
