"""Put into a guest all that the clauses need there: the product, the kit's inputs, podman's images where podman is.

Whoever runs clauses does it by this one function, so that a planted machine lacks nothing that a judged one has.
"""

from collections.abc import Collection
from pathlib import Path

import vms
from conformance import install, oracle


def equip(
    guest: vms.Guest, product: install.Product, cache: Path, judged: Collection[str], *, workers: int
) -> dict[str, str]:
    """Install `product` and return what the installed one, and the oracle, say of themselves.

    Args:
        guest: A machine that is up.
        product: What is under test.
        cache: Where inputs are kept on the controller.
        judged: The clauses that will be judged: some need an image of tens of megabytes.
        workers: How many processes will run the clauses.

    Raises:
        inputs.InputError: Something could not be made on the controller, or podman did not take an image.
        vms.CommandFailed: A step failed in the guest.
    """
    debian = any(name in install.BIG_CLAUSES for name in judged)
    facts = install.install(guest, product, cache, guest.profile.users, debian=debian, workers=workers)
    return facts | oracle.install(guest, cache)
