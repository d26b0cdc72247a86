"""The command line by click: help, usage errors, completion, and every verb but a well-formed `run`.

A verb's module is loaded when it is called; `locald --help` loads them all.
"""

import importlib

import click

from locald import __version__
from locald.cli import COMPLETE_VARIABLE

# Verb -> module below locald.cli with a `command`.
VERBS = {
    "run": "run_help",
    "pull": "pull",
    "images": "images",
    "rmi": "rmi",
    "admin": "admin",
    "doctor": "doctor",
    "version": "version",
    "completion": "completion",
}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, most used first."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb's command."""
        del ctx
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"locald.cli.{VERBS[cmd_name]}").command
        assert isinstance(command, click.Command)  # noqa: S101  # for the type checker; the table is ours
        return command


@click.command(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, message="locald %(version)s")
def group() -> None:
    """Run OCI images as an ordinary user: no runc, no daemon, one small setuid shim."""


def call(words: list[str]) -> int:
    """Run a command line; return its exit status (2 for one that cannot be understood)."""
    try:
        status = group.main(words, prog_name="locald", complete_var=COMPLETE_VARIABLE, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status if isinstance(status, int) else 0
