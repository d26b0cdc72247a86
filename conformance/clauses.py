"""The clause catalogue: one testable rule an entry, and the rules a catalogue itself obeys.

Pure but for reading the TOML files. Imports nothing of the kit: everything else hangs on these names.
"""

import ast
import fnmatch
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

CATALOGUE: Final = Path(__file__).parent / "catalogue"

UNSUPPORTED: Final = "unsupported"

Level = Literal["MUST", "SHOULD"]

_ID: Final = re.compile(r"(?P<family>[A-Z]{2,8})-[0-9]{3}")
_TEXT_KEYS: Final = ("statement", "observable", "source")
_KEYS: Final = frozenset({"level", "profiles", "controls", *_TEXT_KEYS})
# What is under test, as command lines, reports and the catalogue call it among the runtimes. A clause is about it, or
# what is installed around it, unless it says more.
OURS: Final = "locald-shim"


class CatalogueError(Exception):
    """The catalogue, or the tests beside it, break a rule: nothing may run on top of it."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One rule an implementation keeps, in words of our own, and how a test can see it."""

    id: str
    level: Level
    statement: str
    observable: str
    source: str
    # Patterns in the manner of fnmatch, read from left to right; a leading "!" takes profiles away again. A word after
    # "@" is a trait of the profile's instead of its name.
    profiles: tuple[str, ...]
    # Names of planted faults (conformance/controls) of which each must turn this clause red.
    controls: tuple[str, ...]
    # Patterns like those of `profiles`: the runtimes that the clause is about. What is about the shim's command
    # line, codes and own rules says nothing of runc.
    runtimes: tuple[str, ...] = (OURS,)

    @property
    def family(self) -> str:
        """Return the chapter of the clause: `BUNDLE` for `BUNDLE-012`."""
        return self.id.partition("-")[0]

    def applies_to(self, profile: str, traits: Collection[str] = ()) -> bool:
        """Say whether the clause has to hold on `profile`, which has these traits.

        A host on which the product has to refuse (`UNSUPPORTED`) is none of those that "*" means.
        """
        return covers(self.profiles, "" if UNSUPPORTED in traits else profile, traits)

    def is_about(self, runtime: str) -> bool:
        """Say whether the clause says anything of `runtime`."""
        return covers(self.runtimes, runtime)


def covers(patterns: Iterable[str], name: str, traits: Collection[str] = ()) -> bool:
    """Say whether patterns like those of `Clause.profiles` take `name` in; the last that matches decides."""
    covered = False
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        by_trait = wanted.startswith("@") and wanted[1:] in traits
        if by_trait or (name and fnmatch.fnmatchcase(name, wanted)):
            covered = not pattern.startswith("!")
    return covered


Catalogue = Mapping[str, Clause]


def parse_catalogue(text: str, *, family: str) -> dict[str, Clause]:
    """Return the clauses of one file, which holds one family and no more.

    Raises:
        CatalogueError: Not TOML, a duplicate (TOML refuses it), an unknown or missing key, a wrong type,
            an id of another family, a level other than MUST and SHOULD, an empty text or list.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{family}: {error}") from error
    return {name: _parse_clause(name, entry, family) for name, entry in document.items()}


def read_catalogue(directory: Path = CATALOGUE) -> Catalogue:
    """Return all clauses below `directory`, sorted by id.

    Raises:
        CatalogueError: As `parse_catalogue`; also when the directory holds no clause at all.
    """
    clauses: dict[str, Clause] = {}
    for path in sorted(directory.glob("*.toml")):
        # The family is the file's name, so two files cannot claim one id.
        clauses |= parse_catalogue(path.read_text("utf-8"), family=path.stem.upper())
    if not clauses:
        raise CatalogueError(f"no clause in {directory}")
    return dict(sorted(clauses.items()))


def check_coverage(catalogue: Catalogue, tested: Iterable[str]) -> None:
    """Refuse a catalogue with a clause that no test names, and a test that names no known clause.

    Args:
        catalogue: Every clause.
        tested: The ids that the collected tests name.

    Raises:
        CatalogueError: Naming every id at fault, not only the first.
    """
    named = set(tested)
    faults = [f"unknown clause {clause}" for clause in sorted(named - set(catalogue))]
    faults += [f"no test for clause {clause}" for clause in sorted(set(catalogue) - named)]
    if faults:
        raise CatalogueError("; ".join(faults))


def check_controls(catalogue: Catalogue, known: Iterable[str]) -> None:
    """Refuse a clause that names a control which does not exist.

    Raises:
        CatalogueError: Naming every such pair.
    """
    names = set(known)
    faults = [
        f"{clause.id} names the unknown control {control}"
        for clause in catalogue.values()
        for control in clause.controls
        if control not in names
    ]
    if faults:
        raise CatalogueError("; ".join(faults))


def select(catalogue: Catalogue, pattern: str) -> tuple[str, ...]:
    """Return the ids that match `pattern`: globs separated by commas, case does not matter."""
    return tuple(name for name in catalogue if matches(name.upper(), pattern.upper()))


def matches(name: str, pattern: str) -> bool:
    """Say whether `name` matches one of the globs in `pattern`, which commas separate."""
    return any(fnmatch.fnmatchcase(name, glob.strip()) for glob in pattern.split(","))


def _parse_clause(name: str, entry: object, family: str) -> Clause:
    match = _ID.fullmatch(name)
    if match is None:
        raise CatalogueError(f"{name}: not an id (FAMILY-000)")
    if match["family"] != family:
        raise CatalogueError(
            f"{name}: belongs in {match['family'].lower()}.toml, not in {family.lower()}.toml"
        )
    if not isinstance(entry, dict):
        raise CatalogueError(f"{name}: not a table")
    if faults := sorted(_KEYS ^ (set(entry) - {"runtimes"})):
        raise CatalogueError(f"{name}: unknown or missing: {', '.join(faults)}")
    # A tuple, not a set: what TOML has beside texts need not have a hash.
    if entry["level"] not in ("MUST", "SHOULD"):
        raise CatalogueError(f"{name}: level is neither MUST nor SHOULD")
    for key in _TEXT_KEYS:
        if not is_text(entry[key]):
            raise CatalogueError(f"{name}: {key} is not a text")
    return Clause(
        id=name,
        level=cast("Level", entry["level"]),
        statement=entry["statement"],
        observable=entry["observable"],
        source=entry["source"],
        profiles=parse_names(name, "profiles", entry["profiles"]),
        controls=parse_names(name, "controls", entry["controls"]),
        runtimes=parse_names(name, "runtimes", entry.get("runtimes", [OURS])),
    )


def is_text(value: object) -> bool:
    """Say whether a value of TOML is a text that says something."""
    return isinstance(value, str) and bool(value.strip())


def parse_names(where: str, key: str, value: object) -> tuple[str, ...]:
    """Return the names that a value of TOML lists, or patterns of them.

    Args:
        where: The entry, for messages.
        key: The entry's key, for messages.
        value: What stands there.

    Raises:
        CatalogueError: It is no list, is empty, holds something else than names, or one twice.
    """
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise CatalogueError(f"{where}: {key} is not a list of names")
    if len(set(value)) != len(value):
        raise CatalogueError(f"{where}: {key} names something twice")
    return tuple(value)


def find_tests(directory: Path) -> dict[str, tuple[str, ...]]:
    """Return every test below `directory` with the clauses it names, read from the source.

    Read and not collected, so that a run can be refused before a machine is booted for it, and so that the process
    that hands tests out to workers (which never collects) knows what is tested.

    Raises:
        CatalogueError: A test names no clause, or one that is not written out.
    """
    tests: dict[str, tuple[str, ...]] = {}
    for name, node in _list_tests(directory):
        tests[name] = tuple(clause for mark in node.decorator_list for clause in _named_by(mark))
        if not tests[name]:
            raise CatalogueError(f"{name} names no clause")
    return tests


def find_modal(directory: Path) -> frozenset[str]:
    """Return the tests below `directory` that take `mode`: a case in each that runtime and host can have."""
    return frozenset(
        name for name, node in _list_tests(directory) if any(word.arg == "mode" for word in node.args.args)
    )


def _list_tests(directory: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted(directory.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.name}::{node.name}", node


def _named_by(mark: ast.expr) -> Iterator[str]:
    if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != "pytest.mark.clause":
        return
    for argument in mark.args:
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise CatalogueError(f"line {mark.lineno}: a clause is named by a literal text")
        yield argument.value
