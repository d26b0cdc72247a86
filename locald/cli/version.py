"""`locald version`: what is installed, the shim included."""

import json

import click

from locald import __version__, shim
from locald.errors import LocaldError


@click.command("version", short_help="Print the versions of locald and its shim.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(*, as_json: bool) -> None:
    """Print the version of locald, and of the shim beside it if there is one that answers."""
    try:
        answer = shim.read_version(shim.find_installation().shim)
    except LocaldError:
        answer = None
    if as_json:
        click.echo(json.dumps({"version": __version__, "protocol": shim.PROTOCOL, "shim": answer}))
        return
    click.echo(f"locald {__version__}")
    if answer is not None:
        click.echo(
            f"locald-shim {answer.get('version')} (protocol {answer.get('protocol')}, build {answer.get('build')})"
        )
