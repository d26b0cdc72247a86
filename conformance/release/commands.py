"""`merge`, `sign`, `gate` and `compare`: the verbs on reports. 0 done, 1 refused, 2 cannot be read or asked."""

import argparse
import datetime
import hashlib
import sys
from pathlib import Path
from typing import Any, Final

from conformance import compare
from conformance.clauses import CatalogueError, find_modal, find_tests, read_catalogue
from conformance.controls import read_controls
from conformance.inputs import InputError
from conformance.provenance import PLANTED, digest_files, digest_shim, digest_shim_sources, find_foreign
from conformance.release.case import Case, parse_time, read_hosts
from conformance.release.gate import find_faults
from conformance.release.policy import MAX_DAYS, POLICY, PolicyError, read_policy
from conformance.release.statement import (
    ENVELOPE_NAME,
    RENDERED,
    StatementError,
    make_statement,
    read_public_key,
    sign,
)
from conformance.rendering.lines import count_things, make_line
from conformance.rendering.summary import summarise
from conformance.report import Json, ReportError, add_accounts, join_reports
from conformance.report_files import (
    judge_report,
    parse_json,
    parse_report,
    read_report,
    replace_file,
    write_rendered,
    write_report,
)
from conformance.waivers import WAIVERS, parse_waivers

KEYS: Final = Path(__file__).with_name("keys")
KIT: Final = Path(__file__).parent.parent
VALID_DAYS: Final = 14
REFUSED: Final = 1
UNUSABLE: Final = 2


def add_verbs(verbs: Any) -> None:
    """Declare the verbs to a subparsers object."""
    merge = verbs.add_parser("merge", help="join the reports of several machines into one")
    merge.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="report.json files")
    merge.add_argument("-o", "--output", required=True, type=Path, help="a directory for the joined report")
    merge.add_argument("--replace", action="store_true", help="a host twice: let the later one stand")
    merge.add_argument(
        "--controls", nargs="+", default=[], type=Path, help="controls.json files: what planted faults showed"
    )
    merge.set_defaults(run=run_merge)
    signing = verbs.add_parser("sign", help="vouch for a report: a DSSE envelope beside it")
    signing.add_argument("report", type=Path, metavar="REPORT", help="a report.json")
    signing.add_argument("--key", required=True, type=Path, help="a private ed25519 key, PEM or ssh")
    signing.add_argument(
        "--valid-days",
        type=parse_days,
        metavar="DAYS",
        default=VALID_DAYS,
        help=f"1 to {MAX_DAYS}; default: %(default)s",
    )
    signing.set_defaults(run=run_sign)
    comparing = verbs.add_parser("compare", help="write the manual's page on runtimes side by side")
    comparing.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="one of each runtime")
    comparing.add_argument("-o", "--output", required=True, type=Path, help="the page")
    comparing.set_defaults(run=run_compare)
    gating = verbs.add_parser(
        "gate", prog="ci/release-gate", help="say whether a wheel may be published, or what is missing"
    )
    gating.add_argument("wheel", type=Path, metavar="WHEEL", help="what would be published")
    gating.add_argument(
        "report", type=Path, metavar="REPORT", help="its report.json, with the envelope beside it"
    )
    gating.add_argument(
        "--key",
        action="append",
        type=Path,
        help="a trusted public key; default: every one in conformance/release/keys/",
    )
    gating.add_argument("--envelope", type=Path, help=f"default: {ENVELOPE_NAME} beside the report")
    gating.add_argument("--policy", type=Path, default=POLICY, help="default: %(default)s")
    gating.add_argument(
        "--at",
        type=parse_moment,
        metavar="TIME",
        help="judge as of then, in UTC (2026-11-30T12:00:00Z): a release that was published some time ago",
    )
    gating.set_defaults(run=run_gate)


def parse_moment(text: str) -> datetime.datetime:
    """Return the time that was typed."""
    moment = parse_time(text)
    if moment is None:
        raise argparse.ArgumentTypeError(f"{text}: not a time such as 2026-11-30T12:00:00Z")
    return moment


def parse_days(text: str) -> int:
    """Return the number of days that was typed."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text}: not 1 to {MAX_DAYS} days")
    return int(text)


def run(chosen: argparse.Namespace) -> int:
    """Run the verb that was chosen."""
    try:
        code: int = chosen.run(chosen)
    except (ReportError, StatementError, PolicyError, CatalogueError, InputError, OSError) as error:
        _complain(error, speaker="release-gate" if chosen.verb == "gate" else "conformance")
        return UNUSABLE
    return code


def _complain(error: Exception, *, speaker: str = "conformance") -> None:
    """Say what was refused; its words may be those of a stranger's report."""
    said = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        # Python's own words for it begin with a number.
        said = f"{error.filename}: {error.strerror}"
    sys.stderr.write(f"{make_line(f'{speaker}: {said}')}\n")


def run_merge(chosen: argparse.Namespace) -> int:
    """Join reports; refused if they are not about the same wheel, judged by the same kit."""
    reports = [read_report(path) for path in chosen.reports]
    documents = {path: parse_json(path.read_bytes(), str(path)) for path in chosen.controls}
    try:
        joined = join_reports(reports, chosen.output.resolve().name, replace=chosen.replace)
        accounts = [judge_account(account, str(path), joined) for path, account in documents.items()]
        joined = add_accounts(joined, accounts, replace=chosen.replace)
    except ReportError as error:
        _complain(error)
        return REFUSED
    write_report(chosen.output, joined)
    for line in summarise(joined):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{chosen.output}/report.json, index.html, junit.xml\n")
    return 0


def judge_account(account: Any, name: str, joined: Json) -> Json:
    """Return an account that was read, judged by the schema as the part of the report that it becomes."""
    # With one host: all were judged when they were read, and are a hundred times as long.
    (read,) = judge_report({**joined, "profiles": joined["profiles"][:1], "controls": [account]}, name)[
        "controls"
    ]
    result: Json = read
    return result


def run_compare(chosen: argparse.Namespace) -> int:
    """Write the page; refused while a difference has no reason, or a reason no difference."""
    reports = [read_report(path) for path in chosen.reports]
    try:
        page = compare.make_page(reports, compare.read_reasons())
    except ReportError as error:
        _complain(error)
        return REFUSED
    chosen.output.write_text(page, "utf-8")
    sys.stdout.write(f"{chosen.output}\n")
    return 0


def run_sign(chosen: argparse.Namespace) -> int:
    """Put a signed statement beside the report, and beside both what the report looks like."""
    content = chosen.report.read_bytes()
    report = parse_report(content, str(chosen.report))
    # What people read is signed too: made here, so that it is not the page of another run that lay there.
    write_rendered(chosen.report.parent, report)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=chosen.valid_days)
    statement = make_statement(
        report,
        content,
        expires=until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        rendered={
            name: hashlib.sha256(page).hexdigest() for name, page in read_rendered(chosen.report).items()
        },
    )
    place = chosen.report.with_name(ENVELOPE_NAME)
    replace_file(place, sign(statement, chosen.key))
    sys.stdout.write(f"{place}: {statement['predicate']['result']}\n")
    return 0


def read_rendered(report: Path) -> dict[str, bytes]:
    """Return what was made of a report and lies beside it, by name."""
    paths = [report.with_name(name) for name in RENDERED]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def run_gate(chosen: argparse.Namespace) -> int:
    """Print PASS, or a line for each thing that is missing."""
    envelope = chosen.envelope or chosen.report.with_name(ENVELOPE_NAME)
    paths = chosen.key or sorted(KEYS.glob("*.pem"))
    try:
        shim, foreign = digest_shim(chosen.wheel), find_foreign(chosen.wheel)
    except InputError as error:
        shim, foreign = None, [str(error)]
    catalogue = read_catalogue()
    case = Case(
        wheel=chosen.wheel.read_bytes(),
        wheel_shim_sha256=shim,
        report=chosen.report.read_bytes(),
        rendered=read_rendered(chosen.report),
        envelope=envelope.read_bytes() if envelope.exists() else None,
        keys=tuple(read_public_key(path) for path in paths),
        catalogue=catalogue,
        tests=find_tests(KIT),
        modal=find_modal(KIT),
        # Also what expired: the gate says so of the clause that leans on it.
        waivers=parse_waivers(WAIVERS.read_text("utf-8"), today=None, known=catalogue),
        controls=read_controls(),
        hosts=read_hosts(),
        kit_sha256=digest_files(),
        planted_sha256=digest_files(trees=PLANTED),
        wheel_foreign=tuple(foreign),
        shim_build=digest_shim_sources(),
        policy=read_policy(chosen.policy),
        now=chosen.at or datetime.datetime.now(datetime.UTC),
    )
    faults = find_faults(case)
    for fault in faults:
        sys.stdout.write(f"{make_line(f'release-gate: {fault}')}\n")
    if faults:
        sys.stdout.write(f"release-gate: REFUSED: {count_things(len(faults), 'reason')}\n")
        return REFUSED
    # One that was good then may be expired by now, which a reader has to be told.
    moment = f", as of {case.now:%Y-%m-%dT%H:%M:%SZ}" if chosen.at else ""
    # Whoever gives one decides what is asked.
    policy = f", by {chosen.policy}" if chosen.policy != POLICY else ""
    sys.stdout.write(
        f"release-gate: PASS: {chosen.wheel.name} on {', '.join(case.policy.profiles)}{moment}{policy}\n"
    )
    return 0
