"""`locald admin`: the set-up, for root, and a test of `bind`, for those it lets in. Neither asks anything."""

import os

import click

from locald import admin, shim
from locald.errors import UsageError
from locald.errors.admin import SetupNeedsRoot
from locald.log import write
from locald.policy import MinShim, parse_address


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
@click.option(
    "--allow-group",
    "groups",
    multiple=True,
    metavar="GROUP",
    help="Let everybody in this group run containers, from his next login on. May be repeated.",
)
@click.option(
    "--no-min-shim",
    "min_shim",
    flag_value="keep",
    help="Do not raise `min-shim` in the policy to this shim's version: older shims go on working.",
)
@click.option(
    "--lower-min-shim",
    "min_shim",
    flag_value="lower",
    help="Lower `min-shim` where the policy wants a newer shim than this one.",
)
def setup(users: tuple[str, ...], groups: tuple[str, ...], min_shim: MinShim | None) -> None:
    """Make the locald-shim of this installation setuid and let users in.

    Run it again after every upgrade of locald. It puts a new file of root's in the place of the shim and adds
    to /etc/locald/policy; running containers are not disturbed. The policy then turns older shims off, copies
    that somebody kept among them.
    """
    installation = shim.find_installation()
    if os.geteuid() != 0:
        raise SetupNeedsRoot(installation.setup_command())
    # Whoever names groups has said whom to let in.
    named = [] if groups and not users else admin.find_users(users, os.environ.get("SUDO_UID"))
    wishes = admin.Wishes(named, admin.find_groups(groups), min_shim or "raise")
    for line in admin.set_up(installation, wishes):
        click.echo(line)


@command.command("bind-test")
@click.option("--port", type=click.IntRange(1, 65535), default=80, show_default=True, help="Which port.")
@click.option("--address", default="127.0.0.1", show_default=True, help="On which address of this host.")
def bind_test(port: int, address: str) -> int:
    """See that the shim binds a port for you, as an ordinary user.

    It asks the shim for the port, serves one request that it makes itself, and lets the port go again.
    """
    from locald.bind import try_port  # noqa: PLC0415  # brings sockets

    if parse_address(address) is None:
        raise UsageError(
            f"{address!r} is no address to listen on.", hint="Give an IPv4 or IPv6 address of this host."
        )
    answer = try_port(shim.find_installation(), port, address)
    if isinstance(answer, str):
        click.echo(answer)
        return 0
    # The shim's own line: its code, what it is, and what mends it.
    write(answer.stderr.decode(errors="replace").rstrip("\n"))
    return answer.status
