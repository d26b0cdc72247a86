"""Every number of the attack catalogue has a clause of its own, and each clause's faults are those of its number."""

import re
from pathlib import Path

import pytest

from conformance import guard, looks
from conformance.clauses import read_catalogue
from conformance.controls import read_controls
from conformance.look import SYSCTLS
from tests.clause_page import ATTACKS, clause_page, find_answers

LEAST_CLAUSES = 150


def find_missing(page: str) -> list[int]:
    """Return the numbers whose row on the page names no clause of that number."""
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    return [number for number in ATTACKS if f"`ATK-{number:03}`" not in rows.get(str(number), "")]


def test_every_number_has_a_clause() -> None:
    """1 to 54, but 46: verbs that do not exist."""
    page = clause_page()
    assert find_missing(page) == []
    # The check can fail.
    assert find_missing(page.replace("`ATK-016`", "`BUNDLE-016`")) == [16]
    assert len(read_catalogue()) >= LEAST_CLAUSES


def test_a_clause_of_a_number_cites_it() -> None:
    """ATK-016 is about attack 16, and says so in its source."""
    answers = find_answers(read_catalogue())
    assert all(f"ATK-{number:03}" in answers[number] for number in ATTACKS)


def test_rules_that_are_switched_off_belong_to_the_number() -> None:
    """A build without rule 23-resolve must be seen by the clause of 23, not by a neighbour's alone."""
    controls = read_controls()
    for clause in (clause for clause in read_catalogue().values() if clause.family == "ATK"):
        # ATK-128 is another clause of 28.
        number = int(clause.id.partition("-")[2]) % 100
        rules = [rule for name in clause.controls for rule in controls[name].rules.split(",") if rule]
        assert all(rule.partition("-")[0] == str(number) for rule in rules if "," not in rule) or number in {
            3,
            38,
        }


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for all that a guard looks at."""
    monkeypatch.setattr(guard, "PLACES", (str(tmp_path),))
    monkeypatch.setattr(guard, "LISTED", (str(tmp_path),))
    monkeypatch.setattr(guard, "FIRST_UID", 1 << 40)
    monkeypatch.setattr(guard, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(guard, "CGROUPS", str(tmp_path / "cgroups"))
    monkeypatch.setattr(guard, "find_children", dict)
    # Nor shall the process of all tests adopt the orphans of others.
    monkeypatch.setattr(guard, "adopt_orphans", lambda: None)
    return tmp_path


def test_only_the_mounts_of_logins_come_and_go_by_themselves() -> None:
    """A runtime directory of logind's, and nothing that is mounted beside it or in it."""
    for point, own in (
        ("/run/user/1001", True),
        ("/run/user/1001/x", False),
        ("/run/user", False),
        ("/run/user/x", False),
        ("/srv/run/user/1001", False),
    ):
        assert looks.is_of_session(f"/ {point} rw,nosuid - tmpfs tmpfs rw") is own, point


def test_what_another_worker_mounts_is_not_looked_at() -> None:
    """A job's bundle and a copy of the installation carry the token of who made them."""
    for point, theirs in (
        ("/var/lib/locald-kit/work/kit-gw0-4669-148/rootfs", True),
        ("/opt/locald-kit-gw0-4669-148", True),
        ("/opt/locald-kit-gw1-466a-7", False),
        ("/var/lib/locald-kit/work/kit-gw1-466a-12/rootfs/proc", False),
        ("/var/lib/locald-kit/work", False),
        ("/etc", False),
    ):
        mount = f"/ {point} rw,nosuid - tmpfs tmpfs rw"
        assert looks.is_of_neighbour(mount, ["kit-gw1-466a-9"]) is theirs, point


def test_a_guard_sees_nothing_where_nothing_changed(watched: Path) -> None:
    """And takes its canary in again; a neighbour's traces are not its business."""
    (watched / "cgroups" / "locald-other.leaf").mkdir(parents=True)
    told = guard.Guard(["mine"]).end()
    assert told["changes"] == []
    assert told["compared"] > len(SYSCTLS)
    assert [path.name for path in watched.iterdir()] == ["cgroups"]


@pytest.mark.parametrize("what", ["touched", "removed", "replaced", "file", "leaf", "state"])
def test_a_guard_sees_each_change(watched: Path, what: str) -> None:
    """A canary that was written to, is gone or another file; a new name; a cgroup or state of its own."""
    keeper = guard.Guard(["mine"])
    (canary,) = watched.glob(f"{guard.CANARY}*")
    match what:
        case "touched":
            canary.write_text("x")
        case "removed":
            canary.unlink()
        case "replaced":
            content = canary.read_text()
            canary.unlink()
            canary.write_text(content)
        case "file":
            (watched / "left").write_text("")
        case "leaf":
            (watched / "cgroups" / "locald-mine.leaf").mkdir(parents=True)
        case "state":
            (watched / "state" / "1000" / "mine").mkdir(parents=True)
    assert keeper.end()["changes"] != []
