"""Find the disk that a profile boots, or have it built, and keep it by what went into it.

A box is a directory named by the hash of all its inputs: its declaration, its packages, the scripts, the module that
builds and the versions of the tools. It holds vmlinuz, initrd.img, NAME.box and box.json, which records the sha256 of
each, the packages and the times. Nothing is ever fetched by a name alone: Vagrant adds the file that was just verified.
"""

import dataclasses
import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vms import box_build, debs, home, process, public
from vms.deadline import Deadline
from vms.digests import read_digest
from vms.errors import BoxError, ProfileError
from vms.profile import Profile
from vms.table import Table

RECORD = "box.json"
KEY_DIGITS = 16
"""How much of the hash of its inputs a box is named by."""

KEPT = 3
"""How many boxes of one declaration stay: a change and its revert cost no build."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What `box_files/NAME.toml` says."""

    name: str
    suite: str
    kernel_package: str
    packages: tuple[str, ...]
    initrd_modules: tuple[str, ...]
    disk_gib: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Box:
    """A box that is there, with every file as recorded.

    Attributes:
        archive: What Vagrant adds; `sha256` is of this file.
        kernel: Its release, if it was built here. QEMU then starts `kernel_image` with `initrd`; a public box has
            neither, and boots as its own disk says.
    """

    name: str
    directory: Path
    archive: Path
    sha256: str
    kernel: str = ""

    @property
    def kernel_image(self) -> Path | None:
        """The kernel that QEMU starts."""
        return self.directory / "vmlinuz" if self.kernel else None

    @property
    def initrd(self) -> Path | None:
        """Its initrd."""
        return self.directory / "initrd.img" if self.kernel else None


def declare(name: str) -> Declaration:
    """Return the declaration of a box; ProfileError if it is not as it must be.

    One with a `base` is another box with more packages: nothing else tells the two apart.
    """
    path = box_build.FILES / f"{name}.toml"
    try:
        table = Table(tomllib.loads(path.read_text("utf-8")), path, "box")
    except (FileNotFoundError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(path, name, str(error)) from error
    if table.has("base"):
        base, added = declare(table.text("base")), table.texts("packages")
        table.end()
        return dataclasses.replace(base, name=name, packages=(*base.packages, *added))
    declaration = Declaration(
        name=name,
        suite=table.text("suite"),
        kernel_package=table.text("kernel_package"),
        packages=table.texts("packages"),
        initrd_modules=table.texts("initrd_modules"),
        disk_gib=table.number("disk_gib", least=2),
        epoch=table.number("epoch", least=1),
    )
    table.end()
    return declaration


def make_key(declaration: Declaration, scripts: Mapping[str, bytes], tools: str) -> str:
    """Return the name of a box's directory: the declaration's name and a hash of all inputs."""
    state = hashlib.sha256(repr(declaration).encode())
    for name, content in sorted(scripts.items()):
        state.update(f"\0{name}\0{len(content)}\0".encode() + content)
    state.update(b"\0" + tools.encode())
    return f"{declaration.name}-{state.hexdigest()[:KEY_DIGITS]}"


def find_or_build(name: str, *, report: Callable[[str], None]) -> Box:
    """Return the box, built if it is not there yet; only under `home.alone`.

    Raises:
        BoxError: A step failed, or a file is not the one that was recorded.
    """
    declaration = declare(name)
    include = (declaration.kernel_package, *declaration.packages)
    chosen = debs.find_or_choose(name, declaration.suite, include, declaration.epoch, box_build.Tools().text)
    # The module that builds is an input as well: a change of a step is a change of the box.
    inputs = {script: (box_build.FILES / script).read_bytes() for script in box_build.SCRIPTS}
    inputs["box_build.py"] = Path(box_build.__file__).read_bytes()
    inputs["packages"] = json.dumps([asdict(deb) for deb in chosen]).encode()
    query = ["dpkg-query", "-W", *box_build.TOOLS]
    tools = process.check(query, deadline=Deadline.after(30), error=BoxError).text
    key = make_key(declaration, inputs, tools)
    directory = home.root() / "boxes" / key
    if not (directory / RECORD).is_file():
        report(f"building the box {key}; about two minutes")
        recipe = box_build.Recipe(
            name, declaration.suite, include, declaration.initrd_modules, declaration.disk_gib
        )
        _build(recipe, chosen, directory, report=report)
    return _open(key, directory)


def _build(
    recipe: box_build.Recipe,
    chosen: tuple[debs.Deb, ...],
    directory: Path,
    *,
    report: Callable[[str], None],
) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Here and not in the module that builds: a change of that one is a change of every box.
    home.remove_leftovers(directory.parent, ".building-*")
    with box_build.built(recipe, chosen, directory.name, directory.parent, report) as (made, facts):
        files = {path.name: read_digest(path) for path in sorted(made.iterdir())}
        record = {
            "name": directory.name,
            "files": files,
            **facts,
            "debs": [asdict(deb) for deb in chosen],
        }
        # Written last: a directory without a record is no box.
        (made / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)


def _open(key: str, directory: Path) -> Box:
    """Verify a box against its record."""
    record = json.loads((directory / RECORD).read_text())
    for name, wanted in record["files"].items():
        found = read_digest(directory / name)
        if found != wanted:
            raise BoxError(
                f"{directory / name} is not what was built: sha256 {found}, recorded {wanted}",
                hint=f"rm -r {directory}",
            )
    return Box(key, directory, directory / f"{key}.box", record["files"][f"{key}.box"], record["kernel"])


def find(profile: Profile, *, report: Callable[[str], None]) -> Box:
    """Return the profile's box: built here, or the public one that the user names.

    Raises:
        BoxError: It cannot be had, or is not the one that was recorded or named.
    """
    if not profile.public:
        return find_or_build(profile.box, report=report)
    archive = public.find_or_fetch(profile.box, report=report)
    sha256 = archive.parent.name
    return Box(f"{profile.box}-{sha256[:KEY_DIGITS]}", archive.parent, archive, sha256)


def prune(box: Box) -> tuple[str, ...]:
    """Remove boxes of the same declaration that were not used lately; return their names.

    A public box is the user's to remove: nothing here can make it again.
    """
    if not box.kernel:
        return ()
    (box.directory / RECORD).touch()
    prefix = box.name.rpartition("-")[0]
    records = sorted(
        # All of a key: `debian12-*` would be the boxes of `debian12-podman` as well.
        box.directory.parent.glob(f"{prefix}-{'?' * KEY_DIGITS}/{RECORD}"),
        key=lambda record: record.stat().st_mtime,
        reverse=True,
    )
    for record in records[KEPT:]:
        shutil.rmtree(record.parent)
    return tuple(record.parent.name for record in records[KEPT:])
