"""`locald images`: what is in the store."""

import json
import time

import click

from locald.cli.places import open_store
from locald.images.store import Image
from locald.log import printable

ID_LENGTH = 12


@click.command("images", short_help="List the images that are here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of images.")
def command(*, as_json: bool) -> None:
    """List images with their ids, the sizes of their layers as stored, and when they were pulled."""
    images = open_store().images()
    if as_json:
        click.echo(json.dumps([describe(image) for image in images], indent=2))
        return
    rows = [("IMAGE", "ID", "SIZE", "PULLED")]
    rows += [
        (
            printable(image.reference),
            image.id.hex[:ID_LENGTH],
            f"{image.size_bytes / 1e6:.1f} MB",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(image.pulled_at_s)),
        )
        for image in images
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def describe(image: Image) -> dict[str, object]:
    """Return what --json says of an image."""
    return {
        "reference": image.reference,
        "id": str(image.id),
        "manifest_digest": str(image.manifest_digest),
        "platform": str(image.platform),
        "size_bytes": image.size_bytes,
        "pulled_at_s": image.pulled_at_s,
    }
