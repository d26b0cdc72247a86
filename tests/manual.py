"""The reference pages of the manual that are made from the code: `python -m tests.manual` writes them.

A page that a test compares with the code cannot go stale.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from conformance.clauses import read_catalogue
from conformance.likeness import read_departures, render
from conformance.oracle import TRAIT
from locald import errors
from locald.cli.app import group
from locald.errors import LocaldError
from tests.clause_page import clause_page

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "manual" / "reference"
HELP_WIDTH = 100


def command_page() -> str:
    """Return the help of every verb, as the verbs print it."""
    lines = [
        "# locald: command line",
        "",
        "Made from the program's own help by `python -m tests.manual`. The exit status is 0, 2 for a command line",
        "that cannot be understood, 125 for a refusal or failure ([codes](errors.md)); `locald run` passes on the",
        "container's.",
        "",
    ]
    for name, text in _helps("locald", group):
        lines += [f"## {name}", "", "```", text, "```", ""]
    return "\n".join(lines)


def _helps(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    settings = {**command.context_settings, "terminal_width": HELP_WIDTH}
    context = click.Context(command, info_name=name, **settings)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            assert below is not None
            yield from _helps(f"{name} {verb}", below)


def error_page() -> str:
    """Return the table of every error that locald raises."""
    lines = [
        "# Codes of locald",
        "",
        "Made from `locald.errors` by `python -m tests.manual`. A failure is two lines on stderr,",
        "`locald: [CODE]: what happened` and `  hint: what mends it`. Codes are stable, the wording is not. Codes that",
        "are not here are the shim's, which locald passes on: [locald-shim](shim.md), [config.json](shim-config.md).",
        "",
        "| code | exit status | meaning |",
        "|---|---|---|",
    ]
    kinds = {kind.code: kind for kind in find_errors()}
    for code, kind in sorted(kinds.items()):
        meaning = (inspect.getdoc(kind) or "").splitlines()[0]
        lines.append(f"| `{code}` | {kind.exit_code} | {meaning} |")
    return "\n".join(lines) + "\n"


def find_errors() -> Iterator[type[LocaldError]]:
    """Yield every error class with a code of its own, also of the families that nobody imported yet."""
    for family in pkgutil.iter_modules(errors.__path__):
        importlib.import_module(f"{errors.__name__}.{family.name}")
    waiting: list[type[LocaldError]] = [LocaldError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "code" in vars(kind):
            yield kind


def podman_page() -> str:
    """Return the page of what differs from podman on purpose."""
    compared = {
        clause.id: clause.statement for clause in read_catalogue().values() if f"@{TRAIT}" in clause.profiles
    }
    lines = [
        "# locald beside podman",
        "",
        "Made from `conformance/departures.toml` by `python -m tests.manual`. On the host `reference` the kit runs the",
        "same images by both, rootless, and compares what their payloads see. Each difference is here with its reason:",
        "one that is not, or that is here and gone, turns the clause red. Values are regular expressions; `absent` is",
        "nothing.",
        "",
    ]
    return "\n".join([*lines, *render(read_departures(), compared)]).rstrip("\n") + "\n"


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "locald.md": command_page,
    REFERENCE / "errors.md": error_page,
    REFERENCE / "clauses.md": clause_page,
    REFERENCE / "podman.md": podman_page,
}


if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make(), "utf-8")
