"""How far runs are, for a person: on a terminal a line a host that renews itself, elsewhere lines that do not move.

`Tally` counts what one run came to. It is shown on a `Board` by the run's own process, or told through a descriptor
to the process that started several of them and shows them together.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TextIO

import pytest
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

SHOWN_RED: Final = 4
BAR_CHARS: Final = 24
# On a narrower terminal the bar says less than the names that its place is needed for.
BAR_FROM_CHARS: Final = 110


@dataclass(slots=True)
class State:
    """How far one run is."""

    phase: str = ""
    clauses_done: int = 0
    clauses_total: int = 0
    # The test that ended last, and those that were red.
    test: str = ""
    red: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What stands behind the numbers."""
        if self.red:
            return f"{len(self.red)} red: {', '.join(self.red[-SHOWN_RED:])}"
        return self.test or self.phase


class Tally:
    """The state of one run, told to whoever shows it each time that it changes."""

    def __init__(self, tell: Callable[[State], object]) -> None:
        self.state = State()
        self._clauses: set[str] = set()
        self._tell = tell

    def begin(self, phase: str, *, clauses_total: int = 0) -> None:
        """Note that another phase begins."""
        self.state.phase = phase
        self.state.clauses_total = clauses_total or self.state.clauses_total
        self._tell(self.state)

    def count(self, clauses: tuple[str, ...], node: str, *, passed: bool) -> None:
        """Note that a test ended."""
        self._clauses |= set(clauses)
        self.state.clauses_done = len(self._clauses)
        self.state.test = node.rpartition("::")[2]
        if not passed:
            self.state.red.append(self.state.test)
        self._tell(self.state)


def make_teller(descriptor: int) -> Callable[[State], None]:
    """Return what writes each state to a pipe, a JSON object a line; `parse_state` reads them."""

    def tell(state: State) -> None:
        os.write(descriptor, json.dumps(asdict(state)).encode() + b"\n")

    return tell


def parse_state(line: bytes) -> State:
    """Return the state that a line of `make_teller` tells."""
    return State(**json.loads(line))


class Bar(ProgressColumn):
    """A bar where there is room for one; asked anew each time, since a window may change its size."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self._console = console
        self._bar = BarColumn(bar_width=BAR_CHARS)

    def render(self, task: Task) -> RenderableType:
        """Return the bar, or nothing."""
        return self._bar.render(task) if self._console.width >= BAR_FROM_CHARS else Text("")


class Board:
    """A terminal's line a host: the numbers always whole, and what else there is room for."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream, force_terminal=True)
        self.progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            Bar(console),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("clauses", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            # It alone gives way: the others keep their width.
            TextColumn(
                "{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def add(self, profile: str, *, begun: bool = True) -> None:
        """Add the line of a host; its clock waits for `show` where the run has not begun."""
        self._tasks[profile] = self.progress.add_task(escape(profile), total=None, note="", start=begun)

    def show(self, profile: str, state: State) -> None:
        """Renew a line."""
        task = self._tasks[profile]
        self.progress.start_task(task)
        note = f"[red]{escape(state.note)}[/red]" if state.red else escape(state.note)
        total = state.clauses_total or None
        self.progress.update(task, completed=state.clauses_done, total=total, note=note, refresh=True)

    def finish(self, profile: str, note: str) -> None:
        """Stop the clock of a line, with its verdict."""
        task = self._tasks[profile]
        self.progress.stop_task(task)
        self.progress.update(task, note=escape(note), refresh=True)


class Live:
    """The board of one run, as a plugin of its own pytest: in place of a dot a test."""

    def __init__(self, profile: str, reporter: Any) -> None:
        self.reporter = reporter
        self.profile = profile
        # pytest's own copy of the terminal: standard output is captured while a test runs.
        self.board = Board(reporter._tw._file)  # noqa: SLF001
        self.board.add(profile)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Show the line when the first test starts, below what pytest says of the session."""
        if not self.board.progress.live.is_started:
            # Its terminal writer would draw over the line; these options are read before any conftest.
            self.reporter.showfspath = False
            self.reporter._show_progress_info = False  # noqa: SLF001
            self.board.progress.start()

    def tell(self, state: State) -> None:
        """Renew the line."""
        self.board.show(self.profile, state)

    def stop(self) -> None:
        """Take the line away, so that the summary stands alone."""
        self.board.progress.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Print nothing for a test that ended; it still counts in pytest's last line."""
        if report.when == "call" and report.outcome in {"passed", "failed"}:
            return report.outcome, "", ""
        return ("error", "", "") if report.outcome == "failed" else None


def is_wanted(config: pytest.Config) -> bool:
    """Say whether a terminal is there that can redraw a line, and nobody asked for pytest's own words."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return (
        reporter is not None
        and reporter.isatty
        and can_redraw()
        and config.option.verbose == 0
        and config.option.capture != "no"
    )


def can_redraw() -> bool:
    """Say whether the terminal, if there is one, can renew a line."""
    return os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}
