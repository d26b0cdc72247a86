"""The manual names every code of the shim, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "shim" / "src"
PAGES = ROOT / "docs" / "manual" / "reference"
# A code is what these three constructors and their like get as their first argument, or a field of that name.
CODE = re.compile(
    r'(?:code: |CODE: &str = |refused\(|failed\(|or_fail\(|refuse\()\s*"([a-z-]+(?:\.[a-z-]+)?)"'
)


def test_codes_and_manual_agree() -> None:
    """A code that no page explains helps nobody; one that is gone misleads."""
    used = {
        code
        for path in SOURCES.rglob("*.rs")
        if path.name != "tests.rs"
        for code in CODE.findall(path.read_text("utf-8").split("#[cfg(test)]\nmod tests {")[0])
    }
    page = (PAGES / "shim.md").read_text("utf-8")
    table = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`([a-z-]+(?:\.[a-z-]+)?)`", table))
    config = set(re.findall(r"`([a-z-]+\.[a-z-]+)`", (PAGES / "shim-config.md").read_text("utf-8")))
    assert used - named - config == set()
    sources = "".join(path.read_text("utf-8") for path in SOURCES.rglob("*.rs"))
    assert {code for code in named if f'"{code}"' not in sources} == set()
