"""A peer in the shim's place: find it on the controller or build it, and put it into the guest as the product is.

It comes in beside the product, under a name of the kit's own: what the host has as engines stays covered or absent,
and the search that proves so still holds.
"""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

import vms
from conformance import inputs
from conformance.clauses import OURS
from conformance.runtimes import STATE
from conformance.subject import PEER

TWIN: Final = Path(__file__).parent.parent / "shim" / "twin"
STEP_LIMIT_S: Final = 120.0
STAGE: Final = "/var/lib/locald-kit-peer"
# crun 1.8 refuses a host whose cgroups are of both versions while the second has controllers, though no limit is asked
# for. Covered in the machine that is thrown away; `local` has its mounts to itself.
HYBRID: Final = """
controllers=/sys/fs/cgroup/unified/cgroup.controllers
[ ! -e "$controllers" ] || mount --bind /dev/null "$controllers"
"""
# A line of ldd(1): a library with its place. The loader and the C library are the guest's own.
_LIBRARY: Final = re.compile(r"^\s*\S+ => (/\S+) \(0x", re.MULTILINE)


def install(guest: vms.Guest, name: str, cache: Path) -> dict[str, str]:
    """Put the runtime `name` into the guest; return what is to be known of it. Nothing for the shim itself.

    Raises:
        inputs.InputError: It is not on the controller, or cannot be built.
        vms.CommandFailed: A step failed in the guest.
    """
    if name == OURS:
        return {}
    program = build_twin(cache) if name == "twin" else find_program(name)
    with tempfile.TemporaryDirectory(prefix="conformance-peer-") as directory:
        stage = Path(directory)
        (stage / "lib").mkdir()
        shutil.copy(program, stage / "runtime")
        for library in find_libraries(program):
            shutil.copy(library, stage / "lib")
        guest.push(stage, STAGE)
    # The twin takes the shim's place in that too; the others are as their distribution installs them.
    mode = "4755" if name == "twin" else "0755"
    script = (
        f"install -D -o root -g root -m {mode} {STAGE}/runtime {PEER}\n"
        f"for library in {STAGE}/lib/*.so*; do\n"
        # A static program brings none.
        '    [ -e "$library" ] || continue\n'
        # What the guest has stays; ldconfig is what makes the rest known.
        '    name=${library##*/}; ldconfig -p | grep -qF "$name (" || cp "$library" /usr/local/lib/\n'
        f"done\nldconfig\ninstall -d -m 1777 {STATE}\nrm -r {STAGE}"
    )
    if name == "crun":
        script += HYBRID
    deadline = vms.Deadline.after(STEP_LIMIT_S)
    guest.succeed(["/bin/sh", "-eu", "-c", script], user="root", deadline=deadline)
    said = guest.run([PEER, "version" if name == "twin" else "--version"], user="plain")
    return {
        "runtime_sha256": hashlib.sha256(program.read_bytes()).hexdigest(),
        "runtime_version": said.text.partition("\n")[0],
    }


def find_program(name: str) -> Path:
    """Return the controller's own program of that name: its distribution's."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=search)
    if found is None:
        raise inputs.InputError(f"{name} is not on this machine (Debian: {name}); ci/nox installs it")
    return Path(found).resolve()


def build_twin(cache: Path) -> Path:
    """Build the twin; cargo knows whether it is current."""
    target = cache / "twin"
    # Some 150 crates, once.
    inputs.build_crate(TWIN, target, "--release")
    (program,) = target.glob("*/release/locald-twin")
    return program


def find_libraries(program: Path) -> list[Path]:
    """Return the shared libraries that a program needs, but for the C library's own; none for a static one."""
    with program.open("rb") as stream:
        if b"/ld-linux" not in stream.read(65536):
            return []
    return parse_libraries(inputs.run_program(["ldd", str(program)], limit_s=30))


def parse_libraries(listed: str) -> list[Path]:
    """Return the libraries in what ldd(1) says, but for the C library's own: the guest has one. Pure."""
    paths = [Path(match) for match in _LIBRARY.findall(listed)]
    return [path for path in paths if not path.name.startswith(("libc.", "libm.", "libpthread.", "ld-"))]
