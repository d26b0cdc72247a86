"""The report in JUnit's XML: a suite a profile, a case a clause."""

from collections.abc import Iterator
from xml.etree import ElementTree as ET  # writes only

from conformance.report import Json


def make_junit(report: Json) -> bytes:
    """Return the report in JUnit's XML."""
    root = ET.Element("testsuites", name=f"conformance {report['run']}")
    for profile in report["profiles"]:
        cases = profile["clauses"]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=profile["profile"],
            timestamp=profile["started"],
            tests=str(len(cases)),
            failures=str(sum(case["verdict"] in {"FAIL", "FLAKY"} for case in cases)),
            errors=str(sum(case["verdict"] in {"ERROR", "MISSING", "INVALID"} for case in cases)),
            skipped=str(sum(case["verdict"] == "NOT-APPLICABLE" for case in cases)),
        )
        for case in cases:
            seconds = sum(attempt["duration_s"] for test in case["tests"] for attempt in test["attempts"])
            element = ET.SubElement(
                suite,
                "testcase",
                classname=f"{profile['profile']}.{case['id'].partition('-')[0]}",
                name=f"{case['id']} {case['statement']}",
                time=f"{seconds:.3f}",
            )
            if case["verdict"] in {"PASS", "WAIVED"}:
                continue
            if case["verdict"] == "NOT-APPLICABLE":
                ET.SubElement(element, "skipped", message=_printable(case["reason"]))
                continue
            kind = "failure" if case["verdict"] in {"FAIL", "FLAKY"} else "error"
            mark = ET.SubElement(element, kind, type=case["verdict"], message=_printable(case["reason"]))
            mark.text = _printable("\n".join(_messages(case)))
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _messages(case: Json) -> Iterator[str]:
    for test in case["tests"]:
        for attempt in test["attempts"]:
            if attempt["message"]:
                yield f"{test['node']}\n{attempt['message']}"


def _printable(text: str) -> str:
    """Replace what XML 1.0 cannot hold; a payload may print anything."""
    shown = text.encode(errors="backslashreplace").decode()
    return "".join(char if char >= " " or char in "\t\n" else "\N{REPLACEMENT CHARACTER}" for char in shown)
