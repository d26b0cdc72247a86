"""A run of the kit from boot to report, on a machine that is not there: what happens around the clauses."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import vms
from conformance import locks
from conformance.report import Json
from conformance.report_files import read_report
from tests.unit.conformance.fake_machine import PLUGIN
from tests.unit.conformance.samples import digest, make_wheel
from vms import home

ROOT = Path(__file__).resolve().parents[3]
# More of the plugin, for some tests.
IS_UP = 'STATES["local"] = "up"\n'
NO_SPACE = """
from conformance import report_files
def write_profile(*_):
    raise OSError(28, "No space left on device", "report.json")
report_files.write_profile = write_profile
"""
ANOTHER_WHEEL = """
import hashlib, pathlib
def replace_wheel(guest, product, *_, **__):
    pathlib.Path(os.environ["CALLS"]).with_name("x.whl").write_bytes(b"of another run")
    note(hashlib.sha256(product.wheel.read_bytes()).hexdigest())
    return {}
install.install = replace_wheel
"""
WAIVED = """
import pathlib
from conformance import waivers
waivers.WAIVERS = pathlib.Path(os.environ["CALLS"]).with_name("waivers.toml")
waivers.WAIVERS.write_text("".join(
    f'[[waiver]]\\nclause = "{clause}"\\nprofile = "lo*"\\nreason = "r"\\nowner = "o"\\nuntil = 9999-12-31\\n'
    for clause in ("BUNDLE-001", "BUNDLE-003")
))
"""
A_SHOULD_FAILS = """
import dataclasses
from conformance import clauses
read_catalogue = clauses.read_catalogue
def soften():
    catalogue = read_catalogue()
    return catalogue | {"BUNDLE-003": dataclasses.replace(catalogue["BUNDLE-003"], level="SHOULD")}
clauses.read_catalogue = soften
def play(item):
    assert not any("BUNDLE-003" in mark.args for mark in item.iter_markers("clause"))
"""
NOT_COLLECTED = """
import pytest
def pytest_collection(session):
    session.config.option.continue_on_collection_errors = True
collect = pytest.Module.collect
def collect_some(module):
    if module.path.name == "test_bind.py":
        raise OSError("a file of the kit's")
    return collect(module)
pytest.Module.collect = collect_some
"""
WAITS = """
from pathlib import Path
from conformance import inputs, locks
locks.LIMIT_S, locks.TOLD_AFTER_S = 0.3, 0.1
def wait(*_, **__):
    with inputs.locked(Path(os.environ["CALLS"]).with_name("cache")):
        return {}
install.install = wait
"""
ONE_WORKER_FAILS = """
def play(item):
    assert os.environ["PYTEST_XDIST_WORKER"] != "gw0"
"""
EDITED_MEANWHILE = """
from conformance import provenance
digest_files = provenance.digest_files
def digest_edited(*arguments, **named):
    provenance.digest_files = lambda *_, **__: "f" * 64
    return digest_files(*arguments, **named)
provenance.digest_files = digest_edited
"""
INTERRUPTED_LATE = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        raise KeyboardInterrupt
"""
NOTES_THE_HOLD = """
import contextlib
from conformance import report_files
real_hold, real_write = vms.hold, report_files.write_profile
@contextlib.contextmanager
def hold(name):
    with real_hold(name):
        note("hold")
        yield
    note("release")
def write_profile(*arguments):
    note("report")
    return real_write(*arguments)
vms.hold, report_files.write_profile = hold, write_profile
"""


def run_kit(
    directory: Path, fault: str, *options: str, terminal: int | None = None, more: str = "", addopts: str = ""
) -> tuple[int, str, list[str]]:
    """Run two clauses; return the exit code, what was printed, and what was done with the machine.

    Args:
        directory: For everything that the run leaves, its machines' locks too: tests run beside each other.
        fault: What goes wrong, for the plugin.
        options: Of the kit and of pytest.
        terminal: Of the run, if it has one.
        more: What else the plugin does.
        addopts: Options that the environment brings.
    """
    (directory / "fake_machine.py").write_text(PLUGIN + more)
    (directory / "x.whl").write_bytes(make_wheel())
    calls = directory / "calls"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "conformance", "-p", "fake_machine", "-p", "no:cacheprovider"),
            *(f"--wheel={directory}/x.whl", "--clause=BUNDLE-001,BUNDLE-003", "--seed=3"),
            *(f"--report-dir={directory}/run", *options),
        ],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}",
            "FAULT": fault,
            "CALLS": str(calls),
            "PYTEST_ADDOPTS": addopts,
            home.VARIABLE: str(directory / "vms"),
        },
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    return done.returncode, (done.stdout or b"").decode(), calls.read_text().split() if calls.exists() else []


def profile_of(directory: Path) -> Json:
    """Return the one profile of the report."""
    (profile,) = read_report(directory / "run/report.json")["profiles"]
    result: Json = profile
    return result


@pytest.mark.spawns
def test_a_machine_that_goes_away_is_no_failed_clause(tmp_path: Path) -> None:
    """ERROR, with the words of the machine; the report is whole, says how to judge again, and the machine is gone."""
    code, said, calls = run_kit(tmp_path, "lost")
    profile = profile_of(tmp_path)

    assert (code, calls) == (1, ["up", "destroy"])
    assert profile["totals"] == {"ERROR": 2}
    assert "the guest did not answer 3 cases in a row: it is taken for gone" in profile["errors"]
    assert profile["clauses"][0]["reason"] == "the guest was gone before the end of the run"
    assert "the host could not be proven again: the machine is gone" in profile["errors"]
    assert "again: ci/nox -s conformance -- --profile local --clause BUNDLE-001 --seed 3" in said
    assert "time: " in said
    assert {"boot", "prove", "install", "look", "clauses", "prove again", "all"} <= set(profile["timing"])
    assert profile["kit"]["sha256"]
    assert (tmp_path / "run/index.html").exists()


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("changes", "error: the host was changed: sysctls + x 2"),
        ("unproven", "precondition before not proven: f"),
    ],
)
def test_what_is_wrong_with_the_host_makes_the_run_red(tmp_path: Path, fault: str, says: str) -> None:
    """And is said; a precondition that is not proven ends the run before the clauses."""
    code, said, calls = run_kit(tmp_path, fault)

    assert (code, calls) == (1, ["up", "destroy"])
    assert says in said
    assert not profile_of(tmp_path)["green"]


@pytest.mark.spawns
@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_case_that_passes_later_stays_red(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Tried three times however soon it passes, reported as k of n, and never green."""
    code, said, _ = run_kit(tmp_path, "flaky", *workers)
    profile = profile_of(tmp_path)

    assert (code, profile["green"], profile["totals"]) == (1, False, {"FLAKY": 2})
    for clause in profile["clauses"]:
        for test in clause["tests"]:
            outcomes = [attempt["outcome"] for attempt in test["attempts"]]
            assert (test["verdict"], test["passed"], outcomes) == ("FLAKY", 2, ["failed", "passed", "passed"])
    assert "FLAKY BUNDLE-001 (MUST): passed 2 of 3" in said


@pytest.mark.spawns
def test_a_second_result_of_a_case_takes_no_red_one_away(tmp_path: Path) -> None:
    """Options of pytest's run each case twice, and whichever ended last would be all that is known."""
    code, said, _ = run_kit(tmp_path, "passes", "-n2", "--dist=each", more=ONE_WORKER_FAILS)
    profile = profile_of(tmp_path)

    assert (code, profile["green"], profile["totals"]) == (1, False, {"FLAKY": 2}), said


@pytest.mark.spawns
def test_a_kit_that_is_edited_meanwhile_judges_nothing(tmp_path: Path) -> None:
    """Workers read its files after the machine has booted: neither what it was nor what it is now has judged."""
    code, said, _ = run_kit(tmp_path, "passes", more=EDITED_MEANWHILE)
    profile = profile_of(tmp_path)

    assert (code, profile["green"]) == (1, False), said
    assert profile["errors"] == [
        "the kit's files were changed while it ran: nobody knows which of them judged"
    ]


@pytest.mark.spawns
@pytest.mark.parametrize("workers", [(), ("-n2",)])
@pytest.mark.parametrize(
    ("fault", "more", "totals"),
    [("flaky", WAIVED, {"WAIVED": 2}), ("passes", A_SHOULD_FAILS, {"PASS": 1, "FAIL": 1})],
)
def test_what_a_green_run_may_fail_does_not_end_it_red(
    tmp_path: Path, workers: tuple[str, ...], fault: str, more: str, totals: dict[str, int]
) -> None:
    """A waived clause, and one that only should hold: pytest counts both as failed."""
    code, said, _ = run_kit(tmp_path, fault, *workers, more=more)
    profile = profile_of(tmp_path)

    assert (code, profile["green"], profile["totals"]) == (0, True, totals), said
    assert "is not needed" not in said


@pytest.mark.spawns
def test_a_waiver_that_nothing_needs_is_told(tmp_path: Path) -> None:
    """In a line for each, so that it is taken away before it expires."""
    code, said, _ = run_kit(tmp_path, "passes", more=WAIVED)

    assert code == 0, said
    for clause in ("BUNDLE-001", "BUNDLE-003"):
        assert said.count(f"waiver of {clause} is not needed: it passed on local\n") == 1


@pytest.mark.spawns
@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_file_that_is_not_collected_is_red(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Whatever pytest was asked to go on after: its cases are not among those that have to come back."""
    code, said, _ = run_kit(tmp_path, "passes", *workers, more=NOT_COLLECTED)
    profile = profile_of(tmp_path)

    assert (code, profile["green"]) == (1, False), said
    assert profile["errors"] == ["conformance/test_bind.py was not collected"]


@pytest.mark.spawns
def test_a_fault_of_the_kit_ends_the_tries(tmp_path: Path) -> None:
    """It says nothing of the subject, whatever an earlier try said."""
    code, _, calls = run_kit(tmp_path, "breaks")
    assert (code, profile_of(tmp_path)["totals"]) == (1, {"ERROR": 2})
    assert {calls.count(node) for node in calls if "::" in node} == {2}


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("options", "addopts"),
    [(("--setup-only",), ""), (("--setup-plan", "-n2"), ""), ((), "--setup-only")],
)
def test_a_body_that_did_not_run_did_not_pass(tmp_path: Path, options: tuple[str, ...], addopts: str) -> None:
    """Set-up and tear-down alone judge nothing, whoever asked pytest for that."""
    code, _, calls = run_kit(tmp_path, "passes", *options, addopts=addopts)
    profile = profile_of(tmp_path)

    assert (code, profile["green"], profile["totals"]) == (1, False, {"ERROR": 2})
    assert not [call for call in calls if "::" in call]
    for clause in profile["clauses"]:
        for test in clause["tests"]:
            assert [attempt["message"] for attempt in test["attempts"]] == ["the test's body did not run"]


@pytest.mark.spawns
def test_set_up_may_be_shown(tmp_path: Path) -> None:
    """The bodies run."""
    code, said, _ = run_kit(tmp_path, "passes", "--setup-show")
    assert (code, profile_of(tmp_path)["totals"]) == (0, {"PASS": 2}), said


@pytest.mark.spawns
def test_an_interruption_while_workers_end_leaves_nothing(tmp_path: Path) -> None:
    """The workers are waited for before the kit has its turn: that is no time to lose a machine in."""
    code, said, calls = run_kit(tmp_path, "passes", "-n2", more=INTERRUPTED_LATE)

    assert (code, calls[-1]) == (2, "destroy"), said
    assert "Traceback" not in said


@pytest.mark.spawns
def test_the_seed_gives_the_order(tmp_path: Path) -> None:
    """The same seed the same order, also of a selection: so a reproducer meets what the run met."""
    orders = []
    for number, options in enumerate((("--seed=3",), ("--seed=3", "--clause=SIG-*"), ("--seed=4",))):
        directory = tmp_path / str(number)
        directory.mkdir()
        code, said, calls = run_kit(directory, "passes", "--clause=*", *options)
        assert code == 0, said
        orders.append([call for call in calls if "::" in call])
    whole, part, other = orders
    assert [node for node in whole if node in part] == part
    assert 0 < len(part) < len(whole)
    assert (sorted(whole), whole != other) == (sorted(other), True)


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("options", "complete"),
    [
        ((), True),
        (("-n2", "-k", "mapped"), False),
        (("--ignore=conformance/test_bundle.py",), False),
        # One of its two modes.
        (("conformance/test_signals.py::test_the_init_stage_reaps[mapped]",), False),
    ],
)
def test_a_selection_of_pytests_own_is_one(
    tmp_path: Path, options: tuple[str, ...], *, complete: bool
) -> None:
    """What `-k` left of each clause is not all of it, whoever runs the cases."""
    code, said, _ = run_kit(tmp_path, "passes", "--clause=", *options)
    profile = profile_of(tmp_path)
    assert (profile["complete"], profile["errors"]) == (complete, []), (code, said)


@pytest.mark.spawns
@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_run_that_lost_cases_is_not_complete(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Each case has to have an outcome, and a clause that holds by some of them was not judged in full."""
    run_kit(tmp_path, "lost", "--clause=", *workers)
    profile = profile_of(tmp_path)
    assert not profile["complete"]
    (error,) = (error for error in profile["errors"] if "have no outcome" in error)
    assert " cases have no outcome: conformance/test_" in error


@pytest.mark.spawns
def test_the_end_of_a_job_leaves_no_machine(tmp_path: Path) -> None:
    """TERM, by which a CI cancels."""
    code, _, calls = run_kit(tmp_path, "terminate")
    assert (code, calls) == (2, ["up", "destroy"])


@pytest.mark.spawns
def test_ctrl_c_while_it_boots_leaves_no_machine(tmp_path: Path) -> None:
    """What was half there is taken away."""
    code, _, calls = run_kit(tmp_path, "interrupt")
    assert (code, calls) == (2, ["up", "destroy"])


@pytest.mark.spawns
def test_ctrl_c_among_the_clauses_leaves_no_machine(tmp_path: Path) -> None:
    """Whatever was asked for a run that is red: who interrupts it wants to be rid of it."""
    code, said, calls = run_kit(tmp_path, "stopped", "--keep-on-fail")
    assert (code, calls[0], calls[-1], calls.count("destroy")) == (2, "up", "destroy", 1)
    assert "the machine is up" not in said


@pytest.mark.spawns
def test_a_machine_of_somebody_elses_stays(tmp_path: Path) -> None:
    """One that is up already is refused: neither its end nor that of who uses it may follow."""
    code, said, calls = run_kit(tmp_path, "taken")
    assert (code, calls) == (1, ["up"])
    assert "error: local is up already" in said


@pytest.mark.spawns
def test_what_is_to_be_tested_has_to_be_there(tmp_path: Path) -> None:
    """Refused before anything is booted."""
    for option in ("--wheel", "--shim"):
        code, said, calls = run_kit(tmp_path, "passes", f"{option}={tmp_path}/none")
        assert (code, calls) == (4, [])
        assert f"{option} {tmp_path}/none: no such file" in said


@pytest.mark.spawns
@pytest.mark.parametrize("place", ["x.whl", "x.whl/below", "/proc"])
def test_the_report_has_to_have_a_place(tmp_path: Path, place: str) -> None:
    """A file, or where nobody may write: refused in one line, before anything is booted."""
    code, said, calls = run_kit(tmp_path, "passes", f"--report-dir={tmp_path / place}")
    assert (code, calls) == (4, [])
    assert f"--report-dir {tmp_path / place}: no report can be written there: " in said
    assert "Traceback" not in said


@pytest.mark.spawns
@pytest.mark.parametrize(("options", "stays"), [((), False), (("--keep-on-fail",), True)])
def test_a_report_that_cannot_be_written_is_told(
    tmp_path: Path, options: tuple[str, ...], *, stays: bool
) -> None:
    """In a line, with the summary; such a run is red, whatever it judged, and its machine can be kept."""
    code, said, calls = run_kit(tmp_path, "passes", *options, more=NO_SPACE)

    assert (code, "destroy" in calls) == (1, not stays)
    assert f"seed 3; {tmp_path}/run: no report could be written: No space left on device\n" in said
    assert "local: NOT green (a selection of clauses): 2 clauses: 2 PASS" in said
    assert "Traceback" not in said
    assert "report.json" not in said


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("fault", "more", "done"),
    [
        ("passes", "", ["up", "destroy"]),
        ("stopped", "", ["up", "destroy"]),
        ("passes", IS_UP, []),
        ("stopped", IS_UP, []),
    ],
)
def test_a_reused_machine_stays_if_it_was_up(tmp_path: Path, fault: str, more: str, done: list[str]) -> None:
    """One that the run had to boot after all is its own to take away, after Ctrl-C too."""
    _, _, calls = run_kit(tmp_path, fault, "--reuse", more=more)
    assert [call for call in calls if "::" not in call] == done


@pytest.mark.spawns
def test_a_machine_that_another_run_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up or not, planted or not: it would judge what the other one installed."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "vms"))
    for options in ((), ("--reuse",), ("--reuse", "--planted=a-fault")):
        with vms.hold("local"):
            code, said, calls = run_kit(tmp_path, "passes", *options, more=IS_UP)
        assert (code, calls) == (1, [])
        assert "error: local is in use by another run" in said


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("options", "more", "done"),
    [
        ((), "", ["hold", "up", "report", "destroy", "release"]),
        # Its workers only connect.
        (("-n2",), "", ["hold", "up", "report", "destroy", "release"]),
        (("--reuse", "--planted=a-fault"), IS_UP, ["hold", "report", "release"]),
    ],
)
def test_a_run_has_its_machine_to_the_end(
    tmp_path: Path, options: tuple[str, ...], more: str, done: list[str]
) -> None:
    """From before the boot until it has reported and taken the machine away."""
    _, _, calls = run_kit(tmp_path, "passes", *options, more=more + NOTES_THE_HOLD)
    assert [call for call in calls if "::" not in call] == done


@pytest.mark.spawns
def test_a_run_that_waits_says_for_whom_and_ends(tmp_path: Path) -> None:
    """Who makes inputs that it needs too, and does not come to an end."""
    (tmp_path / "cache").mkdir()
    with locks.locked(tmp_path / "cache/.lock"):
        code, said, calls = run_kit(tmp_path, "passes", more=WAITS)

    assert (code, calls) == (1, ["up", "destroy"])
    assert f"conformance: waiting for {tmp_path}/cache/.lock, which process {os.getpid()} has\n" in said
    assert f"error: {tmp_path}/cache/.lock: process {os.getpid()} has it for more than 0 s" in said


@pytest.mark.spawns
def test_the_wheel_that_is_installed_is_the_one_that_is_told(tmp_path: Path) -> None:
    """Another run of this tree builds its own in the same place meanwhile."""
    _, _, calls = run_kit(tmp_path, "passes", more=ANOTHER_WHEEL)
    assert profile_of(tmp_path)["subject"]["wheel_sha256"] == digest(make_wheel())
    assert calls[1] == digest(make_wheel())


@pytest.mark.spawns
def test_a_place_with_another_kits_report_keeps_it(tmp_path: Path) -> None:
    """What was judged goes beside it, red; neither is lost."""
    code, said, _ = run_kit(tmp_path, "passes")
    assert code == 0, said
    place = tmp_path / "run/report.json"
    text = place.read_text()
    kit = profile_of(tmp_path)["kit"]["sha256"]
    # Of another host, so that it would have to be joined.
    place.write_text(text.replace(kit, "0" * 64).replace('"profile": "local"', '"profile": "vm"'))
    before = place.read_bytes()
    code, said, calls = run_kit(tmp_path, "passes")

    assert (code, calls[-1]) == (1, "destroy")
    assert "results of different kits cannot be joined" in said
    assert place.read_bytes() == before
    (aside,) = (tmp_path / "run").glob("local-*/report.json")
    (profile,) = read_report(aside)["profiles"]
    assert (profile["green"], profile["totals"]) == (False, {"PASS": 2})


@pytest.mark.spawns
def test_a_red_machine_can_be_kept_and_looked_at(tmp_path: Path) -> None:
    """It stays and the way in is named; where there is no terminal, it is said that there is no shell."""
    _, said, calls = run_kit(tmp_path, "lost", "--keep-on-fail", "--shell-on-fail")
    assert calls == ["up"]
    assert "the machine is up: ci/nox -s vms -- ssh local" in said
    assert "--shell-on-fail: no terminal, so no shell" in said


@pytest.mark.spawns
def test_the_shell_on_a_red_machine_has_the_terminal(tmp_path: Path) -> None:
    """It reads what is typed, before the machine is taken away."""
    ours, theirs = os.openpty()
    # Nobody reads while it runs: the terminal holds less than the run says.
    drained = threading.Thread(target=drain, args=(ours,), daemon=True)
    drained.start()
    os.write(ours, b"typed\n")
    _, _, calls = run_kit(tmp_path, "lost", "--clause=BUNDLE-001", "--shell-on-fail", terminal=theirs)
    os.close(theirs)
    assert calls == ["up", "typed-root", "destroy"]


def drain(terminal: int) -> None:
    """Read a terminal to its end."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass
