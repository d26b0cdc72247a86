"""Judge what the shim is built from: cargo's own metadata against deny.toml.

The equal of `cargo deny check bans licenses sources` for the keys that deny.toml uses; an unknown key is an
error, so nothing that a reader takes for a rule is silently ignored. Why not cargo-deny:
docs/decisions/0051-dependencies.md.
Needs cargo and the standard library only; no network, the crates must have been fetched.
"""

import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHIM = ROOT / "shim"
METADATA_LIMIT_S = 60
KNOWN_KEYS = {
    "licenses": {"allow"},
    "bans": {"multiple-versions", "wildcards", "allow"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry", "allow-git"},
}


def read_metadata(manifest: Path) -> dict[str, Any]:
    """Return `cargo metadata` of `manifest`, exactly as its lock file has it."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--manifest-path={manifest}"]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=METADATA_LIMIT_S)  # noqa: S603
    metadata: dict[str, Any] = json.loads(result.stdout)
    return metadata


def find_unknown_keys(rules: dict[str, Any]) -> list[str]:
    """Return a complaint for each key of deny.toml that this program does not judge."""
    found = [f"{section}.{key}" for section, keys in rules.items() for key in keys]
    known = {f"{section}.{key}" for section, keys in KNOWN_KEYS.items() for key in keys}
    return [f"deny.toml: {key} is not judged by ci/dependencies.py" for key in found if key not in known]


def find_violations(metadata: dict[str, Any], lock: dict[str, Any], rules: dict[str, Any]) -> list[str]:
    """Return one sentence for each way in which the packages depart from `rules`. Pure."""
    packages = metadata["packages"]
    members = set(metadata["workspace_members"])
    allowed_names = {entry["name"] for entry in rules["bans"]["allow"]}
    registries = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    complaints = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if package["name"] not in allowed_names:
            complaints.append(f"{name}: not in bans.allow")
        if not is_licence_allowed(package["license"], rules["licenses"]["allow"]):
            complaints.append(f"{name}: licence {package['license']!r} is not in licenses.allow")
        if package["id"] not in members and package["source"] not in registries:
            complaints.append(f"{name}: source {package['source']!r} is not in sources.allow-registry")
        complaints += [
            f"{name}: dependency {needed['name']} has the requirement `*`"
            for needed in package["dependencies"]
            if package["id"] in members and needed["req"] == "*" and needed.get("path") is None
        ]
    versions = Counter(package["name"] for package in packages)
    complaints += [f"{name}: {count} versions" for name, count in versions.items() if count > 1]
    complaints += [
        f"{locked['name']} {locked['version']}: no checksum in Cargo.lock"
        for locked in lock["package"]
        if "source" in locked and "checksum" not in locked
    ]
    return complaints


def is_licence_allowed(expression: str | None, allowed: list[str]) -> bool:
    """Say whether a flat SPDX expression (`A OR B`, `A AND B`, the old `A/B`) can be met from `allowed`."""
    if expression is None or "(" in expression:
        return False
    alternatives = expression.replace("/", " OR ").split(" OR ")
    return any(all(term.strip() in allowed for term in choice.split(" AND ")) for choice in alternatives)


def main() -> int:
    """Print what is wrong, or how many packages are right."""
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    lock = tomllib.loads((SHIM / "Cargo.lock").read_text())
    metadata = read_metadata(SHIM / "Cargo.toml")
    complaints = find_unknown_keys(rules) + find_violations(metadata, lock, rules)
    for complaint in complaints:
        sys.stderr.write(f"dependencies: {complaint}\n")
    if not complaints:
        sys.stdout.write(f"dependencies: {len(metadata['packages'])} packages, all as deny.toml wants them\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
