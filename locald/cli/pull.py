"""`locald pull`: fetch an image, with every digest verified."""

import sys

import click

from locald.cli.places import open_store
from locald.cli.progress import make_progress
from locald.images.pull import pull


@click.command("pull", short_help="Fetch an image, or what is new of it.")
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Fetch for this platform instead of this host's."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but the digest.")
@click.argument("image")
def command(image: str, platform: str | None, *, quiet: bool) -> None:
    """Fetch IMAGE: [HOST[:PORT]/]NAME[:TAG|@DIGEST], oci:DIRECTORY[:TAG] or oci-archive:FILE[:TAG].

    Prints the manifest's digest.
    """
    with make_progress(quiet=quiet or not sys.stderr.isatty()) as progress:
        found = pull(image, store=open_store(), platform=platform, progress=progress, policy="always")
    click.echo(str(found.manifest_digest))
