"""The store as the verbs without a container open it."""

from contextlib import suppress
from pathlib import Path

from locald import shim
from locald.errors.shim import ShimError
from locald.host import data_directory, read_host
from locald.images.store import Store
from locald.runtime import make_remover


def open_store() -> Store:
    """Return this user's store; where the shim works, trees of several owners can be removed too."""
    remover = None
    with suppress(ShimError):
        remover = make_remover(shim.find_shim(shim.find_installation()))
    return Store(Path(data_directory(read_host()), "store"), remove_foreign=remover)
