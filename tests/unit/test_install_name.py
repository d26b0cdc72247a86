"""Nobody is told to install a bare name: what an index calls `locald` is another project's (decision 0063)."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SAID = [ROOT / "README.md", *sorted((ROOT / "docs/manual").rglob("*.md"))]
DONE = [*sorted((ROOT / "locald").rglob("*.py")), *sorted((ROOT / ".github").rglob("*.yml"))]
BARE = re.compile(r"\binstall (?:-\S+ )*locald(?![\w./-])")
WARNING = "would fetch a stranger's program"


def test_no_command_names_it() -> None:
    """Neither in prose, but for the warning itself, nor in what a hint prints, where its literals join."""
    for path in (*SAID, *DONE):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))
        for paragraph in text.split("\n\n"):
            found = BARE.search(paragraph)
            assert found is None or WARNING in paragraph or "again, with pip" in paragraph, (path, paragraph)


def test_the_patterns_find_what_they_are_for() -> None:
    """A bare name in each spelling, and no file of a release."""
    for line in ("pipx install locald", "pip install --upgrade locald && x", "uv tool install locald\n"):
        assert BARE.search(line), line
    for line in (
        "pipx install ./locald-*.whl",
        "pipx uninstall locald",
        "install locald-shim",
        "install locald/x",
    ):
        assert not BARE.search(line), line
