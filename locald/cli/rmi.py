"""`locald rmi`: remove images and what only they needed."""

import click

from locald.cli.places import open_store


@click.command("rmi", short_help="Remove images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…")
def command(images: tuple[str, ...]) -> None:
    """Remove IMAGEs, and the layers that nothing else needs."""
    store = open_store()
    for image in images:
        removed = store.remove(image)
        for reference in removed.references:
            click.echo(f"removed {reference} ({removed.freed_bytes / 1e6:.1f} MB)")
