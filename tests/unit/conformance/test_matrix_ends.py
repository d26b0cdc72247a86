"""How a run of several hosts ends: whose reports count, whose machines are left, and what is told in one line."""

import os
import sys
from pathlib import Path

import pytest

import vms
from conformance import matrix, waivers
from conformance.provenance import digest_files
from conformance.report_files import read_report, write_report
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import CATALOGUE, GREEN, make_report, record, run
from tests.unit.conformance.test_matrix import HOSTS, USAGE, started

# As the samples begin.
NOW = "2026-11-22T00:00:00Z"
EARLIER = "2026-11-21T23:59:59Z"
# Reports of another kit than this tree's are refused from the start.
OWN_KIT = {"sha256": digest_files()}
STUBBORN = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "os.write(int(sys.argv[1].partition('=')[2]), b'x')\n"
    "time.sleep(60)\n"
)


class Stubborn(matrix.Plan):
    """A plan whose processes do not end by Ctrl-C."""

    def make_command(self, profile: str) -> list[str]:
        """Return a command that says when it is ready."""
        del profile
        return [sys.executable, "-c", STUBBORN]


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `vms.status` says of each host: down unless a test says so; nothing is an error."""
    said: dict[str, str] = {}

    def status(name: str) -> str:
        if not (state := said.get(name, "down")):
            raise vms.VmsError("libvirt does not answer", hint="look at it")
        return state

    monkeypatch.setattr(vms, "status", status)
    return said


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `matrix.main` start nothing: each process ended at once, with 0."""

    def judge(plan: matrix.Plan, _view: matrix.View) -> dict[str, int]:
        for profile in plan.profiles:
            (plan.reports / f"{profile}.log").write_text("the last line\n")
        return dict.fromkeys(plan.profiles, 0)

    monkeypatch.setattr(matrix, "judge", judge)
    monkeypatch.setattr(matrix, "now_text", lambda: NOW)


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(
    ("begun", "errors", "code", "says"),
    [
        (NOW, (), 0, "green (a selection"),
        (EARLIER, (), 1, "NOT green: no report, exit code 0"),
        (NOW, ("the host was changed",), 1, "NOT green (a selection"),
    ],
)
def test_only_green_reports_of_this_run_are_green(
    begun: str,
    errors: tuple[str, ...],
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What an earlier run left in the directory is not shown as this one's, and stays there."""
    first, second, other = HOSTS
    selected = tuple(record.clause for record in GREEN)
    entries = (
        run(*GREEN, profile=first, selected=selected, kit=OWN_KIT),
        run(*GREEN, profile=second, selected=selected, started=begun, errors=errors, kit=OWN_KIT),
        run(*GREEN, profile=other, selected=selected, kit=OWN_KIT),
    )
    write_report(tmp_path, make_report(*entries))

    assert matrix.main([f"--profile={first},{second}", f"--report-dir={tmp_path}"]) == code

    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{first}: green") for line in said)
    (line,) = (line for line in said if line.startswith((f"{second}: green", f"{second}: NOT green")))
    assert line.startswith(f"{second}: {says}")
    assert not any(line.startswith(f"{other}: ") for line in said)
    assert len(read_report(tmp_path / "report.json")["profiles"]) == len(HOSTS)


@pytest.mark.usefixtures("ended")
def test_a_waiver_that_no_host_needs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, of all hosts that it covers."""
    file = tmp_path / "waivers.toml"
    file.write_text(
        '[[waiver]]\nclause = "AB-001"\nprofile = "*"\nreason = "r"\nowner = "o"\nuntil = 2020-01-01\n'
    )
    monkeypatch.setattr(waivers, "WAIVERS", file)
    monkeypatch.setattr(matrix, "read_catalogue", lambda: CATALOGUE)
    write_report(tmp_path, make_report(*(run(*GREEN, profile=name, kit=OWN_KIT) for name in HOSTS[:2])))

    matrix.main([f"--profile={','.join(HOSTS[:2])}", f"--report-dir={tmp_path}"])

    both = ", ".join(sorted(HOSTS[:2]))
    assert capsys.readouterr().out.count(f"waiver of AB-001 is not needed: it passed on {both}\n") == 1


@pytest.mark.usefixtures("ended")
def test_a_report_of_another_schema_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no host is green by it; where it is there from the start, nothing is run."""
    (tmp_path / "report.json").write_text('{"schema": "locald-conformance-report/1"}')
    with pytest.raises(SystemExit) as refused:
        matrix.main([f"--profile={','.join(HOSTS)}", f"--report-dir={tmp_path}"])
    assert refused.value.code == USAGE
    assert "not a report: " in capsys.readouterr().err

    # It came there while they ran.
    monkeypatch.setattr(matrix, "require_no_others", lambda *_: None)
    assert matrix.main([f"--profile={','.join(HOSTS)}", f"--report-dir={tmp_path}"]) == 1

    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"conformance: {tmp_path}/report.json: not a report: ")
    assert said.out.count("NOT green: no report, exit code 0") == len(HOSTS)


@pytest.mark.spawns
def test_a_run_that_only_lists_is_not_green(tmp_path: Path) -> None:
    """`--collect-only` judges no host, and neither the lines nor the exit code say that it did."""
    with started(tmp_path, "passes", "--collect-only", "--jobs=3") as kit:
        said, _ = kit.communicate(timeout=120)

    assert kit.returncode == 1, said
    for host in HOSTS:
        assert f"{host}: judged nothing after" in said
        assert f"{host}: NOT green: no report, exit code 0" in said


@pytest.mark.parametrize("hosts", [HOSTS, HOSTS[:1]])
@pytest.mark.parametrize(("place", "says"), [("{}/file", "File exists"), ("/proc", "")])
def test_a_directory_that_takes_no_report_is_a_usage_error(
    hosts: tuple[str, ...], place: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line and before anything is started: one host alone would lose its report at the end."""
    (tmp_path / "file").touch()
    directory = place.format(tmp_path)
    with pytest.raises(SystemExit) as ended:
        matrix.main([f"--profile={','.join(hosts)}", f"--report-dir={directory}"])

    assert ended.value.code == USAGE
    assert f"error: --report-dir {directory}: {says}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.spawns
def test_each_run_is_ended_and_only_its_own_machine_taken_away(
    tmp_path: Path,
    statuses: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A machine that was up before, or may have been, stays; one that cannot be taken away keeps no other run."""
    profiles = ("debian12-selinux", *HOSTS, "debian11-refusal")
    statuses |= {HOSTS[1]: "up", HOSTS[2]: ""}
    destroyed = []

    def destroy(name: str) -> None:
        destroyed.append(name)
        if name == profiles[0]:
            raise vms.VmsError("libvirt does not answer", hint="look at it")

    monkeypatch.setattr(vms, "destroy", destroy)
    monkeypatch.setattr(matrix, "END_LIMIT_S", 0.1)
    plan = Stubborn(profiles, len(profiles), tmp_path, ())
    runs = [matrix.start(plan, name) for name in profiles]
    try:
        assert [os.read(one.pipe, 1) for one in runs] == [b"x"] * len(runs)
        # They are up by now, all of them.
        statuses |= dict.fromkeys(profiles, "up")
        matrix.interrupt(runs)
        assert all(one.process.returncode is not None for one in runs)
    finally:
        for one in runs:
            one.process.kill()
            one.process.wait()

    assert destroyed == ["debian12-selinux", "local", "debian11-refusal"]
    says = "conformance: debian12-selinux: not taken away: libvirt does not answer hint: look at it\n"
    assert capsys.readouterr().err == says


class OneIsSilent(Stubborn):
    """A plan of which one host tells nothing more, and the others end at once."""

    def make_command(self, profile: str) -> list[str]:
        """Return a command."""
        return super().make_command(profile) if profile == self.profiles[0] else ["true"]


@pytest.mark.spawns
def test_a_host_that_tells_nothing_is_ended(
    tmp_path: Path,
    statuses: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Red, and its machine taken away; those that wait for its place are judged after it."""
    destroyed: list[str] = []
    monkeypatch.setattr(vms, "destroy", destroyed.append)
    monkeypatch.setattr(matrix, "END_LIMIT_S", 3.0)
    monkeypatch.setattr(matrix, "SILENT_LIMIT_S", 2.0)
    assert statuses == {}

    codes = matrix.judge(OneIsSilent(HOSTS, 1, tmp_path, ()), matrix.Lines())

    assert codes == {HOSTS[0]: -9, HOSTS[1]: 0, HOSTS[2]: 0}
    assert destroyed == [HOSTS[0]]
    assert f"{HOSTS[0]}: NOT green, exit code -9, ended: it told nothing for 2 s" in capsys.readouterr().out


def test_after_an_interruption_the_machines_that_are_left_are_named(
    tmp_path: Path,
    statuses: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the command that takes each away: of --keep-on-fail, of --reuse, of a fault."""

    def judge(_plan: matrix.Plan, _view: matrix.View) -> dict[str, int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "judge", judge)
    words = [f"--profile={','.join(HOSTS)}", f"--report-dir={tmp_path}", "--keep-on-fail"]
    assert matrix.main(words) == matrix.INTERRUPTED
    assert capsys.readouterr().err == "conformance: interrupted; no machine is left\n"

    statuses |= {HOSTS[0]: "up", HOSTS[2]: ""}
    assert matrix.main(words) == matrix.INTERRUPTED
    why = "libvirt does not answer hint: look at it"
    assert capsys.readouterr().err.splitlines() == [
        f"conformance: interrupted; {HOSTS[0]} is up: ci/nox -s vms -- destroy {HOSTS[0]}",
        f"conformance: interrupted; {HOSTS[2]} is perhaps up ({why}): ci/nox -s vms -- destroy {HOSTS[2]}",
    ]


def test_the_last_failed_are_those_of_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that crun alone was red on, or by its errors alone, is judged again of whom it was red."""
    changed = run(
        *GREEN[:2],
        record("CD-003", Outcome.PASSED),
        runtime="crun",
        errors=("the host was changed: sysctls + x 1",),
    )
    write_report(tmp_path / "a", make_report(changed))
    green = (*GREEN[:2], record("CD-003", Outcome.PASSED))
    write_report(tmp_path / "b", make_report(run(*green, finished="2026-11-22T09:00:00Z")))
    monkeypatch.setattr(matrix, "REPORTS", tmp_path)
    parser = matrix.make_parser()
    words = ["--profile=local", "--last-failed", "--runtime=crun"]
    chosen, rest = parser.parse_known_args(words)

    plan = matrix.make_plan(parser, chosen, rest)

    assert plan.profiles == ("local",)
    assert "--runtime=crun" in plan.make_command("local")
