"""Make what goes into a guest besides the guest itself: observer, small images, wheels. All on the controller.

Everything here is cached below a directory of the caller's choice and made again only if its inputs changed.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import vms
from conformance import locks
from vms import process

PAYLOAD: Final = Path(__file__).parent / "payload"
COMPILE_LIMIT_S: Final = 120
DOWNLOAD_LIMIT_S: Final = 300
BUILD_LIMIT_S: Final = 1800
FIXTURE_LIMIT_S: Final = 1500
# Of each kind: two trees' worth, for the versions of Python that guests have.
KEPT: Final = 6
COMPILER: Final = ("gcc", "-O2", "-Wall", "-Wextra", "-Werror")
# Where a registry keeps a blob, below the two first digits of its digest: distribution, storage paths.
STORED: Final = "docker/registry/v2/blobs/sha256"
ROOT: Final = Path(__file__).parent.parent
# A descriptor of the image spec, as JSON has it.
Descriptor = dict[str, object]


class InputError(Exception):
    """Something that a run needs could not be made; the message has the command and what it said."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of a layer."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    directory: bool = False
    mtime: float = 0
    # Where a symbolic link leads, or what a hard link is another name of; empty if the member is neither.
    target: str = ""
    # Of a member that is no file, directory or symbolic link, its type in tarfile's words.
    kind: bytes = b""
    # Name to value, extended attributes as GNU tar and star write them.
    xattrs: Mapping[str, str] = field(default_factory=dict)


def run_program(command: Sequence[str], *, limit_s: float, env: Mapping[str, str] | None = None) -> str:
    """Run a program of the controller to its end and return its standard output.

    Raises:
        InputError: It failed, is missing, or took longer than `limit_s`; what it had started is ended with it.
    """
    own = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/")}
    try:
        done = process.run(command, deadline=vms.Deadline.after(limit_s), env=own | dict(env or {}))
    except OSError as error:
        raise InputError(f"{' '.join(command)}: {error}") from error
    except vms.CommandTimedOut as error:
        raise InputError(str(error)) from error
    if done.exit_code != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise InputError(f"{' '.join(command)}: {said or f'exit code {done.exit_code}'}")
    return done.stdout.decode(errors="replace")


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold what is kept below `cache`: whoever comes second finds what the first one made.

    Raises:
        InputError: Somebody holds it for longer than anything takes to make.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locks.locked(cache / ".lock"))
        except locks.Locked as error:
            raise InputError(str(error)) from error
        yield


def keep_newest(used: Path, pattern: str) -> None:
    """Remove those beside `used` that were used longest ago: each commit makes another wheel, and nobody looks here."""
    os.utime(used)
    by_age = sorted(used.parent.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[KEPT:]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def build_crate(crate: Path, target: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
    """Build a crate into cargo's directory `target`; cargo knows whether that is current.

    Raises:
        InputError: It cannot be built; the message has cargo's words.
    """
    # In its directory: .cargo/config.toml counts only there, and where no RUSTFLAGS are set.
    command = ["env", f"--chdir={crate}", "cargo", "build", "--locked", "--quiet", *options]
    run_rust([*command, f"--target-dir={target.resolve()}"], limit_s=BUILD_LIMIT_S, env=env)


def run_rust(command: Sequence[str], *, limit_s: float, env: Mapping[str, str] | None = None) -> str:
    """Run a program of the Rust toolchain, wherever the user keeps that; as `run_program`."""
    own = {name: value for name, value in os.environ.items() if name.startswith(("CARGO_", "RUSTUP_"))}
    return run_program(command, limit_s=limit_s, env=own | dict(env or {}))


def compile_static(
    source: Path, target: Path, *, defines: Mapping[str, str] | None = None, dynamic: bool = False
) -> Path:
    """Compile one C file into a static program at `target`, which is whole or not there; return `target`."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    compiler = _make_compiler(defines or {}, dynamic=dynamic)
    try:
        run_program([*compiler, "-o", str(aside), str(source)], limit_s=COMPILE_LIMIT_S)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def find_compiled(source: Path, cache: Path) -> Path:
    """Return a payload as a static program of the kit's cache, compiled unless it is there.

    It is named for the text and the flags that it was made of, not judged by its age: trees share the cache, and none
    may be judged by the observer of another.
    """
    parts = [source, *sorted(source.parent.glob("*.h"))]
    made_of = b"\0".join(
        [" ".join(_make_compiler({}, dynamic=False)).encode(), *(part.read_bytes() for part in parts)]
    )
    programs = cache / "programs"
    target = programs / f"{source.stem}-{hashlib.sha256(made_of).hexdigest()[:16]}"
    with locked(programs):
        if not target.exists():
            compile_static(source, target)
        keep_newest(target, f"{source.stem}-*")
    return target


def _make_compiler(defines: Mapping[str, str], *, dynamic: bool) -> list[str]:
    """Return the compiler's command, but for what goes in and what comes out."""
    named = [f'-D{name}="{value}"' if value else f"-D{name}" for name, value in defines.items()]
    return [*COMPILER, *(() if dynamic else ("-static",)), *named]


def find_observer(cache: Path) -> Path:
    """Return the payload that tells what it sees; see `find_compiled`."""
    return find_compiled(PAYLOAD / "observe.c", cache)


def make_layer(entries: Sequence[Entry]) -> bytes:
    """Return a layer: a tar archive of `entries`, the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
            member.mtime = entry.mtime
            member.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in entry.xattrs.items()}
            if entry.kind:
                member.type, member.linkname = entry.kind, entry.target
                archive.addfile(member)
            elif entry.directory:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif entry.target:
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
                archive.addfile(member)
            else:
                member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content))
    return buffer.getvalue()


def _by_zstd(content: bytes) -> bytes:
    import zstandard  # noqa: PLC0415  # for one image

    return zstandard.compress(content)


FORMS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "": bytes,
    "+gzip": partial(gzip.compress, mtime=0),
    "+zstd": _by_zstd,
}
"""How a layer is stored, by the end of its media type: image-spec 1.1 layer.md."""


class Layout:
    """An OCI image layout in the making: image-spec 1.0."""

    def __init__(self, directory: Path) -> None:
        """Begin the layout in `directory`."""
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        layers: Sequence[bytes],
        config: Mapping[str, object],
        *,
        architecture: str = "amd64",
        diff_ids: Sequence[str] | None = None,
        forms: Sequence[str] = (),
    ) -> Descriptor:
        """Add an image of these layers, the lowest first.

        Args:
            layers: Archives.
            config: The image's `config`.
            architecture: The image's.
            diff_ids: What the config says of the layers, in hexadecimal; what they have by default.
            forms: How each layer is stored, a key of FORMS; by gzip by default.
        """
        told = [hashlib.sha256(layer).hexdigest() for layer in layers] if diff_ids is None else diff_ids
        image = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in told]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._put(_document(image), "config.v1+json"),
            "layers": [
                self._put(FORMS[form](layer), f"layer.v1.tar{form}")
                for layer, form in zip(layers, forms or ["+gzip"] * len(layers), strict=True)
            ],
        }
        described = self._put(_document(manifest), "manifest.v1+json")
        return described | {"platform": {"os": "linux", "architecture": architecture}}

    def add_index(self, images: Sequence[Descriptor]) -> Descriptor:
        """Add an index of these images, one a platform."""
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": images,
        }
        return self._put(_document(index), "index.v1+json")

    def finish(self, named: Descriptor, tag: str = "latest") -> Path:
        """Give what was added its name; return the directory."""
        entry = named | {"annotations": {"org.opencontainers.image.ref.name": tag}}
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        index = _document({"schemaVersion": 2, "manifests": [entry]})
        (self.directory / "index.json").write_bytes(index)
        return self.directory

    def _put(self, content: bytes, media_type: str) -> Descriptor:
        digest = hashlib.sha256(content).hexdigest()
        (self._blobs / digest).write_bytes(content)
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }


def _document(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def write_layout(directory: Path, layers: Sequence[bytes], config: Mapping[str, object]) -> Path:
    """Write a layout with one image of these layers."""
    layout = Layout(directory)
    return layout.finish(layout.add(layers, config))


def make_images(directory: Path, observer: bytes) -> None:
    """Write the kit's own images.

    `small` (all root's), `owners` (USER 999), `layers` (whiteouts, special modes), `platforms` (an index that names
    another machine first), `lying` (a layer that is not what its config says), `forms` (layers in every form, with
    members of every type).
    """
    base = [
        *(Entry(name, mode=0o755, directory=True) for name in ("bin", "etc", "srv")),
        Entry("tmp", mode=0o1777, directory=True),
        Entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nservice:x:999:998::/srv:/bin/sh\n"),
        Entry("etc/group", b"root:x:0:\nservice:x:998:\n"),
        Entry("bin/observe", observer, mode=0o755),
    ]
    owned = [
        Entry("srv/service", b"of 999\n", uid=999, gid=998),
        Entry("srv/daemon", b"of 1\n", uid=1, gid=1),
        Entry("srv/root", b"of 0\n"),
    ]
    lower = [
        *(Entry(name, mode=0o755, directory=True) for name in ("srv/emptied", "srv/merged")),
        *(Entry(f"srv/{name}", b"lower") for name in ("kept", "gone", "emptied/old", "merged/old")),
        Entry("srv/marked", b"lower", mode=0o6755),
        Entry("srv/dated", b"lower", mtime=1234567890.5, xattrs={"user.says": "so"}),
    ]
    # A leading `.wh.` hides a name of the layers below, the opaque one all that they have there: image spec, layer.md.
    upper = [
        Entry("srv/.wh.gone"),
        Entry("srv/emptied/.wh..wh..opq"),
        *(Entry(f"srv/{name}", b"upper") for name in ("emptied/new", "merged/new")),
    ]
    command = {"Cmd": ["/bin/observe", "facts"], "Env": ["IMAGE_SAYS=yes"], "WorkingDir": "/srv"}
    write_layout(directory / "small", [make_layer(base)], command)
    # The first is the one that `small` has.
    write_layout(directory / "layers", [make_layer(entries) for entries in (base, lower, upper)], command)
    write_layout(directory / "owners", [make_layer([*base, *owned])], {**command, "User": "service"})
    platforms = Layout(directory / "platforms")
    foreign, own = (
        platforms.add([make_layer(base)], {"Cmd": ["/bin/observe", "exit", code]}, architecture=name)
        for name, code in (("arm64", "4"), ("amd64", "3"))
    )
    platforms.finish(platforms.add_index([foreign, own]))
    kinds = [
        Entry("srv/named", b"once"),
        Entry("srv/again", target="srv/named", kind=tarfile.LNKTYPE),
        Entry("srv/fifo", kind=tarfile.FIFOTYPE),
        Entry("srv/device", kind=tarfile.CHRTYPE),
    ]
    forms = Layout(directory / "forms")
    stored = [make_layer(entries) for entries in (base, kinds, [Entry("srv/last", b"by zstd")])]
    forms.finish(forms.add(stored, command, forms=("+gzip", "", "+zstd")))
    lying = Layout(directory / "lying")
    lying.finish(lying.add([make_layer(base)], command, diff_ids=[hashlib.sha256(b"another").hexdigest()]))
    with tarfile.open(directory / "small.tar", "w") as archive:
        for path in sorted((directory / "small").iterdir()):
            archive.add(path, arcname=path.name)


def find_pip() -> Path:
    """Return a pip wheel of the distribution or of the running Python: a wheel can be run without installing it.

    Raises:
        InputError: There is none.
    """
    import ensurepip  # noqa: PLC0415  # Debian splits it off; only its place is of interest

    places = [Path("/usr/share/python-wheels"), Path(ensurepip.__file__).parent / "_bundled"]
    for place in places:
        for wheel in sorted(place.glob("pip-*.whl"), reverse=True):
            return wheel
    raise InputError(f"no pip wheel in {' or '.join(map(str, places))} (Debian: python3-venv)")


def download_wheels(wheel: Path, directory: Path, python: str) -> Path:
    """Put `wheel` and the wheels it depends on, for a Python such as 3.11, into a directory; return that.

    Raises:
        InputError: They could not be had, or `wheel` was replaced before pip had read it.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    target = directory / f"wheels-{digest[:16]}-{python}"
    kept = target / wheel.name
    # What is kept is judged by its bytes too: its name is only what somebody meant to put there.
    if not (target / "done").exists() or not _has_digest(kept, digest):
        shutil.rmtree(target, ignore_errors=True)
        download(str(wheel), target, python)
        if not _has_digest(kept, digest):
            shutil.rmtree(target)
            raise InputError(f"{wheel}: the wheel changed while the run prepared; run again")
        (target / "done").touch()
    keep_newest(target, "wheels-*")
    return target


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def download(requirement: str, target: Path, python: str) -> None:
    """Put the wheels of a requirement, for that Python, into the directory `target`."""
    target.mkdir(parents=True, exist_ok=True)
    run_program(
        [
            *(
                sys.executable,
                f"{find_pip()}/pip",
                "download",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ),
            *("--only-binary", ":all:", "--python-version", python, "--implementation", "cp"),
            *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_17_x86_64"),
            *("--platform", "manylinux_2_28_x86_64", "--platform", "linux_x86_64"),
            *("--dest", str(target), requirement),
        ],
        limit_s=DOWNLOAD_LIMIT_S,
        env={
            name: os.environ[name]
            for name in os.environ
            if name.startswith(("PIP_", "SSL_", "HTTP", "http", "NO_", "no_"))
        },
    )


def copy_debian(stage: Path, cache: Path) -> None:
    """Put the Debian image into `stage`: as a layout, and in the storage of a registry.

    mmdebstrap made the image and skopeo pushed it to a real registry, whose storage is what goes into the guest. What
    is in both is one file with two names, so that it goes in once: to decrypt it takes an emulated guest seconds.
    """
    layout = Path(_fixture("image", "debian"))
    shutil.copytree(layout, stage / "debian")
    storage = cache / f"registry-{layout.name}"
    if not (storage / "done").exists():
        shutil.rmtree(storage, ignore_errors=True)
        description = _fixture("registry-start", "--storage", str(storage))
        try:
            _fixture("push", "debian", json.loads(description)["address"])
        finally:
            _fixture("registry-stop", description)
        (storage / "done").touch()
    keep_newest(storage, "registry-*")
    shutil.copytree(storage, stage / "registry")
    share_blobs(stage / "debian", stage / "registry")


def share_blobs(layout: Path, storage: Path) -> None:
    """Make one file with two names of each blob that a layout and a registry's storage both have."""
    for blob in (layout / "blobs" / "sha256").iterdir():
        stored = storage / STORED / blob.name[:2] / blob.name / "data"
        if stored.exists():
            stored.unlink()
            os.link(blob, stored)


def _fixture(*words: str) -> str:
    command = [sys.executable, "-m", "tests.fixtures", *words]
    return (
        run_program(command, limit_s=FIXTURE_LIMIT_S, env={"PYTHONPATH": str(ROOT)}).strip().splitlines()[-1]
    )
