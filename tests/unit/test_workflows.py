"""The workflows in .github: what zizmor (in `check`) cannot know of this project."""

import re
from pathlib import Path

from ci.fuzz import TARGETS
from conformance.release.gate import read_policy

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / ".github/workflows").glob("*.yml"))


def test_every_action_is_pinned_and_says_its_version() -> None:
    """By the digest of a commit: a tag can be moved. Files of this tree need no pin."""
    used = [
        line.strip(" -") for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line
    ]
    assert len(used) > 10
    for line in used:
        assert re.search(r"uses: (\./|[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d)", line), line


def read_matrix(workflow: str, name: str) -> tuple[str, ...]:
    """Return the values of one dimension of a workflow's matrix."""
    (text,) = [path.read_text() for path in WORKFLOWS if path.name == workflow]
    block = re.search(rf"^        {name}:\n((?:          - .*\n)+)", text, re.MULTILINE)
    assert block is not None
    return tuple(re.findall(r"- (\S+)", block[1]))


def test_the_matrix_is_the_policys() -> None:
    """A profile that the gate asks for and no job runs would refuse every release."""
    assert read_matrix("conformance.yml", "profile") == read_policy().profiles


def test_every_target_is_fuzzed_at_night() -> None:
    """A target that no job names is fuzzed by nobody."""
    assert read_matrix("nightly.yml", "target") == TARGETS


def test_nothing_is_published_that_the_gate_did_not_pass() -> None:
    """In one job, the gate first, on the files that go out."""
    (text,) = [path.read_text() for path in WORKFLOWS if path.name == "release.yml"]
    job = text.partition("\n  publish:\n")[2]
    assert job.index("ci/release-gate dist/*.whl") < job.index("publish --trusted-publishing")
    assert "continue-on-error" not in text
    assert "if:" not in job
