"""What a verdict is tied to: the kit that judged, the wheel's bytes and the shim inside it."""

import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from conformance.inputs import InputError, run_program

ROOT: Final = Path(__file__).parent.parent
# What judges: the kit, its settings and libraries, and the fixtures by which it makes images and a registry.
TREES: Final = ("conformance", "vms", "tests/fixtures", "pyproject.toml", "uv.lock")
# What a fault is planted into: the package as it is, and the shim, which is built for it.
PLANTED: Final = ("locald", "shim/src", "shim/.cargo", "shim/Cargo.toml", "shim/Cargo.lock", "shim/build.rs")
# What a wheel brings besides the package: the program, and the records about both.
BESIDE: Final = ("*.dist-info/*", "*.data/scripts/locald-shim")
# Who is trusted judges nothing: a key that is added or retired makes no other kit.
KEYS: Final = "conformance/release/keys/"
DAMAGED: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
MADE: Final = frozenset({"__pycache__", ".vagrant"})
GIT_LIMIT_S: Final = 30


def describe_kit(root: Path = ROOT) -> dict[str, Any]:
    """Return the digest of the kit's files, and the commit they come from where that is known.

    The digest decides: two trees of one commit differ if somebody changed a file, and an archive has no commit.
    """
    kit: dict[str, Any] = {"sha256": digest_files(root)}
    # Root runs the kit in a tree that is often somebody else's.
    git = ("git", "-C", str(root), "-c", f"safe.directory={root}")
    revision = _ask(*git, "rev-parse", "HEAD")
    changed = _ask(*git, "status", "--porcelain", "--", *TREES)
    # An archive that was unpacked somewhere in another project's repository has none of that project's commits.
    below = _ask(*git, "rev-parse", "--show-prefix")
    if revision and changed is not None and not below:
        kit |= {"revision": revision, "dirty": changed != ""}
    return kit


def digest_files(root: Path = ROOT, trees: Sequence[str] = TREES) -> str:
    """Return one SHA-256 over names and contents of all files of the kit, whatever their order on disk.

    Args:
        root: The tree of the project.
        trees: Files and directories in it.

    Raises:
        InputError: One of them is not there, or holds no file.
    """
    whole = hashlib.sha256()
    for tree in sorted(trees):
        files = _list_files(root, tree)
        if not files:
            raise InputError(f"{root / tree}: no file of the kit")
        for name, path in files.items():
            if not name.startswith(KEYS):
                whole.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n".encode())
    return whole.hexdigest()


def is_unchanged(sha256: str, trees: Sequence[str] = TREES) -> bool:
    """Tell whether the files still have the digest that was taken of them; what cannot be read has not."""
    try:
        return digest_files(trees=trees) == sha256
    except (InputError, OSError):
        return False


def _list_files(root: Path, tree: str) -> dict[str, Path]:
    """Return the files of a tree by their names from `root`, in order, without what Python and Vagrant leave there."""
    top = root / tree
    found = [top] if top.is_file() else [path for path in sorted(top.rglob("*")) if path.is_file()]
    # Relative: what the tree lies in is no part of it.
    names = ((path.relative_to(root), path) for path in found)
    return {name.as_posix(): path for name, path in names if not MADE & set(name.parts)}


def digest_shim_sources(root: Path = ROOT) -> str:
    """Return what the shim of this tree calls its build: as hatch_build.source_digest, which needs hatchling."""
    crate = root / "shim"
    known = [crate / name for name in ("Cargo.toml", "Cargo.lock", "build.rs", ".cargo/config.toml")]
    whole = hashlib.sha256()
    for path in sorted([*known, *(crate / "src").rglob("*")]):
        if path.is_file():
            content = path.read_bytes()
            whole.update(f"{path.relative_to(crate).as_posix()}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


def find_foreign(wheel: Path, root: Path = ROOT) -> list[str]:
    """Return what of `wheel` is not this tree's locald, file by file; of the program see `digest_shim_sources`.

    Raises:
        InputError: It is no wheel, or a damaged one.
    """
    packed = {
        name: content
        for name, content in read_members(wheel, "*")
        if not any(fnmatchcase(name, pattern) for pattern in BESIDE)
    }
    own = _list_files(root, "locald")
    return [
        *(f"it lacks {name}" for name in sorted(own.keys() - packed.keys())),
        *(f"{name} is not in the tree" for name in sorted(packed.keys() - own.keys())),
        # In the order of a wheel, which is that of names.
        *(f"{name} differs" for name in packed if name in own and own[name].read_bytes() != packed[name]),
    ]


def digest_shim(wheel: Path) -> str:
    """Return the SHA-256 of the shim that `wheel` installs; see `read_shim`."""
    return hashlib.sha256(read_shim(wheel)).hexdigest()


def read_shim(wheel: Path) -> bytes:
    """Return the shim that `wheel` installs.

    Raises:
        InputError: It is no wheel, or holds not exactly one shim.
    """
    shims = read_members(wheel, "*.data/scripts/locald-shim")
    if len(shims) != 1:
        raise InputError(f"{wheel}: holds {len(shims)} shims")
    return shims[0][1]


def read_members(wheel: Path, pattern: str) -> list[tuple[str, bytes]]:
    """Return the files of `wheel` whose names match, with their names: an archive may hold one name twice.

    Raises:
        InputError: It is no wheel, or a damaged one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if fnmatchcase(name, pattern)]
            return [(name, archive.read(name)) for name in names]
    # A damaged archive raises what its parts raise: a bad length, a bad deflate stream, an unknown codec.
    except (*DAMAGED, OSError, EOFError, RuntimeError, ValueError) as error:
        raise InputError(f"{wheel}: {error}") from error


def _ask(*command: str) -> str | None:
    """Return what git says, or None where there is no git or no repository."""
    try:
        return run_program(command, limit_s=GIT_LIMIT_S).strip()
    except InputError:
        return None
