"""How far a run is: counted once, told through a pipe, shown on a terminal only and without pytest's own beside it."""

import io
import os
import re
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.progress import Board, Live, State, Tally, is_wanted, make_teller, parse_state


def make_reporter() -> Any:
    """Return what the live line needs of pytest's terminal reporter."""
    return SimpleNamespace(
        _tw=SimpleNamespace(_file=io.StringIO()), isatty=True, showfspath=True, _show_progress_info="count"
    )


def test_the_line_counts_clauses_and_names_what_is_red() -> None:
    """A clause with two tests counts once; brackets of a test's name are no markup."""
    reporter = make_reporter()
    live = Live("debian12-selinux", reporter)
    tally = Tally(live.tell)
    tally.begin("clauses", clauses_total=3)
    live.pytest_runtest_logstart()
    tally.count(("AB-001",), "test_a.py::test_x[direct]", passed=True)
    tally.count(("AB-001", "AB-002"), "test_a.py::test_x[mapped]", passed=False)
    live.stop()
    shown = reporter._tw._file.getvalue()

    assert (reporter.showfspath, reporter._show_progress_info) == (False, False)
    assert "debian12-selinux" in shown
    assert "2/3" in shown
    assert "test_x[direct]" in shown
    assert "1 red:" in shown
    assert "test_x[mapped]" in shown


def test_a_state_goes_through_a_pipe() -> None:
    """Each change is one line, and reads as it was."""
    reader, writer = os.pipe()
    told: list[State] = []
    through_the_pipe = make_teller(writer)

    def tell(state: State) -> None:
        through_the_pipe(state)
        told.append(State(**asdict(state)))

    tally = Tally(tell)
    tally.begin("boot")
    tally.begin("clauses", clauses_total=9)
    tally.count(("AB-001",), "test_a.py::test_x", passed=False)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert [parse_state(line) for line in stream] == told
    assert told[-1] == State("clauses", 1, 9, "test_x", ["test_x"])


def test_a_board_has_a_line_a_host() -> None:
    """Those that wait are there, without a time; one that ended shows how."""
    stream = io.StringIO()
    board = Board(stream)
    for profile in ("first", "second"):
        board.add(profile, begun=False)
    with board.progress:
        board.show("first", State("boot"))
        board.finish("first", "green [after] 3 s")
    shown = stream.getvalue()

    assert "first" in shown
    assert "boot" in shown
    assert "green [after] 3 s" in shown
    assert re.search(r"second.*-:--:--", shown)


@pytest.mark.parametrize(("width", "bar"), [(80, False), (120, True)])
def test_the_numbers_stay_whatever_is_red(width: int, bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names of tests are cut where the line ends; count and clock are there, the bar where there is room."""
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    board = Board(stream)
    board.add("debian12-userns-clone0")
    name = "test_a_bind_keeps_what_its_source_forbids[direct-ro-noexec]"
    state = State("clauses", 40, 220, name, [name, name])
    with board.progress:
        board.show("debian12-userns-clone0", state)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n")
    (line,) = {line for line in shown.splitlines() if "2 red" in line}

    assert len(name) >= 58
    assert re.search(r"debian12-userns-clone0 .*40/220 clauses \d:\d\d:\d\d 2 red: test_a_bind.*…$", line)
    assert len(line) <= width
    assert ("━" in line) is bar


def test_pytest_prints_nothing_for_a_test_and_counts_it() -> None:
    """Its category stays, its letter goes; what is neither passed nor failed is pytest's own affair."""
    live = Live("local", make_reporter())

    def status(when: str, outcome: str) -> Any:
        return live.pytest_report_teststatus(SimpleNamespace(when=when, outcome=outcome))

    assert status("call", "passed") == ("passed", "", "")
    assert status("call", "failed") == ("failed", "", "")
    assert status("setup", "failed") == ("error", "", "")
    assert status("setup", "passed") is None


@pytest.mark.parametrize(
    ("term", "isatty", "verbose", "capture", "wanted"),
    [
        ("xterm", True, 0, "fd", True),
        ("xterm", False, 0, "fd", False),
        ("dumb", True, 0, "fd", False),
        ("xterm", True, 1, "fd", False),
        ("xterm", True, 0, "no", False),
    ],
)
def test_where_the_line_is_shown(
    term: str, isatty: bool, verbose: int, capture: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a log, not on a terminal that cannot redraw, not for those who asked for pytest's words."""
    reporter = make_reporter()
    reporter.isatty = isatty
    monkeypatch.setenv("TERM", term)
    config: Any = SimpleNamespace(
        pluginmanager=SimpleNamespace(get_plugin=lambda _name: reporter),
        option=SimpleNamespace(verbose=verbose, capture=capture),
    )
    assert is_wanted(config) is wanted
