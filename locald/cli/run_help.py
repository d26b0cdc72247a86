"""`locald run` by click: its help, and the words for a command line that options.py did not understand."""

import click

from locald.cli import run
from locald.cli.options import RUN_OPTIONS, Option, Value


def make_parameter(option: Option) -> click.Option:
    """Return the option as click knows it."""
    forms = [form for form in (option.short, option.long) if form]
    if not option.metavar:
        return click.Option([*forms, option.name], is_flag=True, help=option.help)
    kind = click.Choice(option.choices) if option.choices else click.STRING
    metavar = "|".join(option.choices) or option.metavar
    return click.Option(
        [*forms, option.name], type=kind, metavar=metavar, multiple=option.many, help=option.help
    )


def call(image: str, command: tuple[str, ...], **values: "str | bool | tuple[str, ...] | None") -> int:
    """Run what click understood."""
    plain: dict[str, Value] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
    return run.run((plain, [image, *command]))


command = click.Command(
    "run",
    callback=call,
    params=[
        *(make_parameter(option) for option in RUN_OPTIONS),
        click.Argument(["image"]),
        click.Argument(["command"], nargs=-1, type=click.UNPROCESSED),
    ],
    help="Run a command in a new container of IMAGE, which is removed at its end.\n\n"
    "IMAGE is [HOST[:PORT]/]NAME[:TAG|@DIGEST], oci:DIRECTORY[:TAG] or oci-archive:FILE[:TAG]. "
    "Exit status: the command's own; 128+N if signal N ended it; 126 if it cannot be executed, 127 if it does "
    "not exist; 125 if locald refused or failed; 2 for a wrong command line.",
    short_help="Run a command in a new container.",
    options_metavar="[OPTIONS]",
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
)
