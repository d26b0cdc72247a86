"""The report as one page: a single file that works from file:// without a network.

The matrix is plain HTML and can be read without scripts. The evidence is compressed into the page and unpacked by the
browser when somebody asks for it: uncompressed it is a megabyte a host.
"""

import base64
import gzip
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from conformance.rendering.lines import count_things
from conformance.rendering.summary import make_reproducer
from conformance.report import Json
from conformance.verdicts import GREEN, Verdict

HERE: Final = Path(__file__).parent
GZIP_LEVEL: Final = 6
MARKS: Final = {
    "NOT-APPLICABLE": "·",
    "PASS": "✓",
    "WAIVED": "◇",
    "FLAKY": "≈",
    "FAIL": "✗",
    "MISSING": "?",
    "ERROR": "!",
    "INVALID": "⊘",
}
OURS: Final = "locald-shim"
# With one of these a result says less than it seems to; so it stands in the host's own line too.
UNUSUAL: Final = (
    ("planted", "A planted fault, or a measured build"),
    ("reused", "Not a machine of this run"),
)
# What identifies the subject stands above; these say what the host was.
SHOWN_FACTS: Final = (
    *UNUSUAL,
    ("runtime_version", "Version of the runtime"),
    ("runtime_sha256", "SHA-256 of the runtime"),
    ("system", "System"),
    ("guest_kernel", "Kernel"),
    ("command_line", "Kernel command line"),
    ("box", "Box"),
    ("box_sha256", "Box SHA-256"),
    ("accelerator", "Accelerator"),
    ("boots", "Boots until ssh answered"),
    ("restored", "Restored, as it had booted at"),
    ("policy_version", "Policy version"),
    ("policy_sha256", "Policy SHA-256"),
    ("installed_shim_sha256", "Installed shim SHA-256"),
    ("wheel_sha256", "Wheel SHA-256"),
)


def make_page(report: Json) -> str:
    """Return the page."""
    style, script = (HERE / "page.css").read_text("utf-8"), (HERE / "page.js").read_text("utf-8")
    profiles = report["profiles"]
    text = _template().render(
        report=report,
        profiles=profiles,
        subject=name_subject(profiles),
        wheel_sha256=_first(profiles, "wheel_sha256"),
        shim_sha256=_first(profiles, "wheel_shim_sha256"),
        kit=next((entry["kit"] for entry in profiles if entry["kit"]), {}),
        finished=max(entry["finished"] for entry in profiles),
        families=group_rows(profiles),
        totals=count_cells(profiles),
        marks=MARKS,
        green={str(verdict) for verdict in GREEN},
        facts=SHOWN_FACTS,
        unusual=UNUSUAL,
        causes={entry["profile"]: find_cause(entry) for entry in profiles},
        style=Markup(style),  # noqa: S704  # the kit's own files
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
        evidence=[pack_evidence(entry) for entry in profiles],
    )
    return text + "\n"


def name_subject(profiles: list[Json]) -> str:
    """Return what was judged: the wheel, or the other runtime that was judged in place of its shim."""
    wheel = _first(profiles, "wheel") or "an unknown wheel"
    others = sorted({entry["runtime"] for entry in profiles} - {OURS})
    return f"{', '.join(others)}, beside {wheel}" if others else wheel


def find_cause(profile: Json) -> str:
    """Return the first thing for which a host is not green, in a line; empty if it is green."""
    if profile["green"]:
        return ""
    proofs = profile["preconditions"]
    unproven = [
        f"not proven {when} the clauses: {proof['name']}: {proof['observed'] or 'nothing came'}"
        for when in ("before", "after")
        for proof in proofs[when]
        if not proof["proven"]
    ]
    red = [
        f"{clause['verdict']} {clause['id']}: {clause['reason']}"
        # A clause that does not apply keeps a peer from green as well, but only where nothing worse does.
        for clause in sorted(profile["clauses"], key=lambda one: one["verdict"] == Verdict.NOT_APPLICABLE)
        if clause["level"] == "MUST" and clause["verdict"] not in GREEN
    ]
    return next(iter([*profile["errors"], *unproven, *red]), "").strip().partition("\n")[0]


def group_rows(profiles: list[Json]) -> dict[str, list[Json]]:
    """Return a row a clause, by family: the clause, and its verdict on each profile (None where it does not apply)."""
    clauses: dict[str, Json] = {}
    cells: dict[str, dict[str, str]] = {}
    for profile in profiles:
        for clause in profile["clauses"]:
            clauses.setdefault(clause["id"], clause)
            cells.setdefault(clause["id"], {})[profile["profile"]] = clause["verdict"]
    families: dict[str, list[Json]] = {}
    for name in sorted(clauses):
        clause = clauses[name]
        row = {key: clause[key] for key in ("id", "level", "statement")}
        row["cells"] = [(entry["profile"], cells[name].get(entry["profile"])) for entry in profiles]
        # On a phone they are one line, if they are more than one.
        found = list(cells[name].values())
        row["passed"] = len(found) if len(found) > 1 and set(found) == {"PASS"} else 0
        families.setdefault(name.partition("-")[0], []).append(row)
    return families


def count_cells(profiles: list[Json]) -> dict[str, int]:
    """Return how many cells of the matrix have each verdict that occurs, the gravest first."""
    found = [clause["verdict"] for profile in profiles for clause in profile["clauses"]]
    return {str(verdict): found.count(verdict) for verdict in reversed(Verdict) if verdict in found}


def pack_evidence(profile: Json) -> str:
    """Return everything about the clauses of a profile as base64 of gzip of JSON: safe inside any HTML."""
    clauses: dict[str, Any] = {
        clause["id"]: {**clause, "again": make_reproducer(profile, clause["id"])}
        for clause in profile["clauses"]
    }
    packed = gzip.compress(json.dumps(clauses, separators=(",", ":")).encode(), GZIP_LEVEL, mtime=0)
    return base64.b64encode(packed).decode()


def _first(profiles: list[Json], key: str) -> str:
    return next((entry["subject"][key] for entry in profiles if key in entry["subject"]), "")


def _hash(text: str) -> str:
    """Return the source expression by which the page's own policy allows exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = lambda digest: digest[:12]
    environment.filters["count"] = count_things
    return environment.get_template("page.html.j2")
