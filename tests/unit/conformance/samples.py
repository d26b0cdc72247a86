"""Small reports that look like real ones, for the tests of whatever reads reports."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from conformance.clauses import Clause
from conformance.report import (
    Attempt,
    HostState,
    Json,
    ProfileRun,
    Proof,
    TestRecord,
    join_reports,
    make_profile,
)
from conformance.snapshot import JUDGED
from conformance.verdicts import Outcome
from conformance.waivers import Waiver

KIT = "c" * 64
PLANTED = "b" * 64
BUILD = "a" * 64
SHIM = b"\x7fELF a shim"


def clause(name: str, level: Any = "MUST") -> Clause:
    """Return a clause that applies everywhere."""
    return Clause(name, level, f"{name} holds.", "seen", "design", ("*",), ("always-fails",))


CATALOGUE: Mapping[str, Clause] = {name: clause(name) for name in ("AB-001", "AB-002")} | {
    "CD-003": clause("CD-003", "SHOULD")
}


def make_wheel(shim: bytes = SHIM, package: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """Return a wheel with a shim and the files of `package`, stored and not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in package.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.writestr(zipfile.ZipInfo("locald-0.1.0.data/scripts/locald-shim"), shim)
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """Return a SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def piece(**more: Any) -> Json:
    """Return a piece of evidence as the agent makes it."""
    return {
        "argv": ["/opt/locald/bin/locald-shim", "bundle", "run", "--bundle", "/srv/it's here"],
        "user": "plain",
        "exit_code": 0,
        "started": 1000.0,
        "ended": 1000.5,
        "seconds": 0.4,
        "stdout": "said <b>on stdout</b> & more\n",
        **more,
    }


def record(
    name: str, *outcomes: Outcome, message: str = "", evidence: tuple[Json, ...] | None = None
) -> TestRecord:
    """Return a test of a clause with these attempts."""
    shown = (piece(),) if evidence is None else evidence
    attempts = tuple(
        Attempt(outcome, 0.5, message if outcome is not Outcome.PASSED else "", shown) for outcome in outcomes
    )
    return TestRecord(name, f"conformance/test_a.py::test_{name}", attempts)


def proof(*, proven: bool = True) -> Proof:
    """Return a proof with everything a profile's fact has."""
    return Proof("fact", proven, "so it is", "it is so", ("/bin/is", "so"), "root", "exit code 0", 0, 0.1)


def seen(**after: list[str]) -> HostState:
    """Return what was seen of a host before and after: nothing, but for what came."""
    before: dict[str, list[str]] = {name: [] for name in (*JUDGED, *after)} | {"mounts": ["/ ext4 rw"]}
    return HostState(before, before | after)


GREEN = (
    record("AB-001", Outcome.PASSED, evidence=(piece(),)),
    record("AB-002", Outcome.PASSED),
    record("CD-003", Outcome.FAILED, message="AssertionError: a SHOULD"),
)


def run(*records: TestRecord, proven: bool = True, profile: str = "local", **changes: Any) -> ProfileRun:
    """Return what a profile's process learnt."""
    proofs = (proof(proven=proven),)
    wheel = make_wheel()
    values: dict[str, Any] = {
        "subject": {
            "wheel": "locald-0.1.0-py3-none-any.whl",
            "wheel_sha256": digest(wheel),
            "wheel_shim_sha256": digest(SHIM),
            "installed_shim_sha256": digest(SHIM),
            "shim_build": BUILD,
            "guest_kernel": "6.1.0",
            "policy_version": "1",
            "policy_sha256": "d" * 64,
        },
        "kit": {"sha256": KIT, "revision": "f" * 40, "dirty": False},
        "before": proofs,
        "after": proofs,
        "records": records,
        "timing": {"boot": 1.0, "clauses": 2.5, "all": 4.0},
        "host": seen(),
        "logs": {"kernel": 1, "journal": 0, "audit": 0, "denials": 0},
        "started": "2026-11-22T00:00:00Z",
        "finished": "2026-11-22T00:01:00Z",
        "seed": 7,
        "runtime": "locald-shim",
    }
    return ProfileRun(profile, **values | changes)


def make_report(*runs: ProfileRun, waivers: tuple[Waiver, ...] = (), controls: Sequence[Json] = ()) -> Json:
    """Return the report of these runs, or of one green one."""
    profiles = [make_profile(entry, CATALOGUE, waivers) for entry in runs or (run(*GREEN),)]
    joined = join_reports([{"schema": "locald-conformance-report/5", "profiles": profiles}], "run-1")
    # As they are, for the gate to judge: of another wheel too.
    return joined | ({"controls": list(controls)} if controls else {})


def account(**changes: Any) -> Json:
    """Return what planted faults showed: one, which every clause claims and saw."""
    made: Json = {
        "schema": "locald-conformance-controls/3",
        "profile": "local",
        "started": "2026-11-22T00:00:00Z",
        "finished": "2026-11-22T00:01:00Z",
        "kit": {"sha256": KIT, "revision": "f" * 40, "dirty": False},
        "planted_sha256": PLANTED,
        "wheel_sha256": digest(make_wheel()),
        "missed": [],
        "beyond": [],
        "unproven": [],
        "verdicts": {"always-fails": dict.fromkeys(CATALOGUE, "FAIL")},
    }
    return made | changes


def as_bytes(report: Json) -> bytes:
    """Return the file that a report is written as."""
    return (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()
