"""The workflows in .github: what zizmor (in `check`) cannot know of this project."""

import re
from pathlib import Path

import vms
from ci.fuzz import TARGETS
from conformance.clauses import read_catalogue
from conformance.controls import read_controls
from conformance.controls.account import Claims, Place, choose_claims, choose_clauses
from conformance.release.policy import read_policy

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


def test_every_claim_that_the_gate_asks_for_is_planted_somewhere() -> None:
    """On `local`, or on one of the hosts that show what `local` cannot."""
    catalogue, controls = read_catalogue(), tuple(read_controls().values())
    hosts = [Place(name, vms.read(name).traits) for name in read_matrix("conformance.yml", "host")]
    asked = [Place(name, vms.read(name).traits) for name in read_policy().profiles]
    local = hosts[0]
    assert local.profile == "local"

    def pairs(claimed: Claims) -> set[tuple[str, str]]:
        return {(control, clause) for control, found in claimed.items() for clause in found}

    planted = pairs(choose_claims(catalogue, controls, local)).union(
        *(pairs(choose_claims(catalogue, controls, host, local)) for host in hosts[1:])
    )
    wanted = set().union(*(pairs(choose_claims(catalogue, controls, host)) for host in asked))
    assert wanted == planted
    judged = {clause for host in asked for clause in choose_clauses(catalogue, host)}
    assert judged == {clause for _, clause in planted}


def test_every_target_is_fuzzed_at_night() -> None:
    """A target that no job names is fuzzed by nobody."""
    assert read_matrix("nightly.yml", "target") == TARGETS


def test_nothing_is_published_that_the_gate_did_not_pass() -> None:
    """In one job, the gate first, on the files that go out."""
    (text,) = [path.read_text() for path in WORKFLOWS if path.name == "release.yml"]
    job = text.partition("\n  publish:\n")[2]
    assert job.index("ci/release-gate dist/*.whl") < job.index("gh release")
    # Where the key is, nothing runs that a name elsewhere decides, and nothing is installed any more.
    signing = text.partition("\n  gate:\n")[2].partition("\n  publish:\n")[0]
    assert "\n    container:" not in signing
    assert "ci/nox" not in signing.partition("Sign the report")[2].partition("- run:")[0]
    assert "continue-on-error" not in text
    assert "if:" not in job
    # An index takes a name from whoever comes first, and ours is another project's there.
    assert "id-token" not in job
    assert "pypi" not in text
