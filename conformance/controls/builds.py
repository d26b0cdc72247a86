"""Builds of the shim that are no release: one in which rules are switched off, and one for each edit.

Both are kept in the kit's cache. The rules to switch off are written into a copy of the one build: no word of a caller
and no wrapper has to say them, so that the copy is a leaf as the product is. An edit says in the words of the source
what is done wrong, so that a fault costs the shim no line of its own; `Edit.apply` refuses one whose words the source
no longer has.
"""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conformance import inputs
from conformance.clauses import CatalogueError

ROOT: Final = Path(__file__).resolve().parent.parent.parent
# What cargo needs of the shim's directory.
CRATE: Final = ("Cargo.toml", "Cargo.lock", "build.rs", ".cargo", "src")
MUTANT_FLAGS: Final = "-C target-feature=+crt-static --cfg locald_mutants"
# `PLACE` of shim/src/rules.rs.
RULES_OFF: Final = re.compile(rb"(?<=LOCALD_SHIM_DISABLE_RULE=),{48}(?=\0)")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to one source file: `old`, which stands in it once, becomes `new`."""

    file: str
    old: str
    new: str

    @property
    def is_of_shim(self) -> bool:
        """Tell whether it takes a build; the package's files are planted as they are."""
        return self.file.startswith("shim/")

    def apply(self) -> str:
        """Return the whole text of the file with the change in it.

        Raises:
            CatalogueError: The file is not there, or does not hold `old` exactly once.
        """
        try:
            text = (ROOT / self.file).read_text("utf-8")
        except OSError as error:
            raise CatalogueError(f"controls: {self.file}: {error.strerror}") from error
        if (count := text.count(self.old)) != 1:
            raise CatalogueError(f"controls: {self.file} holds {self.old!r} {count} times, not once")
        return text.replace(self.old, self.new)


def make_mutant(rules: str, cache: Path) -> bytes:
    """Return a shim that does without `rules`, names of shim/src/rules.rs with commas between them.

    Raises:
        InputError: It does not build, or has no place for the names.
    """
    target = cache / "mutants"
    # Cargo knows whether it is current.
    inputs.build_crate(ROOT / "shim", target, "--profile=mutants", env={"RUSTFLAGS": MUTANT_FLAGS})
    return write_rules((target / "mutants" / "locald-shim").read_bytes(), rules)


def write_rules(program: bytes, rules: str) -> bytes:
    """Return `program` with the names in the place that it has for them.

    Raises:
        InputError: It has none or several, or they are too long for it.
    """
    changed, count = RULES_OFF.subn(lambda place: rules.encode().ljust(len(place[0]), b","), program)
    if count != 1 or len(changed) != len(program):
        raise inputs.InputError(
            f"a build of the shim has {count} places for {rules!r}, not one that is wide enough"
        )
    return changed


def find_edited(name: str, edit: Edit, cache: Path) -> Path:
    """Return a release build of the shim with `edit` in it, made unless the last one of this name is the same.

    Raises:
        InputError: It does not build.
        CatalogueError: As `Edit.apply`.
    """
    changed = edit.apply()
    kept = cache / "edited" / name
    with inputs.locked(cache / "edited"):
        tree, target = cache / "edited" / ".tree", cache / "edited" / ".target"
        _copy_crate(tree)
        (tree / edit.file.removeprefix("shim/")).write_text(changed, "utf-8")
        built = kept / _hash_tree(tree)
        if not built.exists():
            inputs.build_crate(tree, target, "--release")
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            # Its name is all that is asked next time, so what bears it is whole.
            aside = kept / ".aside"
            shutil.copy(target / "release" / "locald-shim", aside)
            aside.replace(built)
    return built


def _copy_crate(tree: Path) -> None:
    """Copy the crate with the time of now on each file: cargo looks at nothing else to see what has changed."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in CRATE:
        source = ROOT / "shim" / name
        if source.is_dir():
            shutil.copytree(source, tree / name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, tree / name)


def _hash_tree(tree: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found.update(f"{path.relative_to(tree)}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()
