"""Make the files of a box from its declaration and its packages: the same inputs, the same bytes.

What would differ from build to build is taken out where it comes up: times are one constant, the SSH host key is
Vagrant's well-known one (a new key would be random, and as well known to whoever has the box), caches that hold inode
numbers go, and the times that ext4 writes by itself are written over.
"""

import gzip
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vms import debs, host, process
from vms.deadline import Deadline
from vms.errors import BoxError
from vms.profile import KNOWN_USERS

FILES = Path(__file__).parent / "box_files"
SCRIPTS = ("guest-setup.sh", "guest-mounts.sh", "make-users.sh", "initrd-init.sh")
TOOLS = ("mmdebstrap", "e2fsprogs", "qemu-utils", "busybox-static", "cpio")
BUILD_LIMIT_S = 1800.0
STEP_LIMIT_S = 900.0
"""Beside twenty busy processes on two cores a root was seen to take more than 300 s."""

EPOCH_S = 1767225600
"""The time of everything in a box that is not older."""

UUID = "6c6f6361-6c64-4000-8000-7664697363b0"
CONTEXTS = "/etc/selinux/default/contexts/files/file_contexts"
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh"
"""Debian 11 still can be without; Debian 12 and later are merged anyway."""

NOT_KEPT = (
    # What nobody needs, or what tells when and where it was built.
    *("boot/*", "var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/ldconfig/*", "var/log/*.log"),
    *("var/log/apt/*", "etc/apt/sources.list", "etc/apt/sources.list.d/*", "tmp/*"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a build is made from; see `boxes.Declaration` for where it comes from."""

    name: str
    suite: str
    include: tuple[str, ...]
    initrd_modules: tuple[str, ...]
    disk_gib: int


class Build:
    """One build: its work directory, its deadline, and how long each step took."""

    def __init__(self, work: Path, report: Callable[[str], None]) -> None:
        self.root = work / "root"
        self.work = work
        self.out = work / "out"
        self.out.mkdir()
        self.times_s: dict[str, float] = {}
        self._report = report
        self._tools = Tools()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and say so."""
        start = time.monotonic()
        yield
        self.times_s[name] = round(time.monotonic() - start, 1)
        self._report(f"  {name}: {self.times_s[name]} s")

    def check(self, *command: str, stdin: bytes = b"") -> process.Finished:
        """Run a program that has to work."""
        return self._tools.check(*command, stdin=stdin)

    def text(self, *command: str) -> str:
        """Run a program that has to work and return what it said."""
        return self.check(*command).text

    def mounting(self, *command: str) -> process.Finished:
        """Run a program that mounts below the new root: a mount is gone with it, however it ends.

        Else one that is killed (Ctrl-C, the limit of a step) leaves this machine's own /sys and /dev/shm in a
        directory that is about to be removed with all that is in it.
        """
        return self.check("unshare", "--mount", "--propagation=private", "--", *command)

    def inside(self, *command: str) -> process.Finished:
        """Run a program in the new root; its /proc is in a mount namespace that ends with it."""
        namespaces = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child")
        return self.check("unshare", *namespaces, f"--root={self.root}", "--mount-proc", *command)


class Tools:
    """Runs the programs of a build, all of them within one deadline."""

    def __init__(self) -> None:
        self._deadline = Deadline.after(BUILD_LIMIT_S)

    def check(
        self, *command: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> process.Finished:
        """Run a program that has to work."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(EPOCH_S),
            # The same for e2fsprogs before 1.47.1.
            "E2FSPROGS_FAKE_TIME": str(EPOCH_S),
            "DEBIAN_FRONTEND": "noninteractive",
            # Where a site's mirror is reached through a proxy, these are how it says so.
            **{name: os.environ[name] for name in ("http_proxy", "no_proxy") if name in os.environ},
            **(env or {}),
        }
        return process.check(
            ["nice", "-n", "10", *command],
            stdin=stdin,
            env=environment,
            deadline=self._deadline.at_most(STEP_LIMIT_S),
            error=BoxError,
        )

    def text(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """Run a program that has to work and return what it said."""
        return self.check(*command, env=env).text


@contextmanager
def built(
    recipe: Recipe, chosen: tuple[debs.Deb, ...], key: str, place: Path, report: Callable[[str], None]
) -> Iterator[tuple[Path, dict[str, object]]]:
    """Build below `place`; hand over the directory of the files and what to record, then clean up."""
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=place))
    try:
        # The directory becomes a root: a user of the guest has to be able to pass through it.
        work.chmod(0o755)
        build = Build(work, report)
        with build.step("root"):
            _make_root(build, recipe, chosen)
        with build.step("set-up"):
            packages = _set_up(build, recipe)
        with build.step("initrd"):
            kernel = _make_initrd(build, recipe)
        with build.step("labels"):
            _settle(build)
            _label(build)
        with build.step("disk"):
            _make_archive(build, recipe, key)
        yield build.out, {"kernel": kernel, "packages": packages, "times_s": build.times_s}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_root(build: Build, recipe: Recipe, chosen: tuple[debs.Deb, ...]) -> None:
    source = debs.make_archive(chosen, recipe.suite, build.work / "archive", build.text)
    left_out = ("doc", "man", "info", "locale")
    build.mounting(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", f"--setup-hook={MERGED_USR}"),
        f"--include={','.join(recipe.include)}",
        '--aptopt=APT::Install-Recommends "false"',
        # Nobody misses a root that a power failure left half made.
        "--dpkgopt=force-unsafe-io",
        # Fewer files to label and to pack.
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in left_out),
        recipe.suite,
        str(build.root),
        source,
    )
    shutil.rmtree(build.work / "archive")


def _set_up(build: Build, recipe: Recipe) -> list[str]:
    """Run guest-setup.sh in the new root; return the packages and versions that are in it."""
    for key, name in (("vagrant.pub", "login.pub"), ("vagrant", "host-key")):
        shutil.copy(host.find_vagrant_key(key), build.root / "tmp" / name)
    scripts = ("guest-setup.sh", "guest-mounts.sh", "make-users.sh")
    for script in scripts:
        shutil.copy(FILES / script, build.root / "tmp" / script)
    build.inside("/bin/bash", "/tmp/guest-setup.sh", recipe.name, *KNOWN_USERS)  # noqa: S108
    return build.inside("/usr/bin/dpkg-query", "-W").text.splitlines()


def _settle(build: Build) -> None:
    """Remove what is not to be in the box, and give everything else a time that is not this build's."""
    for pattern in NOT_KEPT:
        for path in build.root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (build.root, *build.root.rglob("*")):
        changed = min(path.lstat().st_mtime_ns, EPOCH_S * 10**9)
        os.utime(path, ns=(changed, changed), follow_symlinks=False)


def _label(build: Build) -> None:
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


def _make_initrd(build: Build, recipe: Recipe) -> str:
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
    for wanted in recipe.initrd_modules:
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


def _make_archive(build: Build, recipe: Recipe, key: str) -> None:
    """Make the disk from the root, and the .box from the disk."""
    raw, disk = build.work / "disk.raw", build.work / "box.img"
    with raw.open("wb") as file:
        file.truncate(recipe.disk_gib << 30)
    build.check(
        *("mke2fs", "-q", "-t", "ext4", "-d", str(build.root), "-L", "root", "-U", UUID),
        # With a journal, though the disk is thrown away: without one ext4 looks through all inodes that were freed in
        # the last minute for each file that it makes (`recently_deleted` in fs/ext4/ialloc.c).
        *("-E", f"lazy_itable_init=1,lazy_journal_init=1,hash_seed={UUID}", "-J", "size=32", str(raw)),
    )
    _write_over_times(build, raw)
    build.check("qemu-img", "convert", "-q", "-O", "qcow2", str(raw), str(disk))
    raw.unlink()
    facts = {"provider": "libvirt", "format": "qcow2", "virtual_size": recipe.disk_gib}
    (build.work / "metadata.json").write_text(json.dumps(facts))
    pack(build.out / f"{key}.box", build.work, ("metadata.json", "box.img"))


def _write_over_times(build: Build, raw: Path) -> None:
    """Set every inode's ctime and atime: mke2fs takes the root's, which were changed and read just now."""
    free: set[int] = set()
    count = 0
    for line in build.text("dumpe2fs", str(raw)).splitlines():
        key, _, value = line.partition(":")
        if key == "Inode count":
            count = int(value)
        elif key.strip() == "Free inodes" and line.startswith(" "):
            for part in value.replace(" ", "").split(","):
                first, _, last = part.partition("-")
                free.update(range(int(first), int(last or first) + 1) if first else ())
    commands = []
    for number in sorted(set(range(11, count + 1)) - free | {2}):
        for name in ("ctime", "atime"):
            commands.append(f"set_inode_field <{number}> {name} @{EPOCH_S}\n")
            commands.append(f"set_inode_field <{number}> {name}_extra 0\n")
    build.check("debugfs", "-w", "-f", "-", str(raw), stdin="".join(commands).encode())


def pack(archive: Path, place: Path, names: tuple[str, ...]) -> None:
    """Write a .box of these files of `place`, with nothing in it that tells when or by whom."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.mode = EPOCH_S, 0, 0, 0o644
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w") as box:
        for name in names:
            box.add(place / name, arcname=name, filter=plain)
