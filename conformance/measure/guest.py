"""The measured build in a guest: what is put there beside the product, and what is fetched at the end."""

import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import coverage

import vms
from conformance import inputs
from conformance.subject import HOME, PREFIX, PYTHON

HERE: Final = Path(__file__).parent
PLACE: Final = "/var/lib/locald-coverage"
# Its own name in the product's environment, so that nothing there is hidden by it.
MODULE: Final = "locald_kit_coverage"
STEP_LIMIT_S: Final = 300.0


@dataclass(frozen=True)
class Counted:
    """What the processes of one run left."""

    # The counters of every process of the shim, summed up.
    shim: bytes
    # What each Python told, and how many had begun; the others were ended by a signal.
    told: tuple[bytes, ...]
    began: int


def prepare(guest: vms.Guest, counters_bytes: int) -> None:
    """Make the place where the processes of the product count, before there are any."""
    # Also those of ordinary users count there, in a guest that is thrown away.
    script = f"""
        mkdir -m 0755 {PLACE}
        truncate -s {counters_bytes} {PLACE}/shim
        chmod 0666 {PLACE}/shim
    """
    guest.succeed(["/bin/sh", "-eu", "-c", script], user="root")
    guest.push(HERE / "collector.py", f"{PLACE}/collector.py")


def plant(guest: vms.Guest, wheels: Path) -> None:
    """Let every Python of the installed product begin by counting."""
    (wheel,) = wheels.glob("coverage-*.whl")
    guest.push(wheel, f"{PLACE}/{wheel.name}")
    guest.push(HERE / "begin.py", f"{PLACE}/{MODULE}.py")
    script = f"""
        {PREFIX}/bin/python {HOME}/place/place.py {PLACE}/{wheel.name}
        for site in {PREFIX}/lib/python*/site-packages; do
            cp {PLACE}/{MODULE}.py "$site"
            {PYTHON} -I {PLACE}/collector.py serve {PLACE} "$site/locald_kit_told" < /dev/null > {PLACE}/log 2>&1
            echo 'import {MODULE}' > "$site/{MODULE}.pth"
        done
    """
    guest.succeed(["/bin/sh", "-eu", "-c", script], user="root", deadline=vms.Deadline.after(STEP_LIMIT_S))


def gather(guest: vms.Guest) -> Counted:
    """Stop counting and return everything that was counted."""
    end = vms.Deadline.after(STEP_LIMIT_S)
    said = guest.succeed([PYTHON, "-I", f"{PLACE}/collector.py", "end", PLACE], user="root", deadline=end)
    archive = guest.succeed(["tar", "-C", PLACE, "-cf", "-", "data"], user="root", deadline=end).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        told = [stream.read() for member in members if (stream := members.extractfile(member)) is not None]
    return Counted(guest.pull(f"{PLACE}/shim"), tuple(told), int(json.loads(said.text)["began"]))


def read_lines(counted: Counted, root: Path, trace: Path) -> int:
    """Write what the Pythons told as an lcov trace, by the files of the tree at `root`; return how many told.

    Raises:
        InputError: None told anything of locald.
    """
    merged, whole = coverage.CoverageData(no_disk=True), 0
    for message in counted.told:
        data = coverage.CoverageData(no_disk=True)
        try:
            data.loads(message)
        except (coverage.exceptions.DataError, zlib.error):
            # Killed while it told.
            continue
        whole += 1
        merged.update(data, map_path=lambda path: find_source(path, root))
    if not merged.measured_files():
        raise inputs.InputError(
            "no Python of the product told of a line of locald: the build is not measured"
        )
    write_trace(merged, root, trace)
    return whole


def find_source(path: str, root: Path) -> str:
    """Return the file of the tree that was installed as `path`, in whichever environment."""
    return str(root / "locald" / path.rpartition("/site-packages/locald/")[2])


def write_trace(data: coverage.CoverageData, root: Path, trace: Path) -> None:
    """Write all of locald's files as an lcov trace, also those that no process imported."""
    store = trace.with_suffix(".coverage")
    store.unlink(missing_ok=True)
    kept = coverage.CoverageData(str(store))
    kept.update(data)
    kept.touch_files([str(path) for path in (root / "locald").rglob("*.py")])
    kept.write()
    reporter = coverage.Coverage(data_file=str(store), config_file=False, branch=True)
    reporter.load()
    reporter.lcov_report(outfile=str(trace))
