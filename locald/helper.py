"""The bundle of a helper: a Python of our own, root of a user namespace, that sees what it works on and no more.

Imports bundle, mountpoints, spec and errors. The host's own root would be simpler, but what a helper reads comes out of
images; and one unbindable mount anywhere below it would have the shim refuse every helper (`mount.unbindable`).

What is shown has the path that it has on the host, also where links lead there, so that a command for the host works.
"""

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from locald import bundle, mountpoints, spec
from locald.errors.run import BundleUnwritable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Where a Python finds the loader and the libraries that it is linked with, other than below its own prefix.
LIBRARIES = (
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/etc/ld.so.cache",
)
PACKAGE = os.path.dirname(__file__)


class View(NamedTuple):
    """What is made in a helper's root filesystem, and what is bound there."""

    links: dict[str, str]  # path -> target, as on the host
    binds: tuple[spec.Bind, ...]  # parents first
    mountpoints: tuple[str, ...]  # of the binds that no other bind has brought along


def python_environment() -> dict[str, str]:
    """Return the environment that lets a Python of ours find this very package, installed or not."""
    return {"PYTHONPATH": os.path.dirname(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}


def python_places() -> list[str]:
    """Return the host's files and directories that this very Python and our package are made of."""
    return [sys.executable, sys.prefix, sys.base_prefix, *sys.path, PACKAGE, *LIBRARIES]


def write_bundle(
    path: str,
    argv: "Sequence[str]",
    *,
    caller: spec.Caller,
    readable: "Iterable[str]",
    writable: "Iterable[str]",
) -> None:
    """Make the empty directory `path` a bundle that runs `argv` in mapped mode, with no network.

    Args:
        path: Where it is made.
        argv: A Python of ours and its arguments.
        caller: Who is root there.
        readable: What of the host it sees, besides itself.
        writable: What it may change, too.

    Raises:
        BundleUnwritable: There is no room or no right (`run.bundle`).
    """
    shown = find_view([*python_places(), *readable], writable)
    root = f"{path}/{bundle.ROOTFS}"
    directories = [place for place in shown.mountpoints if os.path.isdir(place)]
    files = [place for place in shown.mountpoints if not os.path.isdir(place)]
    try:
        os.mkdir(root, 0o700)
        mountpoints.make_mountpoints(root, [*mountpoints.FIXED, *directories], files, None)
        for link, target in shown.links.items():
            os.makedirs(os.path.dirname(root + link), exist_ok=True)
            os.symlink(target, root + link)
    except OSError as error:
        raise BundleUnwritable(error.filename or root, error.strerror or str(error)) from error
    config = spec.make_runtime_config(
        {"config": {}},
        spec.Options(
            mode="mapped",
            command=tuple(argv),
            environment=tuple(python_environment().items()),
            network="none",
            read_only=True,
            init=False,
        ),
        spec.Account(0, 0),
        caller,
        reference="locald",
        binds=shown.binds,
    )
    bundle.write_config(path, config)


def find_view(readable: "Iterable[str]", writable: "Iterable[str]") -> View:
    """Return what shows the host's files and directories at their own paths; what is missing is left out."""
    links: dict[str, str] = {}
    writes = {place for path in writable if (place := _follow(path, links))}
    reads = {place for path in readable if (place := _follow(path, links))} - writes
    reads = {place for place in reads if not _is_below(place, reads | writes)}
    writes = {place for place in writes if not _is_below(place, writes)}
    ordered = sorted(reads | writes, key=lambda place: (place.count("/"), place))
    return View(
        links={link: target for link, target in links.items() if not _is_below(link, reads | writes)},
        binds=tuple(spec.Bind(place, place, readonly=place in reads) for place in ordered),
        mountpoints=tuple(place for place in ordered if not _is_below(place, reads | writes)),
    )


def _follow(path: str, links: dict[str, str]) -> str:
    """Return where `path` really is and note every link that leads there; nothing for what is missing, and for /."""
    if not (path.startswith("/") and os.path.exists(path)):
        return ""
    waiting = path.split("/")[::-1]
    done = ""
    while waiting:
        name = waiting.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            done = os.path.dirname(done) if done else ""
            continue
        here = f"{done}/{name}"
        if os.path.islink(here):
            # It exists, so the kernel has found the end of all its links.
            target = links[here] = os.readlink(here)
            done = "" if target.startswith("/") else done
            waiting += target.split("/")[::-1]
        else:
            done = here
    return done


def _is_below(path: str, places: "Iterable[str]") -> bool:
    return any(path.startswith(f"{place}/") for place in places)
