"""The manual is today's: pages made from the code are as the code makes them, links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.manual import PAGES, ROOT

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CHECK = re.compile(r'Check\(\s*f?"([a-z]+\.[a-z{}]+)"')
# What tools make in the tree: cargo's targets, where a copy for mutants lies too.
MADE = re.compile(r"\.nox|reports|target(-.+)?")
TEXTS = sorted(
    path
    for path in ROOT.glob("**/*.md")
    if not any(MADE.fullmatch(part) for part in path.relative_to(ROOT).parts)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_is_as_the_code_makes_it(page: Path) -> None:
    """Else: `python -m tests.manual`."""
    assert page.read_text("utf-8") == PAGES[page]()


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Within the tree; addresses elsewhere are not asked."""
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), target
        if heading:
            assert heading in headings(other), target


def headings(page: Path) -> set[str]:
    """Return the anchors that the headings of a page have, as forges make them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_doctor_checks_are_explained() -> None:
    """Each check that doctor can print, and no other."""
    source = (ROOT / "locald" / "doctor.py").read_text("utf-8")
    made = set(CHECK.findall(source)) - {"subids.{kind}", "store.{name}", "cgroup.{name}"}
    made |= {
        "cgroup.memory",
        "cgroup.pids",
        "cgroup.cpu",
        "subids.uid",
        "subids.gid",
        "store.images",
        "store.bundles",
    }
    page = (ROOT / "docs" / "manual" / "reference" / "doctor.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z.]+)`", page, re.MULTILINE)) == made
