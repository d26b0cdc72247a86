"""`locald admin setup`: make the shim setuid and let users in. Needs root; asks nothing."""

import os

import click

from locald import admin, shim
from locald.errors.admin import SetupNeedsRoot


@click.group("admin", short_help="What an administrator does once: set up the shim.")
def command() -> None:
    """Commands for administrators."""


@command.command()
@click.option(
    "--allow-user",
    "users",
    multiple=True,
    metavar="USER",
    help="Let this user run containers; default: whoever called sudo. May be repeated.",
)
def setup(users: tuple[str, ...]) -> None:
    """Make the locald-shim of this installation setuid and let users in.

    Run it again after every upgrade of locald. It puts a new file of root's in the place of the shim and adds
    to /etc/locald/policy; running containers are not disturbed.
    """
    installation = shim.find_installation()
    if os.geteuid() != 0:
        raise SetupNeedsRoot(installation.setup_command())
    for line in admin.set_up(installation, admin.find_users(users, os.environ.get("SUDO_UID"))):
        click.echo(line)
