"""How far a run is, on a terminal: one line that renews itself, in place of a dot a test.

Off where the output is no terminal: a log gets pytest's own lines and nothing that moves.
"""

import os
from typing import Any, Final

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SHOWN_RED: Final = 4


class Live:
    """Counts clauses as their tests end, and redraws the line."""

    def __init__(self, profile: str, clauses_total: int, reporter: Any) -> None:
        self.reporter = reporter
        self.red: list[str] = []
        self.clauses: set[str] = set()
        self.progress = Progress(
            TextColumn(f"[bold]{escape(profile)}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("clauses"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            # pytest's own copy of the terminal: standard output is captured while a test runs.
            console=Console(file=reporter._tw._file, force_terminal=True),  # noqa: SLF001
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
            transient=True,
        )
        self.task = self.progress.add_task("clauses", total=clauses_total, note="")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Show the line when the first test starts, below what pytest says of the session."""
        if not self.progress.live.is_started:
            # Its terminal writer would draw over the line; these options are read before any conftest.
            self.reporter.showfspath = False
            self.reporter._show_progress_info = False  # noqa: SLF001
            self.progress.start()

    def stop(self) -> None:
        """Take the line away, so that the summary stands alone."""
        self.progress.stop()

    def count(self, clauses: tuple[str, ...], node: str, *, passed: bool) -> None:
        """Note that a test ended."""
        self.clauses |= set(clauses)
        name = node.rpartition("::")[2]
        if not passed:
            self.red.append(name)
        note = escape(name)
        if self.red:
            note = f"[red]{len(self.red)} red:[/red] {escape(', '.join(self.red[-SHOWN_RED:]))}"
        self.progress.update(self.task, completed=len(self.clauses), note=note, refresh=True)

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
        and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}
        and config.option.verbose == 0
        and config.option.capture != "no"
    )
