"""The files of a run: report.json and what is made of it, read and written with care.

A report comes from a machine that may have failed half-way, or from somebody else: what is read is judged against
`report.schema.json` first.
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema

from conformance import locks
from conformance.rendering.junit import make_junit
from conformance.rendering.page import make_page
from conformance.report import Json, ReportError, merge_report

SCHEMA_FILE: Final = Path(__file__).with_name("report.schema.json")
LIMIT_BYTES: Final = 512 * 1024 * 1024
# For another host's report to be read, joined and written.
LOCK_LIMIT_S: Final = 300.0


def read_report(path: Path) -> Json:
    """Return the report in `path`.

    Raises:
        ReportError: It cannot be read, is not JSON, or is not what the schema says; the message is one line.
    """
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ReportError(f"{path}: larger than {LIMIT_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from error
    return parse_report(content, str(path))


def parse_json(content: bytes, name: str) -> Any:
    """Return what `content` says; `name` stands in the message of a refusal.

    Raises:
        ReportError: It is not JSON, or what another reader would take for something else.
    """
    try:
        # Python reads NaN, numbers without end and doubled keys, which no other reader of JSON has to.
        return json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_read_number,
            object_pairs_hook=_refuse_doubles,
        )
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name}: not JSON: {error}") from error


def parse_report(content: bytes, name: str) -> Json:
    """Return the report that `content` is; `name` stands in the message of a refusal.

    Raises:
        ReportError: It is not JSON, or not what the schema says.
    """
    return judge_report(parse_json(content, name), name)


def judge_report(document: Any, name: str) -> Json:
    """Return what was read, as a report.

    Raises:
        ReportError: It is not what the schema says.
    """
    try:
        _validator().validate(document)
    except jsonschema.ValidationError as error:
        place = "/".join(str(step) for step in error.absolute_path) or "the whole"
        raise ReportError(f"{name}: not a report: {place}: {error.message[:200]}") from error
    report: Json = document
    return report


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


def make_place(directory: Path) -> None:
    """Make the directory of a report, before a machine is booted for it.

    Raises:
        OSError: It cannot be made, or takes no file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Asked of the file system and not of the mode: root may write anywhere, but not to what is mounted read-only.
    with tempfile.TemporaryFile(dir=directory) as probe:
        probe.write(b"probe")


def write_profile(directory: Path, profile: Json) -> Json:
    """Put `profile` into the report of the run in `directory`, and return the whole report.

    Safe against processes of other profiles that write the same run: one lock, each file renamed into place.

    Raises:
        ReportError: What lies there is no report of this run, or another process keeps the lock.
        OSError: It cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        path = directory / "report.json"
        earlier = read_report(path) if path.exists() else None
        report = merge_report(earlier, directory.name, profile)
        write_report(directory, report)
    return report


def write_report(directory: Path, report: Json) -> None:
    """Write junit.xml, index.html and report.json into `directory`, each renamed into place."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_rendered(directory, report)
    # Last: where the disk is full before, nothing says that all is well.
    replace_file(directory / "report.json", text.encode(errors="backslashreplace"))


def write_rendered(directory: Path, report: Json) -> None:
    """Write junit.xml and index.html of `report` into `directory`, each renamed into place."""
    replace_file(directory / "junit.xml", make_junit(report))
    replace_file(directory / "index.html", make_page(report).encode(errors="backslashreplace"))


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _read_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


def _refuse_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locks.locked(path, limit_s=LOCK_LIMIT_S))
        except locks.Locked as error:
            raise ReportError(str(error)) from error
        yield


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it into it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
