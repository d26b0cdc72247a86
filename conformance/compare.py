"""Runtimes side by side: where the same clauses came to another verdict, with the reason of each difference.

Pure but for the file of the reasons. `python -m conformance compare REPORT…` writes the manual's page with it.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from conformance.clauses import OURS
from conformance.report import Json, ReportError

REASONS: Final = Path(__file__).with_name("differences.toml")
# What is said of a clause; of the rest nothing can be compared. A peer with a race is FLAKY, which is a difference.
JUDGED: Final = frozenset({"PASS", "FAIL", "FLAKY"})
SHOWN: Final = {
    "PASS": "holds",
    "FAIL": "does not hold",
    "FLAKY": "holds at times",
    "NOT-APPLICABLE": "not about it",
}

Reasons = Mapping[str, Mapping[str, str]]
"""For each clause, for each runtime that differs there: why, in a sentence."""


def read_reasons(path: Path = REASONS) -> Reasons:
    """Return the reasons of the tree.

    Raises:
        ReportError: Not TOML, or something else than texts by clause and runtime.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ReportError(f"{path.name}: {error}") from error
    for clause, entry in document.items():
        if not isinstance(entry, dict) or not all(
            isinstance(why, str) and why.strip() for why in entry.values()
        ):
            raise ReportError(f"{path.name}: {clause}: not a sentence for each runtime")
    return document


def make_page(reports: Sequence[Json], reasons: Reasons) -> str:
    """Return the page that shows the runtimes of `reports` side by side.

    Args:
        reports: One of each runtime, the shim's among them; all on one host, judged by one kit.
        reasons: Why a peer's verdict is not the shim's.

    Raises:
        ReportError: The reports do not belong together, one is of a part of the clauses, of what was planted or of a
            run that something went wrong in, a clause was not judged, a difference has no reason, or a reason has no
            difference any more. All faults of the clauses are named.
    """
    profiles = _by_runtime(reports)
    ours, peers = profiles[OURS], {name: entry for name, entry in profiles.items() if name != OURS}
    verdicts = {name: _verdicts(entry) for name, entry in profiles.items()}
    faults = [fault for name in peers for fault in _find_faults(name, verdicts, reasons)]
    faults += [
        f"{clause}: a reason for {name}, which has no report"
        for clause, entry in reasons.items()
        for name in entry
        if name not in peers
    ]
    if faults:
        raise ReportError("; ".join(faults))
    return "\n".join(_render(ours, peers, verdicts, reasons)).rstrip("\n") + "\n"


def _by_runtime(reports: Sequence[Json]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for entry in (profile for report in reports for profile in report["profiles"]):
        if entry["runtime"] in found:
            raise ReportError(f"two reports about {entry['runtime']}")
        found[entry["runtime"]] = entry
    if OURS not in found or len(found) == 1:
        raise ReportError(f"a report about {OURS} and one about a peer are needed")
    for key, values in (
        ("host", {entry["profile"] for entry in found.values()}),
        ("kit", {entry["kit"].get("sha256") for entry in found.values()}),
        # The page names one; what a kernel does not do, no runtime on it can.
        ("kernel", {entry["subject"].get("guest_kernel") for entry in found.values()}),
    ):
        if len(values) > 1:
            raise ReportError(f"the reports have more than one {key}")
    if bad := [name for name, entry in found.items() if not entry["preconditions"]["proven"]]:
        raise ReportError(f"the host was not proven: {', '.join(bad)}")
    if planted := [name for name, entry in found.items() if "planted" in entry["subject"]]:
        raise ReportError(f"not a product but what was planted: {', '.join(planted)}")
    if partial := [name for name, entry in found.items() if not entry["complete"]]:
        raise ReportError(f"not every clause was judged: {', '.join(partial)}")
    if bad := [f"{name}: {entry['errors'][0]}" for name, entry in found.items() if entry["errors"]]:
        raise ReportError(f"something went wrong around the clauses: {'; '.join(bad)}")
    return found


def _verdicts(entry: Json) -> dict[str, str]:
    return {clause["id"]: clause["verdict"] for clause in entry["clauses"]}


def _find_faults(name: str, verdicts: Mapping[str, Mapping[str, str]], reasons: Reasons) -> Iterator[str]:
    for one, other in ((name, OURS), (OURS, name)):
        yield from (
            f"{clause}: the report about {one} does not have it"
            for clause in verdicts[other]
            if clause not in verdicts[one]
        )
    for clause, verdict in verdicts[name].items():
        reason = reasons.get(clause, {}).get(name)
        if verdict == "NOT-APPLICABLE":
            if reason is not None:
                yield f"{clause}: a reason for {name}, of which it says nothing"
            continue
        if clause not in verdicts[OURS]:
            continue
        expected = verdicts[OURS][clause]
        if bad := {verdict, expected} - JUDGED:
            yield f"{clause}: {' and '.join(sorted(bad))} can be compared with nothing ({name})"
        elif expected != "PASS":
            # The page lists what is alike as what holds.
            yield f"{clause}: {OURS} {SHOWN[expected]}, so that {name} cannot be measured by it"
        elif verdict != "PASS" and reason is None:
            yield f"{clause}: {name} {SHOWN[verdict]}, and no reason is given"
        elif verdict == "PASS" and reason is not None:
            yield f"{clause}: {name} is like {OURS}, and a reason says that it is not"
    yield from (
        f"{clause}: a reason for {name}, and no such clause"
        for clause, entry in reasons.items()
        if name in entry and clause not in verdicts[name]
    )


def _render(
    ours: Json, peers: Mapping[str, Json], verdicts: Mapping[str, Mapping[str, str]], reasons: Reasons
) -> Iterator[str]:
    names = [OURS, *peers]
    common = [
        clause for clause in _verdicts(ours) if any(verdicts[name].get(clause) in JUDGED for name in peers)
    ]
    statements = {clause["id"]: clause["statement"] for clause in ours["clauses"]}
    differing = [
        clause for clause in common if any(verdicts[name][clause] in JUDGED - {"PASS"} for name in peers)
    ]
    yield from (
        "# Runtimes compared",
        "",
        "Made by `python -m conformance compare` from a report of each runtime; the reasons alone are by hand, in",
        "`conformance/differences.toml`. The command fails on a difference without a reason and on a reason without a",
        "difference. [How a peer is run](../guides/conformance.md#another-runtime-in-the-shims-place).",
        "",
        f"Host: the profile `{ours['profile']}`, kernel {ours['subject'].get('guest_kernel', 'unknown')}.",
        "",
        "| runtime | version | judged | hold |",
        "|---|---|---|---|",
    )
    for name in names:
        entry = peers.get(name, ours)
        judged = [verdicts[name][clause] for clause in common if verdicts[name].get(clause) in JUDGED]
        version = entry["subject"].get("runtime_version") or entry["subject"].get("shim_version", "")
        yield f"| {name} | {version} | {len(judged)} | {judged.count('PASS')} |"
    yield from (
        "",
        "A clause that differs here is no fault of a peer: most are about what the shim forces and OCI leaves to",
    )
    yield from (
        "the config, or to whoever calls. The twin refuses what libcontainer lacks.",
        "",
        f"## {len(differing)} clauses that differ",
        "",
    )
    for clause in differing:
        yield from (f"### {clause}", "", statements[clause], "")
        yield from ("| runtime | | why |", "|---|---|---|")
        for name in names:
            verdict = SHOWN[verdicts[name][clause]]
            yield f"| {name} | {verdict} | {reasons.get(clause, {}).get(name, '')} |"
        yield ""
    # The twin is asked what only the shim's command line can be, so that not every list is about all of them.
    alike: dict[tuple[str, ...], list[str]] = {}
    for clause in (clause for clause in common if clause not in differing):
        about = tuple(name for name in names if verdicts[name][clause] in JUDGED)
        alike.setdefault(about, []).append(clause)
    for about, clauses in sorted(alike.items(), key=lambda entry: -len(entry[0])):
        whom = "all" if len(about) == len(names) else " and ".join((", ".join(about[:-1]), about[-1]))
        yield from (f"## {len(clauses)} clauses that hold for {whom}", "")
        yield from (f"- {clause}: {statements[clause]}" for clause in clauses)
        yield ""
