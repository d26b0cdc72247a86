"""The catalogue: what its parser accepts, and what stops a run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vms
from conformance.clauses import (
    CATALOGUE,
    CatalogueError,
    check_controls,
    check_coverage,
    find_tests,
    parse_catalogue,
    read_catalogue,
    select,
)
from conformance.controls import read_controls

GOOD = """
["BUNDLE-001"]
level = "MUST"
statement = "It runs."
observable = "exit code 0"
source = "design 2"
profiles = ["*", "!*-refusal"]
controls = ["always-fails"]
"""


def test_a_clause_is_read() -> None:
    """Every key arrives."""
    clause = parse_catalogue(GOOD, family="BUNDLE")["BUNDLE-001"]

    assert (clause.id, clause.level, clause.family) == ("BUNDLE-001", "MUST", "BUNDLE")
    assert clause.controls == ("always-fails",)
    assert clause.applies_to("local")
    assert not clause.applies_to("debian11-refusal")


def test_a_clause_is_ours_unless_it_says_more() -> None:
    """Patterns as for profiles; what is left out is the shim alone."""
    ours, wide = (
        parse_catalogue(GOOD + more, family="BUNDLE")["BUNDLE-001"]
        for more in ("", 'runtimes = ["*", "!runc"]\n')
    )

    assert [ours.is_about(name) for name in ("locald-shim", "crun", "runc")] == [True, False, False]
    assert [wide.is_about(name) for name in ("locald-shim", "crun", "runc")] == [True, True, False]


def test_traits_choose_as_names_do() -> None:
    """The last match decides; a host that has to be refused is meant by its trait only."""

    def applies(patterns: list[str], *traits: str) -> bool:
        text = GOOD.replace('["*", "!*-refusal"]', json.dumps(patterns))
        return parse_catalogue(text, family="BUNDLE")["BUNDLE-001"].applies_to("some", traits)

    assert applies(["*"], "selinux")
    assert applies(["@selinux"], "selinux")
    assert not applies(["@selinux"], "apparmor")
    assert not applies(["*", "!@no-user-namespaces"], "no-user-namespaces", "apparmor")
    assert applies(["*", "!@no-user-namespaces"], "apparmor")
    assert not applies(["*"], "unsupported")
    assert not applies(["some"], "unsupported")
    assert applies(["@unsupported"], "unsupported")


def test_every_trait_that_a_clause_or_a_control_names_is_one_of_a_profile() -> None:
    """A slip of the pen would be a clause that applies nowhere, or everywhere."""
    named = {clause.id: clause.profiles for clause in read_catalogue().values()}
    named |= {control.name: control.hosts for control in read_controls().values()}
    for name, patterns in named.items():
        for pattern in patterns:
            trait = pattern.removeprefix("!")
            assert not trait.startswith("@") or trait[1:] in vms.TRAITS, name


@pytest.mark.parametrize(
    "bad",
    [
        GOOD + GOOD,
        GOOD + "runtimes = []\n",
        GOOD.replace('"MUST"', '"MAY"'),
        GOOD.replace('"MUST"', "[]"),
        GOOD.replace("BUNDLE-001", "BUNDLE-1"),
        GOOD.replace("BUNDLE-001", "LEAF-001"),
        GOOD.replace('source = "design 2"', ""),
        GOOD + "extra = 1\n",
        GOOD.replace('"It runs."', '" "'),
        GOOD.replace('["always-fails"]', "[]"),
        GOOD.replace('["always-fails"]', '["a", "a"]'),
        GOOD.replace('["always-fails"]', '"a"'),
        "BUNDLE-001 = 1",
        "not toml",
    ],
    ids=[
        *(
            "duplicate",
            "no-runtimes",
            "level",
            "no-level",
            "id",
            "family",
            "missing",
            "unknown",
            "empty",
            "no-controls",
            "twice",
            "text",
            "table",
        ),
        "syntax",
    ],
)
def test_a_fault_is_refused(bad: str) -> None:
    """Each fault stops the parser."""
    with pytest.raises(CatalogueError):
        parse_catalogue(bad, family="BUNDLE")


def test_an_empty_catalogue_is_refused(tmp_path: Path) -> None:
    """No clause is no catalogue."""
    with pytest.raises(CatalogueError):
        read_catalogue(tmp_path)


def test_coverage_goes_both_ways() -> None:
    """A clause without a test and a test of an unknown clause are both named."""
    catalogue = parse_catalogue(GOOD, family="BUNDLE")

    check_coverage(catalogue, ["BUNDLE-001"])
    with pytest.raises(CatalogueError, match=r"unknown clause BUNDLE-002; no test for clause BUNDLE-001"):
        check_coverage(catalogue, ["BUNDLE-002"])


def test_controls_must_exist() -> None:
    """A clause that names a control which nobody planted is a fault."""
    catalogue = parse_catalogue(GOOD, family="BUNDLE")

    check_controls(catalogue, ["always-fails"])
    with pytest.raises(CatalogueError, match="always-fails"):
        check_controls(catalogue, [])


def test_selection_by_glob() -> None:
    """Globs, several, in any case."""
    catalogue = read_catalogue()

    assert select(catalogue, "leaf-001,BUNDLE-00[12]") == ("BUNDLE-001", "BUNDLE-002", "LEAF-001")
    assert select(catalogue, "nothing") == ()


def test_tests_are_found_in_the_source(tmp_path: Path) -> None:
    """The marks are read without importing; a test without one is a fault."""
    source = '@pytest.mark.clause("A-001", "B-002")\ndef test_x() -> None: ...\ndef helper() -> None: ...\n'
    (tmp_path / "test_a.py").write_text(source)
    assert find_tests(tmp_path) == {"test_a.py::test_x": ("A-001", "B-002")}

    (tmp_path / "test_b.py").write_text("def test_y() -> None: ...\n")
    with pytest.raises(CatalogueError, match="test_y names no clause"):
        find_tests(tmp_path)


def test_a_clause_is_named_literally(tmp_path: Path) -> None:
    """A name that only appears at run time cannot be checked before it."""
    (tmp_path / "test_a.py").write_text("@pytest.mark.clause(NAME)\ndef test_x() -> None: ...\n")

    with pytest.raises(CatalogueError):
        find_tests(tmp_path)


def test_the_shipped_catalogue_is_sound() -> None:
    """The real catalogue and the real tests cover each other."""
    catalogue = read_catalogue()
    tests = find_tests(CATALOGUE.parent)

    check_coverage(catalogue, {name for named in tests.values() for name in named})
    assert len(catalogue) >= 40
    assert {clause.family for clause in catalogue.values()} >= {"BUNDLE", "LEAF", "DISC", "PRIV", "ID", "SIG"}


@pytest.mark.spawns
def test_a_reader_that_has_enough_ends_the_list() -> None:
    """`list | head`: as any program ends whose reader is gone, and nothing is said."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "conformance", "list"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
