"""Judge what the shim, its fuzzer and its twin are built from: cargo's own metadata against each tree's deny.toml.

The equal of `cargo deny check bans licenses sources` for the keys that deny.toml uses; an unknown key is an
error, so nothing that a reader takes for a rule is silently ignored. Why not cargo-deny:
docs/decisions/0051-dependencies.md.
Needs cargo and the standard library only; no network, the crates must have been fetched.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The rules, and the tree that they are for.
TREES = {
    ROOT / "deny.toml": ROOT / "shim",
    ROOT / "shim/fuzz/deny.toml": ROOT / "shim/fuzz",
    ROOT / "shim/twin/deny.toml": ROOT / "shim/twin",
}
TARGET = "x86_64-unknown-linux-gnu"
METADATA_LIMIT_S = 60
# Stands for a group in parentheses that can be met.
MET = "+"
KNOWN_KEYS = {
    "graph": {"targets"},
    "licenses": {"allow", "clarify"},
    "bans": {"multiple-versions", "wildcards", "allow"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry", "allow-git"},
}


def read_metadata(manifest: Path) -> dict[str, Any]:
    """Return `cargo metadata` of `manifest`, exactly as its lock file has it: what this platform is given."""
    command = [
        "cargo",
        "metadata",
        "--locked",
        "--offline",
        "--format-version=1",
        f"--filter-platform={TARGET}",
    ]
    command.append(f"--manifest-path={manifest}")
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=METADATA_LIMIT_S)  # noqa: S603
    metadata: dict[str, Any] = json.loads(result.stdout)
    return metadata


def find_unknown_keys(rules: dict[str, Any]) -> list[str]:
    """Return a complaint for each key of deny.toml that this program does not judge."""
    found = [f"{section}.{key}" for section, keys in rules.items() for key in keys]
    known = {f"{section}.{key}" for section, keys in KNOWN_KEYS.items() for key in keys}
    return [f"deny.toml: {key} is not judged by ci/dependencies.py" for key in found if key not in known]


def find_violations(metadata: dict[str, Any], lock: dict[str, Any], rules: dict[str, Any]) -> list[str]:
    """Return one sentence for each way in which the packages depart from `rules`. Pure.

    Without `bans.allow` any name may be there.
    """
    packages = metadata["packages"]
    # The tree itself, and the shim that it is built with.
    members = {package["id"] for package in packages if is_own(package)}
    allowed_names = {entry["name"] for entry in rules["bans"].get("allow", packages)}
    clarified = {entry["crate"]: entry["expression"] for entry in rules["licenses"].get("clarify", [])}
    registries = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    complaints = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if package["name"] not in allowed_names:
            complaints.append(f"{name}: not in bans.allow")
        licence = package["license"] or clarified.get(f"{package['name']}@{package['version']}")
        if not is_licence_allowed(licence, rules["licenses"]["allow"]):
            complaints.append(f"{name}: licence {licence!r} is not in licenses.allow")
        if package["id"] not in members and package["source"] not in registries:
            complaints.append(f"{name}: source {package['source']!r} is not in sources.allow-registry")
        complaints += [
            f"{name}: dependency {needed['name']} has the requirement `*`"
            for needed in package["dependencies"]
            if package["id"] in members and needed["req"] == "*" and needed.get("path") is None
        ]
    if rules["bans"]["multiple-versions"] == "deny":
        versions = Counter(package["name"] for package in packages)
        complaints += [f"{name}: {count} versions" for name, count in versions.items() if count > 1]
    complaints += [
        f"{locked['name']} {locked['version']}: no checksum in Cargo.lock"
        for locked in lock["package"]
        if "source" in locked and "checksum" not in locked
    ]
    return complaints


def is_own(package: dict[str, Any]) -> bool:
    """Say whether a package is one of this repository's."""
    return package["source"] is None and Path(package["manifest_path"]).is_relative_to(ROOT)


def is_licence_allowed(expression: str | None, allowed: list[str]) -> bool:
    """Say whether an SPDX expression (`A OR B`, `(A OR B) AND C`, the old `A/B`) can be met from `allowed`."""
    text = (expression or "").replace("/", " OR ")
    while inner := re.search(r"\(([^()]*)\)", text):
        text = text.replace(inner[0], MET if _is_flat_met(inner[1], allowed) else "")
    return _is_flat_met(text, allowed)


def _is_flat_met(text: str, allowed: list[str]) -> bool:
    return any(
        all(term.strip() in (MET, *allowed) for term in choice.split(" AND "))
        for choice in text.split(" OR ")
    )


def main() -> int:
    """Print what is wrong, or how many packages of each tree are right."""
    wrong = False
    for rules_file, tree in TREES.items():
        rules = tomllib.loads(rules_file.read_text())
        lock = tomllib.loads((tree / "Cargo.lock").read_text())
        metadata = read_metadata(tree / "Cargo.toml")
        complaints = find_unknown_keys(rules) + find_violations(metadata, lock, rules)
        name = tree.relative_to(ROOT)
        for complaint in complaints:
            sys.stderr.write(f"dependencies: {name}: {complaint}\n")
        if not complaints:
            count = len(metadata["packages"])
            sys.stdout.write(f"dependencies: {name}: {count} packages, all as its deny.toml wants them\n")
        wrong = wrong or bool(complaints)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
