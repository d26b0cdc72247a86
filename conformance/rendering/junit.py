"""The report in JUnit's XML: a suite a profile, a case a clause, and one more for what no clause is to blame for."""

from collections.abc import Iterator, Sequence
from typing import Final
from xml.etree import ElementTree as ET  # writes only

from conformance.report import Json

# Neither passed nor red: CI shows them, with the reason, among what was skipped.
SKIPPED: Final = frozenset({"NOT-APPLICABLE", "WAIVED"})


def make_junit(report: Json) -> bytes:
    """Return the report in JUnit's XML."""
    root = ET.Element("testsuites", name=_printable(f"conformance {report['run']}"))
    for profile in report["profiles"]:
        cases = profile["clauses"]
        troubles = profile["errors"]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_printable(profile["profile"]),
            timestamp=profile["started"],
            tests=str(len(cases) + len(troubles)),
            failures=str(sum(case["verdict"] in {"FAIL", "FLAKY"} for case in cases)),
            errors=str(
                sum(case["verdict"] in {"ERROR", "MISSING", "INVALID"} for case in cases) + len(troubles)
            ),
            skipped=str(sum(case["verdict"] in SKIPPED for case in cases)),
        )
        for case in cases:
            seconds = sum(attempt["duration_s"] for test in case["tests"] for attempt in test["attempts"])
            element = ET.SubElement(
                suite,
                "testcase",
                classname=_printable(f"{profile['profile']}.{case['id'].partition('-')[0]}"),
                name=_printable(f"{case['id']} {case['statement']}"),
                time=f"{seconds:.3f}",
            )
            if case["verdict"] == "PASS":
                continue
            if case["verdict"] in SKIPPED:
                ET.SubElement(element, "skipped", message=_printable(case["reason"]))
                continue
            kind = "failure" if case["verdict"] in {"FAIL", "FLAKY"} else "error"
            mark = ET.SubElement(element, kind, type=case["verdict"], message=_printable(case["reason"]))
            mark.text = _printable("\n".join(_messages(case)))
        for trouble in troubles:
            _add_red(suite, f"{profile['profile']}.run", "the run", "error", trouble)
    if accounts := report.get("controls"):
        _add_accounts(root, accounts)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _add_accounts(root: ET.Element, accounts: Sequence[Json]) -> None:
    """Add a suite of the planted faults: a case a host, and one more for each claim that was not kept."""
    missed = [(account["profile"], miss) for account in accounts for miss in account["missed"]]
    count = str(len(accounts) + len(missed))
    suite = ET.SubElement(root, "testsuite", name="planted faults", tests=count, failures=str(len(missed)))
    for account in accounts:
        name = f"{len(account['verdicts'])} planted"
        ET.SubElement(suite, "testcase", classname=_printable(f"{account['profile']}.planted"), name=name)
    for profile, miss in missed:
        says = f"{miss['control']} did not turn {miss['clause']} red"
        _add_red(suite, f"{profile}.planted", miss["control"], "failure", says)


def _add_red(suite: ET.Element, classname: str, name: str, kind: str, text: str) -> None:
    """Add a case that is red: an `error` or a `failure`."""
    case = ET.SubElement(suite, "testcase", classname=_printable(classname), name=_printable(name))
    mark = ET.SubElement(case, kind, message=_printable(text.partition("\n")[0]))
    mark.text = _printable(text)


def _messages(case: Json) -> Iterator[str]:
    for test in case["tests"]:
        for attempt in test["attempts"]:
            if attempt["message"]:
                yield f"{test['node']}\n{attempt['message']}"


def _printable(text: str) -> str:
    """Replace what XML 1.0 cannot hold; a payload may print anything, and a stranger's report have any name."""
    shown = text.encode(errors="backslashreplace").decode()
    return "".join(char if char >= " " or char in "\t\n" else "\N{REPLACEMENT CHARACTER}" for char in shown)
