"""merge, sign and gate as they are typed, with this tree's own catalogue, tests, profiles and faults."""

import datetime
import functools
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import vms
from conformance import __main__ as command
from conformance.clauses import find_modal, find_tests, read_catalogue
from conformance.controls import claims, read_controls
from conformance.provenance import PLANTED, ROOT, describe_kit, digest_files, digest_shim_sources
from conformance.release.commands import VALID_DAYS
from conformance.report import Json, TestRecord, make_profile
from conformance.runtimes import find_modes
from conformance.verdicts import Outcome
from tests.unit.conformance import samples
from tests.unit.conformance.samples import (
    account,
    as_bytes,
    digest,
    make_wheel,
    proof,
    record,
    run,
)

KIT_DIRECTORY = Path(command.__file__).parent
# As a clone has it, whatever this tree is in.
COMMITTED = {"revision": "f" * 40, "dirty": False}


@functools.cache
def own_wheel() -> bytes:
    """Return a wheel with the package of this tree."""
    paths = [path for path in sorted((ROOT / "locald").rglob("*")) if path.is_file()]
    return make_wheel(
        package={
            path.relative_to(ROOT).as_posix(): path.read_bytes()
            for path in paths
            if "__pycache__" not in path.parts
        }
    )


def judge_all(profile: str) -> list[TestRecord]:
    """Return a pass of every test of this tree that judges something of that host, in each of its modes."""
    catalogue, traits, modal = read_catalogue(), vms.read(profile).traits, find_modal(KIT_DIRECTORY)
    return [
        replace(record(name, Outcome.PASSED), node=f"conformance/{test}{mode}")
        for test, named in find_tests(KIT_DIRECTORY).items()
        for name in named
        if catalogue[name].applies_to(profile, traits)
        for mode in ([f"[{mode}]" for mode in find_modes(traits)] if test in modal else [""])
    ]


def make_whole(profile: str, finished: str) -> Json:
    """Return the part of a report in which that host, with all that this tree asks of it, is green."""
    traits = vms.read(profile).traits
    proofs = tuple(
        replace(
            proof(),
            name=fact.id,
            user=fact.user,
            command=fact.command,
            exit_code=1 if fact.exit_code is None else fact.exit_code,
        )
        for fact in vms.list_facts(vms.read(profile))
    )
    kit = {**describe_kit(), **COMMITTED}
    told = run(*judge_all(profile), profile=profile, traits=traits, kit=kit, finished=finished)
    boxed = {"box": "debian12", "box_sha256": "e" * 64} if profile != "local" else {}
    own = {"wheel_sha256": digest(own_wheel()), "shim_build": digest_shim_sources()}
    told = replace(told, before=proofs, after=proofs, subject={**told.subject, **boxed, **own})
    return make_profile(told, read_catalogue(), ())


def plant_all(profile: str, finished: str) -> Json:
    """Return an account of that host by which each fault was seen by every clause that claims it there."""
    catalogue, traits = read_catalogue(), vms.read(profile).traits
    verdicts = {
        name: dict.fromkeys(claims(catalogue, control, profile, traits), "FAIL")
        for name, control in read_controls().items()
    }
    kit = {**describe_kit(), **COMMITTED}
    planted = digest_files(trees=PLANTED)
    return account(
        profile=profile,
        started=finished,
        finished=finished,
        kit=kit,
        planted_sha256=planted,
        wheel_sha256=digest(own_wheel()),
        verdicts=verdicts,
    )


@pytest.mark.spawns
def test_the_verbs_from_report_to_gate(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Merge, sign, gate, as they are typed, with this tree's own catalogue and kit; then one byte is changed."""
    now = datetime.datetime.now(datetime.UTC)
    finished = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    paths, accounts = [], []
    for profile in ("local", "debian12-selinux"):
        paths.append(tmp_path / profile / "report.json")
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(
            as_bytes({**samples.make_report(), "profiles": [make_whole(profile, finished)]})
        )
        accounts.append(paths[-1].with_name("controls.json"))
        accounts[-1].write_text(json.dumps(plant_all(profile, finished)))
    wheel, policy, joined = tmp_path / "x.whl", tmp_path / "policy.toml", tmp_path / "joined"
    wheel.write_bytes(own_wheel())
    policy.write_text('max_age_days = 1\nprofiles = ["local", "debian12-selinux"]\n')
    report = joined / "report.json"
    gate = ["gate", str(wheel), str(report), f"--key={keys[1]}", f"--policy={policy}"]

    merge = ["merge", *map(str, paths), "-o", str(joined), "--controls", *map(str, accounts)]

    assert command.main(merge) == 0
    assert command.main(["merge", str(paths[0]), *merge[1:]]) == 1
    assert "two results of the profile local" in capsys.readouterr().err
    assert command.main(gate) == 1
    assert "release-gate: unsigned" in capsys.readouterr().out
    assert command.main(["sign", str(report), f"--key={keys[0]}"]) == 0
    assert command.main(gate) == 0
    assert f"release-gate: PASS: x.whl on local, debian12-selinux, by {policy}\n" in capsys.readouterr().out
    later = now + datetime.timedelta(days=VALID_DAYS + 1)
    assert command.main([*gate, f"--at={later:%Y-%m-%dT%H:%M:%SZ}"]) == 1
    assert "release-gate: expired: the statement counted until" in capsys.readouterr().out
    assert command.main([*gate, f"--at={finished}"]) == 0
    assert f"debian12-selinux, as of {finished}, by {policy}\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main([*gate, "--at=yesterday"])
    assert "yesterday: not a time such as 2026-11-30T12:00:00Z" in capsys.readouterr().err
    assert {path.name for path in joined.iterdir()} == {
        "report.json",
        "report.intoto.json",
        "junit.xml",
        "index.html",
    }
    page = joined / "index.html"
    good = page.read_text("utf-8")
    page.write_text(good.replace("Green", "green", 1), "utf-8")
    assert command.main(gate) == 1
    assert "index.html beside the report is not the one that was signed" in capsys.readouterr().out
    page.write_text(good, "utf-8")
    # What lies beside a report is no page of it: signing makes it anew.
    page.write_text("of another run", "utf-8")
    assert command.main(["sign", str(report), f"--key={keys[0]}"]) == 0
    assert command.main(gate) == 0
    assert page.read_text("utf-8") == good
    wheel.write_bytes(own_wheel()[:-1] + b"x")
    assert command.main(gate) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("release-gate: REFUSED: ")
    assert "release-gate: profile local: it is about another wheel" in said
    report.write_text("{")
    assert command.main(gate) == 1
    assert command.main(["gate", str(wheel), str(tmp_path / "none"), f"--key={keys[1]}"]) == 2


def test_a_file_that_is_not_there_is_named_in_one_line(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the gate under the name that was typed; 2, since nobody can say yes or no."""
    wheel, report = tmp_path / "x.whl", tmp_path / "report.json"
    gate = ["gate", str(wheel), str(report), f"--key={keys[1]}"]
    for absent in (wheel, report):
        assert command.main(gate) == 2
        assert capsys.readouterr().err == f"release-gate: {absent}: No such file or directory\n"
        absent.write_bytes(make_wheel())
    report.unlink()
    assert command.main(["sign", str(report), f"--key={keys[0]}"]) == 2
    assert capsys.readouterr().err == f"conformance: {report}: No such file or directory\n"


def test_the_help_of_a_verb_explains_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """Those without a name too; a path is one from the root of the tree."""
    for verb, words in (
        ("sign", ["REPORT  "]),
        ("gate", ["WHEEL  ", "REPORT  ", "conformance/release/keys/"]),
    ):
        with pytest.raises(SystemExit):
            command.main([verb, "--help"])
        said = capsys.readouterr().out
        assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "not JSON"),
        (b'{"missed": [1], "missed": []}', "a key stands twice"),
        (b'{"seed": 1e999}', "1e999 is no number"),
        (b"\xff", "not JSON"),
    ],
)
def test_an_account_is_read_as_strictly_as_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    """What another reader would take for something else cannot be read: 2, as of a report."""
    path, report = tmp_path / "controls.json", tmp_path / "report.json"
    path.write_bytes(content)
    report.write_bytes(as_bytes(samples.make_report()))
    assert command.main(["merge", str(report), "-o", str(tmp_path / "joined"), "--controls", str(path)]) == 2
    assert says in capsys.readouterr().err
    report.write_bytes(content)
    assert command.main(["merge", str(report), "-o", str(tmp_path / "joined")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "joined").exists()


def test_numbers_that_no_calendar_has_are_refused(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A signature for no day or for centuries; the last second that a report can name is judged."""
    report, wheel = tmp_path / "report.json", tmp_path / "x.whl"
    report.write_bytes(as_bytes(samples.make_report()))
    wheel.write_bytes(make_wheel())
    for days in ("-1", "0", "99999999", "x"):
        with pytest.raises(SystemExit):
            command.main(["sign", str(report), f"--key={keys[0]}", f"--valid-days={days}"])
        assert f"argument --valid-days: {days}: not 1 to 366 days\n" in capsys.readouterr().err
    assert (
        command.main(["gate", str(wheel), str(report), f"--key={keys[1]}", "--at=9999-12-31T23:59:59Z"]) == 1
    )
    assert "expired: it finished on" in capsys.readouterr().out


def test_a_damaged_wheel_is_refused(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its members are compressed with."""
    report, wheel = tmp_path / "report.json", tmp_path / "x.whl"
    report.write_bytes(as_bytes(samples.make_report()))
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(wheel, "w", method) as archive:
            archive.writestr("locald-0.1.0.data/scripts/locald-shim", samples.SHIM * 100)
        content = bytearray(wheel.read_bytes())
        content[75:90] = bytes(15)
        wheel.write_bytes(content)
        assert command.main(["gate", str(wheel), str(report), f"--key={keys[1]}"]) == 1
        assert "the shim that ran is not the one in the wheel" in capsys.readouterr().out
