"""Boxes that others publish: fetched from an address that the user gives, and used only if it is the file he named.

The user's file (`LOCALD_VMS_BOXES`, else `~/.config/locald-vms/boxes.toml`) has a table for each box, with `url` and
`sha256`. Nothing here knows an address, and no box is asked for by its name: a name is nobody's promise of content.
The archive is kept by its digest in `public/`; what is inside is a disk that boots by itself.
"""

import hashlib
import http.client
import json
import os
import re
import tarfile
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vms import home
from vms.deadline import Deadline
from vms.digests import read_digest
from vms.errors import BoxError, ProfileError
from vms.table import Table

VARIABLE = "LOCALD_VMS_BOXES"
FETCH_LIMIT_S = 1800.0
SILENCE_LIMIT_S = 30.0
"""How long a server may say nothing."""

CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def user_file() -> Path:
    """Return where the user says which boxes he means."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).absolute()
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(configuration).absolute() / "locald-vms/boxes.toml"


def find_or_fetch(name: str, *, report: Callable[[str], None]) -> Path:
    """Return the verified archive of the box `name`; its parent directory is named by its sha256.

    Raises:
        BoxError: The user does not name it, it cannot be had, or it is not the file he named.
        ProfileError: His file is not as it must be.
    """
    url, sha256 = _read_user_file(name)
    target = home.root() / "public" / sha256 / f"{name}.box"
    if not target.is_file():
        report(f"fetching the box {name} from {url}")
        _fetch(name, url, sha256, target)
    elif (found := read_digest(target)) != sha256:
        raise BoxError(
            f"{target} is not the box {name} that {user_file()} names: sha256 {found}",
            hint=f"rm {target}",
        )
    _require_format(name, target)
    return target


def _read_user_file(name: str) -> tuple[str, str]:
    path = user_file()
    # On one line, which survives where a report makes one line of a hint, and before any table's own line.
    example = f'{name} = {{ url = "https://…/{name}.box", sha256 = "…" }}'
    hint = (
        f"say which file it is in the first line of {path} (or of the file that ${VARIABLE} names): {example}"
    )
    try:
        table = Table(tomllib.loads(path.read_text("utf-8")), path, "boxes")
    except FileNotFoundError as error:
        raise BoxError(f"no box {name}: its address and sha256 are yours to give", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(path, "syntax", str(error)) from error
    if not table.has(name):
        raise BoxError(f"no box {name}: {path} does not name it", hint=hint)
    entry = table.table(name)
    url, sha256 = entry.text("url"), entry.text("sha256").lower()
    entry.end()
    if not url.startswith(("https://", "http://", "file:///")):
        raise entry.error("url", f"https, http or file, not {url!r}")
    if not _SHA256.fullmatch(sha256):
        raise entry.error("sha256", f"64 hexadecimal digits, not {sha256!r}")
    return url, sha256


def _fetch(name: str, url: str, sha256: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # One at a time (`home.alone`): what a killed one left is written over.
    part = target.with_suffix(".part")
    try:
        with urllib.request.urlopen(url, timeout=SILENCE_LIMIT_S) as answer, part.open("wb") as file:  # noqa: S310
            found = _copy(answer, file)
            # A connection that breaks looks like the end of the file to whoever does not count.
            wanted = answer.headers.get("Content-Length")
            size = file.tell()
        if wanted is not None and size != int(wanted):
            raise BoxError(
                f"the box {name} broke off after {size} of {wanted} bytes: {url}", hint="try again"
            )
        if found != sha256:
            raise BoxError(
                f"{url} is not the box {name} that {user_file()} names: sha256 {found}, wanted {sha256}",
                hint="compare with what its publisher says",
            )
        part.rename(target)
    # An address with a blank, an answer that breaks off or has a length that is no number are none of them an OSError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BoxError(f"the box {name} cannot be fetched from {url}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    state, deadline = hashlib.sha256(), Deadline.after(FETCH_LIMIT_S)
    while chunk := source.read(CHUNK_BYTES):
        if deadline.passed:
            raise TimeoutError(f"not there after {FETCH_LIMIT_S:.0f} s")
        state.update(chunk)
        target.write(chunk)
    return state.hexdigest()


def _require_format(name: str, archive: Path) -> None:
    """Refuse, before Vagrant's own words for it, what is made for another hypervisor."""
    try:
        with tarfile.open(archive) as box:
            member = next(entry for entry in box if entry.name.removeprefix("./") == "metadata.json")
            file = box.extractfile(member)
            facts = json.loads(file.read(4096)) if file else {}
    except (tarfile.TarError, StopIteration, ValueError, EOFError) as error:
        why = "it has no metadata.json" if isinstance(error, StopIteration) else error
        raise BoxError(f"the box {name} is no Vagrant box: {why}") from error
    if not isinstance(facts, dict) or facts.get("provider") != "libvirt":
        raise BoxError(f"the box {name} is not for libvirt: its metadata.json says {facts}")
