"""Build the disk that profiles boot, and keep it by what went into it.

A box is a directory named by the hash of all its inputs: its declaration, the scripts, this module
and the versions of the tools. It holds vmlinuz, initrd.img, NAME.box and box.json, which records the
sha256 of each, the packages and the times. Nothing is ever fetched by a name alone: Vagrant adds
the file that was just verified.
"""

import gzip
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vms import home, process
from vms.deadline import Deadline
from vms.errors import BoxError, ProfileError
from vms.profile import KNOWN_USERS
from vms.table import Table

FILES = Path(__file__).parent / "box_files"
SCRIPTS = ("guest-setup.sh", "make-users.sh", "initrd-init.sh")
TOOLS = ("mmdebstrap", "e2fsprogs", "qemu-utils", "busybox-static", "cpio")
BUILD_LIMIT_S = 900.0
STEP_LIMIT_S = 300.0
EPOCH_S = 1767225600
"""The time that goes into what is built: the same inputs give the same bytes where tools allow."""

UUID = "6c6f6361-6c64-4000-8000-7664697363b0"
RECORD = "box.json"
KEPT = 3
"""How many boxes of one declaration stay: a change and its revert cost no build."""

CONTEXTS = "/etc/selinux/default/contexts/files/file_contexts"


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
    """A box that is there, with every file as recorded."""

    name: str
    directory: Path
    sha256: str
    kernel: str

    @property
    def kernel_image(self) -> Path:
        """The kernel that QEMU starts."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its initrd."""
        return self.directory / "initrd.img"

    @property
    def archive(self) -> Path:
        """What Vagrant adds; `sha256` is of this file."""
        return self.directory / f"{self.name}.box"


def declare(name: str) -> Declaration:
    """Return the declaration of a box; ProfileError if it is not as it must be."""
    path = FILES / f"{name}.toml"
    try:
        table = Table(tomllib.loads(path.read_text("utf-8")), path, "box")
    except (FileNotFoundError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(path, name, str(error)) from error
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
    return f"{declaration.name}-{state.hexdigest()[:16]}"


def find_or_build(name: str, *, report: Callable[[str], None]) -> Box:
    """Return the box, built if it is not there yet.

    Raises:
        BoxError: A step failed, or a file is not the one that was recorded.
    """
    declaration = declare(name)
    # This module is an input as well: a change of a step is a change of the box.
    scripts = {script: (FILES / script).read_bytes() for script in SCRIPTS}
    scripts["boxes.py"] = Path(__file__).read_bytes()
    query = ["dpkg-query", "-W", *TOOLS]
    tools = process.check(query, deadline=Deadline.after(30), error=BoxError).text
    key = make_key(declaration, scripts, tools)
    directory = home.root() / "boxes" / key
    if not (directory / RECORD).is_file():
        report(f"building the box {key}; about two minutes")
        _build(declaration, key, directory, report=report)
    return _open(key, directory)


def _open(key: str, directory: Path) -> Box:
    """Verify a box against its record."""
    record = json.loads((directory / RECORD).read_text())
    for name, wanted in record["files"].items():
        found = hash_file(directory / name)
        if found != wanted:
            raise BoxError(
                f"{directory / name} is not what was built: sha256 {found}, recorded {wanted}",
                hint=f"rm -r {directory}",
            )
    return Box(key, directory, record["files"][f"{key}.box"], record["kernel"])


def prune(box: Box) -> tuple[str, ...]:
    """Remove boxes of the same declaration that were not used lately; return their names."""
    (box.directory / RECORD).touch()
    prefix = box.name.rpartition("-")[0]
    records = sorted(
        box.directory.parent.glob(f"{prefix}-*/{RECORD}"),
        key=lambda record: record.stat().st_mtime,
        reverse=True,
    )
    for record in records[KEPT:]:
        shutil.rmtree(record.parent)
    return tuple(record.parent.name for record in records[KEPT:])


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Build:
    """One build: its work directory, its deadline, and how long each step took."""

    def __init__(self, work: Path, report: Callable[[str], None]) -> None:
        self.root = work / "root"
        self.work = work
        self.out = work / "out"
        self.out.mkdir()
        self.deadline = Deadline.after(BUILD_LIMIT_S)
        self.times_s: dict[str, float] = {}
        self._report = report

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and say so."""
        start = time.monotonic()
        yield
        self.times_s[name] = round(time.monotonic() - start, 1)
        self._report(f"  {name}: {self.times_s[name]} s")

    def check(self, *command: str, stdin: bytes = b"") -> process.Finished:
        """Run a program that has to work."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(EPOCH_S),
            "DEBIAN_FRONTEND": "noninteractive",
            # Where a site's mirror is reached through a proxy, these are how it says so.
            **{name: os.environ[name] for name in ("http_proxy", "no_proxy") if name in os.environ},
        }
        return process.check(
            ["nice", "-n", "10", *command],
            stdin=stdin,
            env=environment,
            deadline=self.deadline.at_most(STEP_LIMIT_S),
            error=BoxError,
        )

    def inside(self, *command: str) -> process.Finished:
        """Run a program in the new root; its /proc is in a mount namespace that ends with it."""
        namespaces = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child")
        return self.check("unshare", *namespaces, f"--root={self.root}", "--mount-proc", *command)


def _build(declaration: Declaration, key: str, directory: Path, *, report: Callable[[str], None]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=directory.parent))
    try:
        # The directory becomes a root: a user of the guest has to be able to pass through it.
        work.chmod(0o755)
        build = _Build(work, report)
        with build.step("root"):
            _make_root(build, declaration)
        with build.step("set-up"):
            packages = _set_up(build, declaration)
        with build.step("labels"):
            _label(build)
        with build.step("initrd"):
            kernel = _make_initrd(build, declaration)
        with build.step("disk"):
            _make_archive(build, declaration, key)
        files = {path.name: hash_file(path) for path in sorted(build.out.iterdir())}
        record = {
            "name": key,
            "kernel": kernel,
            "files": files,
            "packages": packages,
            "times_s": build.times_s,
        }
        # Written last: a directory without a record is no box.
        (build.out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        build.out.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_root(build: _Build, declaration: Declaration) -> None:
    include = ",".join((declaration.kernel_package, *declaration.packages))
    left_out = ("doc", "man", "info", "locale")
    build.check(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential"),
        f"--include={include}",
        '--aptopt=APT::Install-Recommends "false"',
        # Fewer files to label and to pack.
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in left_out),
        declaration.suite,
        str(build.root),
    )


def _set_up(build: _Build, declaration: Declaration) -> list[str]:
    """Run guest-setup.sh in the new root; return the packages and versions that are in it."""
    listed = build.check("dpkg", "-L", "vagrant").text.splitlines()
    key = next(line for line in listed if line.endswith("/keys/vagrant.pub"))
    shutil.copy(key, build.root / "tmp/login.pub")
    for script in ("guest-setup.sh", "make-users.sh"):
        shutil.copy(FILES / script, build.root / "tmp" / script)
    build.inside("/bin/bash", "/tmp/guest-setup.sh", declaration.name, *KNOWN_USERS)  # noqa: S108
    for name in ("login.pub", "guest-setup.sh", "make-users.sh"):
        (build.root / "tmp" / name).unlink()
    return build.inside("/usr/bin/dpkg-query", "-W").text.splitlines()


def _label(build: _Build) -> None:
    """Write the SELinux labels now, so that no boot has to relabel; refuse a file without one."""
    if not (build.root / CONTEXTS.lstrip("/")).exists():
        return
    build.inside("/usr/sbin/setfiles", "-m", "-F", CONTEXTS, "/")
    for path in build.root.rglob("*"):
        inner = "/" + str(path.relative_to(build.root))
        if inner.split("/")[1] in ("proc", "sys"):
            # Mount points: what is seen there while running is labelled by the kernel.
            continue
        try:
            label = os.getxattr(path, "security.selinux", follow_symlinks=False)
        except OSError as error:
            raise BoxError(f"no SELinux label on {inner}: {error.strerror}") from error
        if b":unlabeled_t:" in label:
            raise BoxError(f"{inner} is labelled {label.decode()}")


def _make_initrd(build: _Build, declaration: Declaration) -> str:
    """Make the initrd from busybox and the modules; return the kernel's release."""
    (modules,) = (build.root / "usr/lib/modules").iterdir()
    release = modules.name
    tree = build.work / "initrd"
    for name in ("bin", "dev", "modules", "new"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    shutil.copy(FILES / "initrd-init.sh", tree / "init")
    (tree / "init").chmod(0o755)
    order: list[str] = []
    for wanted in declaration.initrd_modules:
        query = ("/usr/sbin/modprobe", "-S", release, "--show-depends", wanted)
        for line in build.inside(*query).text.splitlines():
            # "insmod /lib/modules/…" or "builtin NAME"
            kind, _, rest = line.partition(" ")
            source = rest.split(" ")[0]
            name = Path(source).name.removesuffix(".xz").removesuffix(".gz")
            if kind != "insmod" or name in order:
                continue
            order.append(name)
            unpack: Callable[[bytes], bytes] = {
                ".xz": lzma.decompress,
                ".gz": gzip.decompress,
            }.get(Path(source).suffix, bytes)
            content = unpack((build.root / source.lstrip("/")).read_bytes())
            (tree / "modules" / name).write_bytes(content)
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in order))
    names = sorted(str(path.relative_to(tree)) for path in (tree, *tree.rglob("*")))
    for name in names:
        os.utime(tree / name, (EPOCH_S, EPOCH_S))
    archive = build.check(
        *("cpio", "--quiet", "--create", "--reproducible", "--format=newc", "--owner=0:0", "--null"),
        f"--directory={tree}",
        stdin="\0".join(names).encode(),
    )
    (build.out / "initrd.img").write_bytes(archive.stdout)
    shutil.copy(build.root / f"boot/vmlinuz-{release}", build.out / "vmlinuz")
    return release


def _make_archive(build: _Build, declaration: Declaration, key: str) -> None:
    """Make the disk from the root, and the .box from the disk."""
    for pattern in ("boot/*", "var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/log/*.log"):
        for path in build.root.glob(pattern):
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
    raw, disk = build.work / "disk.raw", build.work / "box.img"
    with raw.open("wb") as file:
        file.truncate(declaration.disk_gib << 30)
    build.check(
        *("mke2fs", "-q", "-t", "ext4", "-d", str(build.root), "-L", "root", "-U", UUID),
        # A throw-away disk needs no journal.
        *("-E", f"lazy_itable_init=1,hash_seed={UUID}", "-O", "^has_journal", str(raw)),
    )
    build.check("qemu-img", "convert", "-q", "-O", "qcow2", str(raw), str(disk))
    raw.unlink()
    facts = {"provider": "libvirt", "format": "qcow2", "virtual_size": declaration.disk_gib}
    (build.work / "metadata.json").write_text(json.dumps(facts))
    with tarfile.open(build.out / f"{key}.box", "w") as archive:
        for name in ("metadata.json", "box.img"):
            archive.add(build.work / name, arcname=name)
