"""Put the product and the kit's inputs into a guest, once a run.

The wheel goes into a virtual environment as pip, pipx and uv would put it there, each of which `tests/` tries; `locald
admin setup` does the rest, as for a user. Everything goes in as one archive: an ssh round trip to an emulated guest
costs more than its bytes.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import installer

import vms
from conformance import inputs, provenance
from conformance.subject import GROUP, HOME, LOCALD, PREFIX, SHIM, STRANGER

# What runs in the guest. A directory, so that Python keeps what it compiled: half a second a call when emulated.
AGENT: Final = ("__init__.py", "agent.py", "guard.py", "look.py", "looks.py", "serve.py")
# The name of a home for tests that share a store and take turns.
SHARED: Final = "shared"
# Of xdist, for whoever does not say how many a run will have.
WORKERS: Final = 8
STEP_LIMIT_S: Final = 300.0
REGISTRY_PORT: Final = 5055
POLICY: Final = "/etc/locald/policy"
# Clauses that need the Debian image and a registry in the guest.
BIG_CLAUSES: Final = ("IMG-007", "IMG-008", "IMG-009")
REGISTRY_CONFIG: Final = f"""version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {HOME}/registry}}}}
http: {{addr: '127.0.0.1:{REGISTRY_PORT}'}}
"""


@dataclass(frozen=True, slots=True)
class Product:
    """What is under test: a wheel, or (for controls and work on the shim) a bare shim binary."""

    wheel: Path | None
    shim: Path | None

    def describe(self) -> dict[str, str]:
        """Return names and digests for the report."""
        facts = {}
        for name, path in (("wheel", self.wheel), ("shim", self.shim)):
            if path is not None:
                facts[name] = path.name
                facts[f"{name}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.wheel is not None:
            facts["wheel_shim_sha256"] = provenance.digest_shim(self.wheel)
        return facts

    def copy_to(self, directory: Path) -> "Product":
        """Return the same product from copies in `directory`.

        What is told of a product and what is installed are read at different times, and another run in the same tree
        builds its wheel where this one's lies.
        """
        return Product(
            _copy_to(self.wheel, directory / "wheel"),
            _copy_to(self.shim, directory / "shim"),
        )


def _copy_to(path: Path | None, directory: Path) -> Path | None:
    if path is None:
        return None
    directory.mkdir()
    return Path(shutil.copy(path, directory))


def install(
    guest: vms.Guest,
    product: Product,
    cache: Path,
    users: tuple[str, ...],
    *,
    debian: bool,
    workers: int = WORKERS,
) -> dict[str, str]:
    """Install `product` for `users` and return what the installed one says of itself.

    Args:
        guest: A machine that is up.
        product: What is under test.
        cache: Where inputs are kept on the controller.
        users: Who shall be allowed to run containers.
        debian: Bring the Debian image too, and a registry that has it: some 40 MB, and as much again for an archive.
        workers: How many processes will run the clauses: each has a home of its own for every user.

    Raises:
        inputs.InputError: Something could not be made on the controller.
        vms.CommandFailed: A step failed in the guest.
    """
    # Without an interpreter that is new enough for locald, what is installed of a wheel is its shim.
    has_locald = product.wheel is not None and bool(guest.profile.python)
    python = ask_version(guest) if has_locald else ""
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        stage = Path(name)
        _stage(stage, product, cache, debian=debian, python=python)
        guest.push(stage, HOME)
    if debian:
        # An archive of an image is its layout in a tar: image spec, image-layout.md.
        _root(guest, f"tar -C {HOME}/debian -cf {HOME}/debian.tar .")
    # What an earlier run, or the machine that `local` shows, has there is not what is under test.
    _root(guest, f"rm -rf {PREFIX} /etc/locald")
    _root(guest, f"{_make_group(users)}\n{_make_homes(users, workers)}")
    if has_locald:
        _install_wheel(guest, users)
    if product.shim is not None or not has_locald:
        _install_shim(guest, users)
    return _describe(guest, has_locald=has_locald)


def _stage(stage: Path, product: Product, cache: Path, *, debian: bool, python: str) -> None:
    """Put into `stage` what goes into the guest; hosts that are judged at once make each kept input once."""
    with inputs.locked(cache):
        observer = inputs.find_observer(cache)
        shutil.copy(observer, stage / "observe")
        (stage / "observe").chmod(0o755)
        shutil.copy(inputs.find_compiled(inputs.PAYLOAD / "start.c", cache), stage / "start")
        stage_agent(stage / "agent")
        inputs.make_images(stage / "images", observer.read_bytes())
        shutil.copy(inputs.find_compiled(inputs.PAYLOAD / "oldshim.c", cache), stage / "oldshim")
        if debian:
            inputs.copy_debian(stage, cache)
            (stage / "registry.yml").write_text(REGISTRY_CONFIG)
        if product.wheel is not None and python:
            shutil.copytree(inputs.download_wheels(product.wheel, cache, python), stage / "wheels")
            _stage_installer(stage / "place")
        elif product.wheel is not None:
            (stage / "shim").write_bytes(provenance.read_shim(product.wheel))
        if product.shim is not None:
            shutil.copy(product.shim, stage / "shim")


def ask_version(guest: vms.Guest) -> str:
    """Ask the guest's interpreter, not a table: the wheels are chosen for it on the controller."""
    command = [guest.profile.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return guest.succeed(command, user="root").text


def stage_agent(directory: Path) -> None:
    """Put what runs in the guest into a directory that Python executes by its name."""
    package = directory / "conformance"
    package.mkdir(parents=True)
    for name in AGENT:
        shutil.copy(Path(__file__).with_name(name), package / name)
    (directory / "__main__.py").write_text("from conformance.serve import main\n\nmain()\n")


def _stage_installer(directory: Path) -> None:
    """Put the library that installs wheels, and its caller, into a directory."""
    library = Path(installer.__file__).parent
    shutil.copytree(library, directory / library.name, ignore=shutil.ignore_patterns("__pycache__", "*.exe"))
    shutil.copy(Path(__file__).with_name("place.py"), directory / "place.py")


def _install_wheel(guest: vms.Guest, users: tuple[str, ...]) -> None:
    python = guest.profile.python
    _root(
        guest,
        f"{python} -m venv --without-pip {PREFIX}\n{PREFIX}/bin/python {HOME}/place/place.py {HOME}/wheels/*.whl",
    )
    allowed = [word for user in users for word in ("--allow-user", user)]
    guest.succeed(
        [LOCALD, "admin", "setup", *allowed], user="root", deadline=vms.Deadline.after(STEP_LIMIT_S)
    )


def _install_shim(guest: vms.Guest, users: tuple[str, ...]) -> None:
    """Do by hand what `admin setup` does, for a shim without a wheel, or in place of the wheel's."""
    policy = "version = 1\\n" + "".join(f"allow-user = {user}\\n" for user in users)
    _root(
        guest,
        f"mkdir -p {PREFIX}/bin /etc/locald\n"
        f"rm -f {SHIM}\n"
        f"install -o root -g root -m 4755 {HOME}/shim {SHIM}\n"
        f"printf '{policy}' > /etc/locald/policy\n"
        "chmod 0644 /etc/locald/policy",
    )


def _make_group(users: tuple[str, ...]) -> str:
    # Here and not where the accounts are made: that is a part of every box. A second installation finds it there.
    return f"/usr/sbin/groupadd --force {GROUP}\n/usr/bin/gpasswd --members {','.join(users)} {GROUP}"


def _make_homes(users: tuple[str, ...], workers: int) -> str:
    lines = [f"chmod 0755 {HOME}", f"mkdir -p -m 0755 {HOME}/homes {HOME}/work"]
    # Same rights in every profile, whatever umask the archive was unpacked under.
    lines.append(f"chmod -R a+rX {HOME}/images")
    lines += [
        f"install -d -m 0700 -o {user} {HOME}/homes/{user}-{worker}"
        for user in (*users, STRANGER)
        for worker in ("main", SHARED, *(f"gw{number}" for number in range(workers)))
    ]
    return "\n".join(lines)


def _describe(guest: vms.Guest, *, has_locald: bool) -> dict[str, str]:
    facts = {"guest_kernel": guest.succeed(["uname", "-r"], user="root").text}
    facts["installed_shim_sha256"] = guest.succeed(["sha256sum", SHIM], user="root").text.split()[0]
    policy = guest.succeed(["cat", POLICY], user="root").stdout
    facts["policy_sha256"] = hashlib.sha256(policy).hexdigest()
    facts["policy_version"] = _find_version(policy.decode(errors="replace"))
    facts |= _flatten("shim", guest.run([SHIM, "version"], user="plain").text)
    if has_locald:
        facts["locald_version"] = guest.run([LOCALD, "version"], user="plain").text
    return facts


def _find_version(policy: str) -> str:
    for line in policy.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "version":
            return value.partition("#")[0].strip()
    return "none"


def _flatten(prefix: str, text: str) -> Mapping[str, str]:
    try:
        document = json.loads(text)
    except ValueError:
        return {prefix: text}
    return {f"{prefix}_{key}": str(value) for key, value in document.items()}


def _root(guest: vms.Guest, script: str) -> None:
    guest.succeed(["/bin/sh", "-eu", "-c", script], user="root", deadline=vms.Deadline.after(STEP_LIMIT_S))
