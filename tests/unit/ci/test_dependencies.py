"""What a lock file may hold is judged as deny.toml says, for each tree of Rust in this repository."""

import tomllib
from typing import Any

import pytest

from ci import dependencies
from ci.dependencies import ROOT, TREES, find_unknown_keys, find_violations, is_licence_allowed

REGISTRY = "https://github.com/rust-lang/crates.io-index"
RULES: dict[str, Any] = {
    "graph": {"targets": [dependencies.TARGET]},
    "licenses": {"allow": ["Apache-2.0", "MIT"]},
    "bans": {"multiple-versions": "deny", "wildcards": "deny", "allow": [{"name": "own"}, {"name": "good"}]},
    "sources": {"allow-registry": [REGISTRY]},
}
OWN: dict[str, Any] = {
    "name": "own",
    "version": "0.1.0",
    "id": "own",
    "source": None,
    "manifest_path": str(ROOT / "shim/Cargo.toml"),
    "license": "Apache-2.0",
    "dependencies": [{"name": "good", "req": "^1", "path": None}],
}
GOOD: dict[str, Any] = {
    "name": "good",
    "version": "1.0.0",
    "id": "good",
    "source": f"registry+{REGISTRY}",
    "manifest_path": "/home/me/.cargo/registry/src/good/Cargo.toml",
    "license": "MIT OR Apache-2.0",
    "dependencies": [],
}
LOCK: dict[str, Any] = {"package": [{"name": "good", "version": "1.0.0", "source": "x", "checksum": "ab"}]}


def judge(*packages: dict[str, Any], lock: dict[str, Any] = LOCK, twice: str = "deny") -> list[str]:
    """Return the complaints about a tree of these packages."""
    rules = {**RULES, "bans": {**RULES["bans"], "multiple-versions": twice}}
    return find_violations({"packages": list(packages)}, lock, rules)


def test_what_fits_is_taken() -> None:
    """Else the complaints below could be of anything."""
    assert judge(OWN, GOOD) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "other"}, "other 1.0.0: not in bans.allow"),
        ({"license": "GPL-3.0-only"}, "good 1.0.0: licence 'GPL-3.0-only' is not in licenses.allow"),
        ({"license": None}, "good 1.0.0: licence None is not in licenses.allow"),
        (
            {"source": "git+https://example.org/good"},
            "good 1.0.0: source 'git+https://example.org/good' is not in sources.allow-registry",
        ),
        # A path outside of this repository.
        ({"source": None}, "good 1.0.0: source None is not in sources.allow-registry"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], complaint: str) -> None:
    """One sentence each."""
    assert judge(OWN, {**GOOD, **change}) == [complaint]


def test_versions_are_exact_and_single() -> None:
    """A wildcard of ours, a crate twice (unless the tree allows it), and one without a checksum."""
    wild = {**OWN, "dependencies": [{"name": "good", "req": "*", "path": None}]}
    older = {**GOOD, "version": "0.9.0"}

    assert judge(wild, GOOD) == ["own 0.1.0: dependency good has the requirement `*`"]
    assert judge(OWN, GOOD, older) == ["good: 2 versions"]
    assert judge(OWN, GOOD, older, twice="allow") == []
    bare = {"package": [{"name": "good", "version": "1.0.0", "source": "x"}]}
    assert judge(OWN, GOOD, lock=bare) == ["good 1.0.0: no checksum in Cargo.lock"]


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("MIT", True),
        ("Unlicense OR MIT", True),
        ("MIT/Apache-2.0", True),
        ("Apache-2.0 / MIT", True),
        ("(MIT OR GPL-2.0-only) AND Apache-2.0", True),
        ("(MIT OR Apache-2.0) AND NCSA", False),
        ("(GPL-2.0-only OR (MIT AND NCSA)) AND MIT", False),
        ("MIT AND NCSA", False),
        # With an exception it is another licence.
        ("Apache-2.0 WITH LLVM-exception", False),
        ("(MIT", False),
        ("", False),
        (None, False),
    ],
)
def test_licences_are_expressions(expression: str | None, *, met: bool) -> None:
    """As SPDX has them, and as crates wrote them before."""
    assert is_licence_allowed(expression, ["MIT", "Apache-2.0"]) is met


def test_a_key_that_nobody_judges_is_an_error() -> None:
    """A reader would take it for a rule."""
    assert find_unknown_keys(RULES) == []
    assert find_unknown_keys({"bans": {"deny": []}}) == [
        "deny.toml: bans.deny is not judged by ci/dependencies.py"
    ]


def test_every_tree_of_rust_is_locked_and_judged() -> None:
    """A manifest with a workspace of its own has a lock file and rules beside it, or above it as the shim has."""
    manifests = [
        path
        for path in ROOT.rglob("Cargo.toml")
        if not any(part.startswith(("target", ".")) for part in path.relative_to(ROOT).parts)
    ]

    assert {path.parent for path in manifests} == set(TREES.values())
    for rules, tree in TREES.items():
        assert (tree / "Cargo.lock").is_file()
        assert set(tomllib.loads(rules.read_text("utf-8"))) == set(dependencies.KNOWN_KEYS)
