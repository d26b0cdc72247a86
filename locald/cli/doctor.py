"""`locald doctor`: what works on this host, one check a line."""

import json
import os

import click

from locald.doctor import run_checks
from locald.host import read_host

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor", short_help="Say what works on this host, and what would mend the rest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of checks.")
def command(*, as_json: bool) -> int:
    """Check this host. Exit status 1 if something critical fails."""
    checks = list(run_checks(read_host()))
    if as_json:
        click.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        plain = "NO_COLOR" in os.environ
        for check in checks:
            status = check.status if plain else click.style(check.status, COLOURS[check.status])
            click.echo(f"{status}{' ' * (5 - len(check.status))}{check.id:<15} {check.found}")
            if check.mend:
                click.echo(f"{'':21}{check.mend}")
    return int(any(check.status == "fail" for check in checks))
