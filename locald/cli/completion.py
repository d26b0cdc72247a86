"""`locald completion`: a script that teaches a shell the verbs and options."""

import click
from click.shell_completion import get_completion_class

from locald.cli import COMPLETE_VARIABLE


@click.command("completion", short_help="Print a completion script for a shell.")
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print what a shell has to read, such as: source <(locald completion bash)."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # for the type checker: the choices above are click's own
    click.echo(kind(context.find_root().command, {}, "locald", COMPLETE_VARIABLE).source())
