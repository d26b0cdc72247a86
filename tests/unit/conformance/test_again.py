"""What was red last time, what the kit is, and what a run may change of its host."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from conformance import again, look
from conformance.inputs import InputError
from conformance.provenance import TREES, describe_kit, digest_files, digest_shim
from conformance.report import HostState
from conformance.report_files import write_report
from conformance.snapshot import JUDGED, find_faults
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import (
    CATALOGUE,
    GREEN,
    SHIM,
    digest,
    make_report,
    make_wheel,
    record,
    run,
)


def test_the_newest_report_of_the_profile_says_what_was_red(tmp_path: Path) -> None:
    """Another profile's, an older one's and a planted fault's do not; what is no report is passed over."""
    red = run(record("AB-001", Outcome.FAILED, message="x"), *GREEN[1:2], finished="2026-11-22T00:03:00Z")
    older = run(*GREEN, finished="2026-11-22T00:02:00Z")
    planted = run(*GREEN, finished="2026-11-22T00:09:00Z", subject={"planted": "always-fails"})
    for name, entry in (("a", red), ("b", older), ("c", run(*GREEN, profile="other")), ("d", planted)):
        write_report(tmp_path / name, make_report(entry))
    (tmp_path / "e").mkdir()
    (tmp_path / "e/report.json").write_text("{")

    assert again.find_last_failed(tmp_path, "local") == ("AB-001", "CD-003")
    with pytest.raises(LookupError, match="no report about debian11"):
        again.find_last_failed(tmp_path, "debian11")


def test_a_green_report_leaves_nothing_to_judge_again(tmp_path: Path) -> None:
    """It is said, and not taken for a run of everything."""
    write_report(tmp_path / "a", make_report(run(*GREEN[:2], record("CD-003", Outcome.PASSED))))
    with pytest.raises(LookupError, match="no clause was red on local"):
        again.find_last_failed(tmp_path, "local")


def test_each_runtime_has_its_own_red_clauses(tmp_path: Path) -> None:
    """What crun fails is not what is judged again of the shim."""
    of_crun = run(record("AB-002", Outcome.FAILED), runtime="crun", finished="2026-11-22T00:09:00Z")
    write_report(tmp_path / "a", make_report(run(record("AB-001", Outcome.FAILED), *GREEN[1:2])))
    write_report(tmp_path / "b", make_report(of_crun))

    assert again.find_last_failed(tmp_path, "local") == ("AB-001", "CD-003")
    with pytest.raises(LookupError, match="no report about local with runc"):
        again.find_last_failed(tmp_path, "local", "runc")


@pytest.mark.parametrize("should", [Outcome.PASSED, Outcome.FAILED])
def test_a_host_that_is_red_by_no_clause_is_judged_in_full(tmp_path: Path, should: Outcome) -> None:
    """It was changed, say: any clause may have done it; a SHOULD that is red is not why."""
    changed = run(*GREEN[:2], record("CD-003", should), errors=("the host was changed: sysctls + x 1",))
    write_report(tmp_path / "a", make_report(changed))

    assert again.find_last_failed(tmp_path, "local") == tuple(CATALOGUE)


def test_a_report_that_was_put_aside_counts_by_its_time(tmp_path: Path) -> None:
    """It lies below its run's directory, whatever that is called; one of another schema does not count."""
    red = run(record("AB-001", Outcome.FAILED), *GREEN[1:2], finished="2026-11-22T00:03:00Z")
    write_report(tmp_path / "z", make_report(run(*GREEN[:2], record("CD-003", Outcome.PASSED))))
    write_report(tmp_path / "a/local-2026-11-22T000300Z", make_report(red))
    old = make_report(run(*GREEN, finished="2026-11-22T00:09:00Z"))
    (tmp_path / "y").mkdir()
    (tmp_path / "y/report.json").write_text(json.dumps(old | {"schema": "locald-conformance-report/1"}))

    assert again.find_last_failed(tmp_path, "local") == ("AB-001", "CD-003")


def make_kit(root: Path) -> Path:
    """Make a tree like the kit's."""
    for tree in TREES:
        if "." in tree:
            (root / tree).write_text("a = 1\n")
            continue
        (root / tree / "__pycache__").mkdir(parents=True)
        (root / tree / "a.py").write_text("a = 1\n")
    return root


def test_the_kit_is_its_files(tmp_path: Path) -> None:
    """A changed byte or name is another kit; what Python leaves beside the files is not."""
    root = make_kit(tmp_path)
    first = digest_files(root)
    (root / "vms/__pycache__/a.pyc").write_text("x")
    assert digest_files(root) == first
    (root / "vms/a.py").write_text("a = 2\n")
    second = digest_files(root)
    (root / "vms/a.py").rename(root / "vms/b.py")
    assert len({first, second, digest_files(root)}) == 3


def test_who_is_trusted_makes_no_other_kit(tmp_path: Path) -> None:
    """The refusal without a key says to put one there: that must not change what judged."""
    root = make_kit(tmp_path)
    first = digest_files(root)
    keys = root / "conformance/release/keys"
    keys.mkdir(parents=True)
    (keys / "mine.pem").write_text("a key")
    assert digest_files(root) == first


def test_the_digest_of_nothing_is_none(tmp_path: Path) -> None:
    """Wherever the tree lies it has files, and a tree without them is refused."""
    root = make_kit(tmp_path / ".vagrant" / "__pycache__")
    first = digest_files(root)
    (root / "vms/a.py").write_text("a = 2\n")
    assert digest_files(root) != first
    with pytest.raises(InputError, match="no file of the kit"):
        digest_files(root, (*TREES, "shim"))


@pytest.mark.spawns
def test_a_tree_without_git_has_a_digest_all_the_same(tmp_path: Path) -> None:
    """An unpacked archive is a kit too; nothing is said of a commit, neither of another project's around it."""
    author = "-c user.name=x -c user.email=x@example.org"
    for words in ("init --quiet", f"{author} commit --quiet --allow-empty --message=x"):
        subprocess.run(["/usr/bin/git", "-C", tmp_path, *words.split()], check=True)
    assert set(describe_kit(make_kit(tmp_path))) == {"sha256", "revision", "dirty"}
    (tmp_path / "below").mkdir()
    assert set(describe_kit(make_kit(tmp_path / "below"))) == {"sha256"}


def test_the_shim_is_found_in_the_wheel(tmp_path: Path) -> None:
    """And what is no wheel, or a wheel without one, is said."""
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(make_wheel())
    assert digest_shim(wheel) == digest(SHIM)
    wheel.write_bytes(b"PK")
    with pytest.raises(InputError, match="not a zip file"):
        digest_shim(wheel)


def test_a_damaged_wheel_is_an_error_of_one_kind(tmp_path: Path) -> None:
    """Whichever byte is wrong, no other exception gets out; a byte that nobody reads may go unnoticed."""
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("locald-0.1.0.data/scripts/locald-shim", bytes(range(256)) * 8)
    good = wheel.read_bytes()
    refused = 0
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x5A
        wheel.write_bytes(damaged)
        try:
            digest_shim(wheel)
        except InputError:
            refused += 1
    assert refused > len(good) / 2


def test_a_run_answers_for_what_does_not_change_by_itself() -> None:
    """A sysctl, an account or a mount of ours is an error; a mount of a login is told and no more."""
    before = {"sysctls": ["kernel/x 1"], "mounts": ["/ ext4 rw"], "mounts of ours": []}
    after = {
        "sysctls": ["kernel/x 0"],
        "mounts": ["/ ext4 rw", "/run/user/0 tmpfs rw"],
        "mounts of ours": ["/opt/locald x rw"],
    }
    assert find_faults(HostState(before, after)) == [
        "the host was changed: sysctls - kernel/x 1",
        "the host was changed: sysctls + kernel/x 0",
        "the host was changed: mounts of ours + /opt/locald x rw",
    ]
    assert find_faults(HostState(before, before)) == []


def test_the_look_at_this_machine_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    """It only reads, so it can be tried here; the parts that are judged are among them."""
    look.main()
    state = json.loads(capsys.readouterr().out)

    assert set(JUDGED) <= set(state)
    assert any(line.startswith("passwd 0:0 -rw") for line in state["accounts"])
    assert any(line.startswith("null crw") for line in state["devices"])
    assert any(line.startswith("/ ") for line in state["mounts"])
