"""The packages of a box: chosen once, recorded by their hashes, kept, and the only ones a build sees.

apt chooses and fetches them, signatures verified, into a place of its own: neither the machine's sources nor its
packages count. The record, `locks/NAME-HASH.json`, has name, version and sha256 of each; the files are in `debs/` by
their sha256. As long as both are there a build asks no network, and gives the same packages whatever a mirror has.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vms import home
from vms.digests import read_digest
from vms.errors import BoxError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRRORS = {
    "{suite}": "http://deb.debian.org/debian",
    "{suite}-updates": "http://deb.debian.org/debian",
    "{suite}-security": "http://deb.debian.org/debian-security",
}
"""The archives of a suite, as Debian's own installation has them."""

ABANDONED = ("bullseye-security",)
"""Still listed by the mirrors, with packages that they no longer have: its support ended."""

APT_CONFIG = """\
Dir "{place}";
Dir::State "{place}";
Dir::State::status "{place}/status";
Dir::Cache "{place}";
Dir::Etc "{place}/etc";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
"""

Run = Callable[..., str]
"""Runs a program that has to work, with more environment, and returns what it said."""


@dataclass(frozen=True, slots=True)
class Deb:
    """One package, down to its bytes."""

    name: str
    version: str
    architecture: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file is kept."""
        return store() / f"{self.sha256}.deb"


def store() -> Path:
    """Return the directory of all kept packages."""
    return home.root() / "debs"


def find_or_choose(name: str, suite: str, wanted: tuple[str, ...], epoch: int, run: Run) -> tuple[Deb, ...]:
    """Return the packages of a box, those of its record if there is one.

    Args:
        name: The box's.
        suite: Debian's name of the release.
        wanted: The packages asked for; what they depend on comes with them, and what is essential.
        epoch: Raised to choose anew from what the mirror has now.
        run: How programs are run.

    Raises:
        BoxError: They cannot be had, or a kept file is not the one that was recorded.
    """
    asked = json.dumps([name, suite, wanted, epoch])
    lock = home.root() / "locks" / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
    if not lock.is_file():
        _choose(lock, suite, wanted, run)
    chosen = tuple(Deb(**entry) for entry in json.loads(lock.read_text()))
    for deb in chosen:
        _verify(deb, lock)
    return chosen


def _verify(deb: Deb, lock: Path) -> None:
    try:
        found = read_digest(deb.path)
    except FileNotFoundError:
        found = "no such file"
    if found != deb.sha256:
        raise BoxError(
            f"{deb.path} is not the {deb.name} {deb.version} that was recorded: {found}",
            hint=f"bring it back, or choose anew what the mirror has now: rm {lock}",
        )


def _choose(lock: Path, suite: str, wanted: tuple[str, ...], run: Run) -> None:
    store().mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Whoever builds a box holds `home.alone`.
    home.remove_leftovers(store(), ".choosing-*")
    with tempfile.TemporaryDirectory(prefix=".choosing-", dir=store()) as directory:
        place = Path(directory)
        for inner in ("etc/apt.conf.d", "etc/preferences.d", "lists/partial", "archives/partial"):
            (place / inner).mkdir(parents=True)
        (place / "status").touch()
        (place / "conf").write_text(APT_CONFIG.format(place=place))
        parts = {part.format(suite=suite): url for part, url in MIRRORS.items()}
        (place / "etc/sources.list").write_text(
            "".join(
                f"deb [signed-by={KEYRING}] {url} {part} main\n"
                for part, url in parts.items()
                if part not in ABANDONED
            )
        )
        environment = {"APT_CONFIG": str(place / "conf")}
        run("apt-get", "--quiet", "--error-on=any", "update", env=environment)
        run(
            "apt-get",
            "--quiet",
            "--yes",
            "--download-only",
            "install",
            "?essential",
            *wanted,
            env=environment,
        )
        chosen = [_keep(path, run) for path in sorted((place / "archives").glob("*.deb"))]
    part = lock.with_suffix(".part")
    part.write_text(json.dumps([asdict(deb) for deb in chosen], indent=1) + "\n")
    # Last, and whole: a record without its files would stop every later build.
    part.rename(lock)


def _keep(path: Path, run: Run) -> Deb:
    name, version, architecture = _fields(path, run)
    deb = Deb(name, version, architecture, read_digest(path))
    path.rename(deb.path)
    return deb


def _fields(path: Path, run: Run) -> tuple[str, str, str]:
    said = run("dpkg-deb", "--show", "--showformat=${Package}\\n${Version}\\n${Architecture}\\n", str(path))
    name, version, architecture = said.splitlines()
    return name, version, architecture


def make_archive(chosen: Iterable[Deb], suite: str, place: Path, run: Run) -> str:
    """Make an archive of `suite` that has exactly these packages; return the line that apt takes as its source."""
    place.mkdir()
    stanzas = []
    for deb in chosen:
        target = place / f"{deb.sha256}.deb"
        shutil.copyfile(deb.path, target)
        control = run("dpkg-deb", "--field", str(target)).strip()
        stanzas.append(
            f"{control}\nFilename: ./{target.name}\nSize: {target.stat().st_size}\nSHA256: {deb.sha256}\n"
        )
    index = "\n".join(stanzas).encode()
    (place / "Packages").write_bytes(index)
    # By its name mmdebstrap finds what is essential in it.
    (place / "Release").write_text(
        f"Codename: {suite}\nSHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )
    # Trusted: every byte was compared with the record just now, which was made from what apt had verified.
    return f"deb [trusted=yes] copy:{place} ./"
