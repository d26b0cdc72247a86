"""What a measured run comes to: of several hosts, of clauses that did not run, and of what a person mistypes."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import coverage
import pytest

import vms
from conformance.measure import __main__ as measure
from conformance.measure import hosts, lines
from conformance.measure.arguments import ROOT
from conformance.measure.hosts import describe_judged
from conformance.planted import Judged
from tests.unit.conformance.samples import digest, make_wheel

USAGE = 2
HOSTS = ("local", "debian12-selinux")
GOOD = Judged({"AB-001": "PASS", "AB-002": "WAIVED", "CD-003": "NOT-APPLICABLE"})
POLICIES = ("ids", "limits", "mounts", "process")
DECIDING = (
    *("locald/spec.py", "shim/src/plan.rs", "shim/src/policy.rs"),
    *(f"shim/src/policy/{name}.rs" for name in POLICIES),
)


class Machines:
    """Hosts that are not there: what their clauses said, or what ended them."""

    def __init__(self) -> None:
        self.ends: dict[str, Judged | BaseException] = dict.fromkeys(HOSTS, GOOD)
        self.counted = DECIDING
        self.asked: list[str] = []
        self.wheels: list[str] = []

    def measure(self, profile: str, trace: Path, arguments: argparse.Namespace, *_: object) -> dict[str, Any]:
        """Do as `hosts.measure_clauses`."""
        self.asked.append(profile)
        self.wheels.append(hashlib.sha256(arguments.wheel.read_bytes()).hexdigest())
        end = self.ends[profile]
        if isinstance(end, BaseException):
            raise end
        trace.write_text("".join(f"SF:{name}\nDA:1,1\nend_of_record\n" for name in self.counted))
        return describe_judged(end) | {"pythons_began": 1, "pythons_told": 1}


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Let nothing be booted, and no page be made."""
    made = Machines()
    monkeypatch.setattr(hosts, "measure_clauses", made.measure)
    monkeypatch.setattr(measure, "write_pages", lambda directory, _sources: (directory / "html").mkdir())
    return made


def run(place: Path, *words: str) -> int:
    """Measure both hosts into `place`."""
    (place / "x.whl").write_bytes(make_wheel())
    asked = (f"--wheel={place}/x.whl", f"--directory={place}/out", f"--profile={','.join(HOSTS)}")
    return measure.main([*asked, *words])


def read(place: Path) -> dict[str, Any]:
    """Return the document."""
    document: dict[str, Any] = json.loads((place / "out/coverage.json").read_text())
    return document


def test_a_good_run_ends_with_0(machines: Machines, tmp_path: Path) -> None:
    """Each host measured once, however often it is named; all are in the document."""
    assert run(tmp_path, "--profile=local") == 0
    assert machines.asked == list(HOSTS)
    document = read(tmp_path)
    assert (list(document["sources"]), document["faults"]) == (list(HOSTS), [])
    assert document["sources"]["local"]["clauses"] == 2


@pytest.mark.parametrize(
    ("judged", "code", "says"),
    [
        (Judged({"AB-001": "FAIL", "AB-002": "FLAKY"}), 0, "2 clauses ran, 2 of them red on the measured"),
        (
            Judged({"AB-001": "PASS", "AB-002": "MISSING"}),
            1,
            "local: 1 clauses did not run: AB-002 (MISSING)",
        ),
        (Judged({"AB-001": "PASS", "AB-002": "ERROR"}), 1, "local: 1 clauses did not run: AB-002 (ERROR)"),
        (Judged({"AB-001": "PASS", "AB-002": "INVALID"}), 1, "1 clauses ran, 0 of them red"),
        (Judged({"AB-001": "PASS"}, ("2 of 9 cases …",)), 1, "error: local: 2 of 9 cases …"),
        (Judged({"AB-001": "NOT-APPLICABLE"}), 1, "error: local: no clause ran"),
    ],
)
def test_clauses_that_did_not_run_are_an_error(
    machines: Machines,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    judged: Judged,
    code: int,
    says: str,
) -> None:
    """A line that they would have reached looks like one that none reaches; a red one reached what it reached."""
    machines.ends["local"] = judged

    assert run(tmp_path) == code
    assert says in capsys.readouterr().out
    assert (read(tmp_path)["faults"] == []) is (code == 0)


def test_a_host_that_fails_costs_its_own_lines_only(
    machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named; what the others reached is written, and nothing is left of an earlier run."""
    machines.ends["local"] = vms.BootError("no answer")
    (tmp_path / "out/html").mkdir(parents=True)
    for old in ("coverage.json", "html/index.html", "local.info"):
        (tmp_path / "out" / old).write_text("old")

    assert run(tmp_path) == 1

    assert machines.asked == list(HOSTS)
    assert list(read(tmp_path)["sources"]) == [HOSTS[1]]
    assert read(tmp_path)["faults"] == ["local was not measured: no answer"]
    assert capsys.readouterr().out.endswith("coverage: error: local was not measured: no answer\n")
    assert not (tmp_path / "out/html/index.html").exists()
    assert not (tmp_path / "out/local.info").exists()


def test_where_nothing_was_measured_nothing_is_left(machines: Machines, tmp_path: Path) -> None:
    """The report of the run before would look like this one's."""
    machines.ends = dict.fromkeys(HOSTS, vms.BootError("no answer"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/coverage.json").write_text("old")

    assert run(tmp_path) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interruption_keeps_what_was_measured(
    machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, and as who presses Ctrl-C expects."""
    machines.ends[HOSTS[1]] = KeyboardInterrupt()

    assert run(tmp_path) == measure.INTERRUPTED
    assert list(read(tmp_path)["sources"]) == ["local"]
    assert "Traceback" not in capsys.readouterr().out
    assert read(tmp_path)["faults"] == [
        "interrupted; debian12-selinux was not measured, nor what comes after it"
    ]


def test_a_decision_that_nobody_counted_is_an_error(machines: Machines, tmp_path: Path) -> None:
    """It would be on no list."""
    machines.counted = DECIDING[1:]

    assert run(tmp_path) == 1
    assert read(tmp_path)["faults"] == [
        f"{host}: nothing was counted of locald/spec.py, whose lines decide" for host in HOSTS
    ]


def test_a_page_that_cannot_be_made_is_told(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line; the figures are there."""
    assert machines.asked == []

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measure, "write_pages", fail)
    assert run(tmp_path) == 1
    assert "error: no report could be written: [Errno 28] No space" in capsys.readouterr().out
    assert read(tmp_path)["sources"]


def test_the_wheel_is_read_once(machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run of the tree builds its own in the same place."""
    real = machines.measure

    def replace(*arguments: Any) -> dict[str, Any]:
        (tmp_path / "x.whl").write_bytes(b"of another run")
        return real(*arguments)

    monkeypatch.setattr(hosts, "measure_clauses", replace)
    assert run(tmp_path) == 0
    assert machines.wheels == [digest(make_wheel())] * 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tests={}/tests", "--clause=SIG-*"], "--clause needs --profile"),
        (["--wheel={}/x.whl", "--profile=local", "--clause=NOPE-*"], "--clause NOPE-*: no clause matches"),
        (["--wheel={}/x.whl", "--profile=local", "--clause="], "--clause : no clause matches"),
        (["--wheel={}/x.whl", "--profile=local", "--clause=REF-*"], "no such clause is about local"),
        (["--wheel={}/x.whl", "--profile=local,nowhere"], "nowhere: no such profile"),
        (["--wheel={}/x.whl", "--profile=debian11-refusal"], "locald cannot be installed there"),
        (["--tests={}/absent"], "/absent: no such file"),
        (["--wheel={}/absent", "--profile=local"], "/absent: no such file"),
        (["--profile=local"], "--profile needs --wheel"),
        ([], "nothing to measure"),
        (["--check", "--clause=SIG-*"], "--clause needs --profile"),
        (["--tests={}/tests", "--directory={}/x.whl"], "--directory {}/x.whl: File exists"),
        (["--tests={}/tests", "--directory=/proc"], "--directory /proc: "),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    machines: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    """Before anything is booted or written: coverage.py would make a data file of whatever it is told to read."""
    (tmp_path / "tests").write_bytes(b"")
    (tmp_path / "x.whl").write_bytes(make_wheel())
    before = sorted(tmp_path.iterdir())

    with pytest.raises(SystemExit) as ended:
        measure.main([f"--directory={tmp_path}/out", *(word.format(tmp_path) for word in words)])

    assert ended.value.code == USAGE
    assert says.format(tmp_path) in capsys.readouterr().err.splitlines()[-1]
    assert (machines.asked, sorted(tmp_path.iterdir())) == ([], before)


def test_words_can_be_judged_before_there_is_a_wheel(machines: Machines, tmp_path: Path) -> None:
    """The tests and the wheel of `nox -s coverage` come after."""
    for words in ([], ["--profile=local", "--clause=SIG-*"]):
        assert measure.main(["--check", f"--directory={tmp_path}/out", *words]) == 0
    assert machines.asked == []
    assert list((tmp_path / "out").iterdir()) == []


def test_tests_are_measured_without_a_host(machines: Machines, tmp_path: Path) -> None:
    """And a file that is none of coverage.py's is told in a line."""
    data = coverage.CoverageData(str(tmp_path / "tests"))
    data.add_lines({str(ROOT / "locald/spec.py"): [1]})
    data.write()
    words = [f"--directory={tmp_path}/out", f"--tests={tmp_path}/tests"]
    assert measure.main(words) == 0
    assert (list(read(tmp_path)["sources"]), machines.asked) == ([lines.TESTS], [])

    (tmp_path / "tests").write_text("no database")
    assert measure.main(words) == 1
    assert not (tmp_path / "out/coverage.json").exists()
