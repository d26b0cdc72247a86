"""Several hosts at once: real pytest processes, on machines that are not there."""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import vms
from conformance import again, matrix
from conformance.options import OPTIONS, Reader
from conformance.progress import State
from conformance.provenance import digest_files
from conformance.release.policy import read_policy
from conformance.report_files import read_report, write_report
from tests.unit.conformance.fake_machine import PLUGIN
from tests.unit.conformance.samples import digest, make_report, make_wheel, run

ROOT = Path(__file__).resolve().parents[3]
HOSTS = ("local", "debian12-userns-max0", "debian12-userns-clone0")
USAGE = 2


@contextlib.contextmanager
def started(
    directory: Path, fault: str, *options: str, before: str = ""
) -> Iterator["subprocess.Popen[str]"]:
    """Start a run of one clause on HOSTS; `before` is a command of the shell that becomes it."""
    kit = start_kit(directory, fault, *options, before=before)
    try:
        yield kit
    finally:
        kit.kill()
        kit.communicate()


def start_kit(directory: Path, fault: str, *options: str, before: str) -> "subprocess.Popen[str]":
    """See `started`."""
    (directory / "fake_machine.py").write_text(PLUGIN)
    (directory / "x.whl").write_bytes(make_wheel())
    return subprocess.Popen(
        [
            *("/bin/sh", "-c", f'{before}\nexec "$@"', "sh"),
            *(sys.executable, "-m", "conformance", "run", f"--profile={','.join(HOSTS)}"),
            *("-p", "fake_machine", "-p", "no:cacheprovider", "--numprocesses=0"),
            *(f"--wheel={directory}/x.whl", "--clause=BUNDLE-001", "--seed=3", "--attempts=1"),
            *(f"--report-dir={directory}/run", *options),
        ],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}",
            "FAULT": fault,
            "CALLS": str(directory / "calls"),
            # No machine of this machine's is up there.
            "LOCALD_VMS_HOME": str(directory / "vms"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_calls(directory: Path) -> list[str]:
    """Return what was done with machines."""
    calls = directory / "calls"
    return calls.read_text().split() if calls.exists() else []


@pytest.mark.spawns
def test_each_host_is_judged_into_one_report(tmp_path: Path) -> None:
    """A matrix, each process' closing line, the times; red if one is; what each printed is kept."""
    with started(tmp_path, "lost", "--jobs=2") as kit:
        said, _ = kit.communicate(timeout=120)

    assert kit.returncode == 1, said
    report = read_report(tmp_path / "run/report.json")
    assert [entry["profile"] for entry in report["profiles"]] == sorted(HOSTS)
    assert {entry["seed"] for entry in report["profiles"]} == {3}
    assert sorted(read_calls(tmp_path)) == ["destroy"] * 3 + ["up"] * 3
    for host in HOSTS:
        assert f"{host}: boot\n" in said
        assert f"{host}: NOT green, exit code 1 after" in said
        assert "the machine is gone" in (tmp_path / f"run/{host}.log").read_text()
    # In each mode; where nobody gets a user namespace, in direct mode only.
    assert (said.count("== 2 failed, "), said.count("== 1 failed, ")) == (2, 1)
    assert "BUNDLE" in said
    assert "for 3 hosts, 2 at a time" in said


@pytest.mark.parametrize("what", ["kit", "runtime", "wheel"])
def test_a_place_with_the_results_of_others_is_refused_before_a_machine_is_booted(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report is about one kit, one wheel and one runtime; of one host alone an earlier result is replaced."""
    (tmp_path / "x.whl").write_bytes(make_wheel())
    wheel = matrix.read_tested([f"--wheel={tmp_path}/x.whl", "--clause=*"])["wheel"]
    same = {"kit": digest_files(), "runtime": "locald-shim", "wheel": digest(make_wheel())}

    def require(told: dict[str, str], *profiles: str) -> None:
        judged = run(
            profile=HOSTS[0],
            kit={"sha256": told["kit"]},
            runtime=told["runtime"],
            subject={"wheel_sha256": told["wheel"]},
        )
        write_report(tmp_path, make_report(judged))
        matrix.require_no_others(
            argparse.ArgumentParser(), matrix.Plan(profiles, 1, tmp_path, ()), same["runtime"], wheel
        )

    require(same, *HOSTS)
    require(same | {what: "0" * 64}, HOSTS[0])
    with pytest.raises(SystemExit) as ended:
        require(same | {what: "0" * 64}, *HOSTS)
    assert ended.value.code == USAGE
    assert f"{HOSTS[0]} was judged there with another {what}; name another" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--wheel", "--shim"])
@pytest.mark.parametrize("hosts", ["local", "local,debian12-selinux"])
def test_what_is_not_there_is_refused_before_anything_is_made(
    option: str, hosts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and the exit code of usage, for one host as for all; no directory of reports is left."""
    place = tmp_path / "reports"
    with pytest.raises(SystemExit) as ended:
        matrix.main([f"--profile={hosts}", f"--report-dir={place}", f"{option}={tmp_path}/none"])
    assert ended.value.code == USAGE
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{option} {tmp_path}/none: no such file")
    assert not place.exists()


@pytest.mark.spawns
def test_a_process_that_dies_is_red_and_named(tmp_path: Path) -> None:
    """No report and no machine of its own doing: the exit code and the last lines of its output are there."""
    with started(tmp_path, "dies", "--jobs=3") as kit:
        said, _ = kit.communicate(timeout=120)

    assert kit.returncode == 1
    for host in HOSTS:
        assert f"{host}: NOT green: no report, exit code 9" in said


@pytest.mark.spawns
@pytest.mark.parametrize(("number", "before"), [(signal.SIGINT, "trap '' INT"), (signal.SIGTERM, "")])
def test_an_interruption_takes_every_machine_away(
    tmp_path: Path, number: signal.Signals, before: str
) -> None:
    """Those that run are ended, each takes its own machine away, and none of those that wait is started.

    Also where a shell's `&` had SIGINT ignored.
    """
    with started(tmp_path, "hangs", "--jobs=2", before=before) as kit:
        deadline = time.monotonic() + 60
        while read_calls(tmp_path) != ["up", "up"]:
            assert time.monotonic() < deadline, read_calls(tmp_path)
            time.sleep(0.05)
        kit.send_signal(number)
        said, _ = kit.communicate(timeout=60)

    assert kit.returncode == matrix.INTERRUPTED, said
    assert sorted(read_calls(tmp_path)) == ["destroy", "destroy", "up", "up"]
    assert said.endswith("conformance: interrupted; no machine is left\n")


@pytest.mark.spawns
def test_a_run_under_nohup_does_not_end_with_its_terminal(tmp_path: Path) -> None:
    """SIGHUP was ignored and stays so: the run goes on to its end."""
    with started(tmp_path, "slow", "--jobs=3", before="trap '' HUP") as kit:
        deadline = time.monotonic() + 60
        while len(read_calls(tmp_path)) < len(HOSTS):
            assert time.monotonic() < deadline, read_calls(tmp_path)
            time.sleep(0.05)
        kit.send_signal(signal.SIGHUP)
        said, _ = kit.communicate(timeout=120)

    assert kit.returncode == 1, said
    assert "for 3 hosts, 3 at a time" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--profile", "local,nowhere"], "nowhere: no such profile"),
        (["--jobs", "0"], "--jobs 0: at least 1"),
        (["--shell-on-fail"], "--shell-on-fail needs the terminal"),
    ],
)
def test_what_cannot_be_done_is_a_usage_error(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit) as ended:
        matrix.main(words)
    assert ended.value.code == USAGE
    assert says in capsys.readouterr().err


def test_the_help_of_a_run_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that `run` reads and those that it hands on; what the kit says to itself is not for a person."""
    with pytest.raises(SystemExit) as ended:
        matrix.main(["--help"])
    assert ended.value.code == 0
    listed = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(option.name for option in OPTIONS if option.reader is not Reader.INNER)


def test_by_default_the_hosts_of_a_release_are_judged() -> None:
    """Each once and in the order of the policy; what `run` does not know goes to pytest; one seed for all."""
    parser = matrix.make_parser()
    chosen, rest = parser.parse_known_args(["--seed=7", "--clause", "SIG-*", "--jobs=4"])
    plan = matrix.make_plan(parser, chosen, rest)

    assert plan.profiles == read_policy().profiles
    assert plan.jobs == 4
    command = plan.make_command("local")
    assert command[-2:] == ["--clause", "SIG-*"]
    assert "--seed=7" in command


def test_a_guest_has_a_worker_for_each_of_its_processors() -> None:
    """This machine has two; what the user says counts, as the last one of an option does."""
    plan = matrix.Plan(("local",), 1, Path("reports"), ("-n", "3"))
    for host, workers in (("local", 2), ("debian12-selinux", vms.read("debian12-selinux").cpus)):
        command = plan.make_command(host)
        assert command.index(f"--numprocesses={workers}") < command.index("-n")


def test_the_last_failed_are_asked_of_red_hosts_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A green one is left out; one without a report is not: its run may have died. None at all is an error."""
    known = {"local": again.NothingRed("green"), HOSTS[1]: None, HOSTS[2]: LookupError("no report")}

    def find(_reports: Path, profile: str, _runtime: str) -> tuple[str, ...]:
        if (error := known[profile]) is not None:
            raise error
        return ("AB-001",)

    monkeypatch.setattr(again, "find_last_failed", find)
    parser = matrix.make_parser()
    chosen, rest = parser.parse_known_args([f"--profile={','.join(HOSTS)}", "--last-failed"])
    assert matrix.make_plan(parser, chosen, rest).profiles == HOSTS[1:]

    chosen, rest = parser.parse_known_args(["--profile=local", "--last-failed"])
    with pytest.raises(SystemExit):
        matrix.make_plan(parser, chosen, rest)
    assert "no host was red" in capsys.readouterr().err


def test_jobs_fit_processors_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a processor; fewer where the memory, caches included, has no room; as many as asked for in any case."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    assert matrix.find_available_bytes() >= os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    for available_gib, jobs in ((64, 8), (10, 3), (1, 1)):
        monkeypatch.setattr(matrix, "find_available_bytes", lambda given=available_gib: given << 30)
        assert matrix.choose_jobs(None) == jobs
    assert matrix.choose_jobs(5) == 5


def test_a_log_gets_a_line_where_something_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    """A phase, a quarter, a red test: not a line a test."""
    lines = matrix.Lines()
    lines.add("local", begun=False)
    lines.show("local", State("boot"))
    for done in range(1, 101):
        lines.show("local", State("clauses", done, 100, "test_x", ["test_bad"] if done > 60 else []))
    lines.finish("local", "green after 3 s")

    assert capsys.readouterr().out.splitlines() == [
        "local: boot",
        "local: clauses 1 of 100",
        "local: clauses 25 of 100",
        "local: clauses 50 of 100",
        "local: clauses 61 of 100, 1 red: test_bad",
        "local: clauses 75 of 100, 1 red: test_bad",
        "local: clauses 100 of 100, 1 red: test_bad",
        "local: green after 3 s",
    ]
