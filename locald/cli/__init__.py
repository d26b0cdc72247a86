"""The `locald` command: one file per verb, each loaded only when it is called.

Nothing imports this package, and nothing else exits or writes to stdout.
"""

import sys

import click

from locald import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def locald() -> None:
    """Run OCI images as an ordinary user."""


@locald.command()
def version() -> None:
    """Print the version of locald."""
    click.echo(f"locald {__version__}")


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(locald(prog_name="locald"))
