"""Unpack layers, or copy a tree, as the owner of all its files: `python -m locald.images.unpack`.

    unpack layers TARGET OWNERS DIFF-ID@BLOB…    OWNERS is `squashed` or `mapped-UID-GID`
    unpack copy SOURCE TARGET                    with owners

A program of its own, since it has to run as root of a user namespace wherever files belong to several ids
(trees.RootRunner). It answers with one JSON object on stdout: `notes` and `sealed`, or `error` (exit 125).
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locald.errors import LocaldError
from locald.images import files
from locald.images.archive import layer_errors
from locald.images.copying import copy_tree
from locald.images.layers import Unpacker
from locald.images.owners import Owners
from locald.oci import Digest

EXIT_USAGE = 2
EXIT_FAILED = 125


def unpack_layers(
    target: Path, owners: Owners, layers: Sequence[str], *, readable: bool = False
) -> dict[str, Any]:
    """Unpack `layers`, each written DIFF-ID@BLOB, lowest first, into the new directory `target`.

    On any error what was unpacked is removed.

    Raises:
        LayerInvalid: (exit 125, `image.layer-invalid`).
        DigestMismatch: (exit 125, `image.digest-mismatch`).
        OwnerUnmapped: (exit 125, `image.owner-unmapped`).
        StoreFull: (exit 125, `store.full`).
        StoreUnusable: (exit 125, `store.unusable`).
    """
    with files.store_errors(target):
        os.mkdir(target, 0o700)
        try:
            return _unpack_into(target, owners, layers, readable=readable)
        except BaseException:
            files.remove_tree(target)
            raise


def _unpack_into(target: Path, owners: Owners, layers: Sequence[str], *, readable: bool) -> dict[str, Any]:
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    unpacker = Unpacker(fd, owners, readable=readable)
    try:
        digest = Digest("sha256", "0" * 64)
        for layer in layers:
            diff_id, _, path = layer.partition("@")
            digest = Digest.parse(diff_id)
            with open(path, "rb", buffering=0) as blob:
                unpacker.apply(blob, digest, digest)
        with layer_errors(digest):
            unpacker.finish()
    finally:
        unpacker.close()
        os.close(fd)
    return {"notes": unpacker.notes.counts, "paths": unpacker.notes.paths, "sealed": unpacker.sealed}


def main(arguments: Sequence[str]) -> int:
    """Do what `arguments` say; return the exit code."""
    try:
        match arguments:
            case ["layers", target, owners, *layers] if re.fullmatch(r"squashed|mapped-\d+-\d+", owners):
                answer = unpack_layers(Path(target), Owners.parse(owners), layers)
            case ["copy", source, target]:
                copy_tree(Path(source), Path(target), sealed={}, owners=True)
                answer = {"copied": target}
            case _:
                return EXIT_USAGE
    except LocaldError as error:
        answer = {"error": {"code": error.code, "message": str(error), "hint": error.hint}}
    # Not print: stdout is an answer to a program, and only cli/ speaks to people.
    os.write(1, json.dumps(answer).encode())
    return EXIT_FAILED if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
