"""Every Python of a measured product tells what it reached, however it ends; one that cannot is counted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

from conformance import inputs
from conformance.measure import guest
from conformance.measure.guest import Counted, find_source, read_lines

ROOT = Path(__file__).resolve().parents[3]
MEASURE = ROOT / "conformance" / "measure"
LIMIT_S = 60
PRODUCT = "import os\n\ndef leave():\n    os._exit(3)\n\ndef stay():\n    return 1\n"
pytestmark = pytest.mark.spawns


@dataclass(frozen=True)
class Site:
    """A directory as a guest's site-packages: a product, and what makes its Pythons tell."""

    packages: Path
    place: Path

    def run(self, code: str) -> "subprocess.CompletedProcess[bytes]":
        """Run a Python of the product with nothing in its environment but the way to itself."""
        return subprocess.run(
            [sys.executable, "-P", "-c", f"import {guest.MODULE}, locald\n{code}"],
            env={
                "PYTHONPATH": os.pathsep.join((str(self.packages), str(Path(coverage.__file__).parents[1])))
            },
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=LIMIT_S,
            check=False,
        )

    def gather(self) -> Counted:
        """Stop the collector and return what it has."""
        command = [sys.executable, "-I", str(MEASURE / "collector.py"), "end", str(self.place)]
        said = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
        told = tuple(path.read_bytes() for path in (self.place / "data").iterdir())
        counts = json.loads(said.stdout)
        assert counts["told"] == len(told)
        return Counted(b"", told, counts["began"])


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for sockets: unix(7) has 108 bytes for the name of one, and pytest's may be longer."""
    with tempfile.TemporaryDirectory(prefix="kit-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def site(short: Path) -> Iterator[Site]:
    """A product of one file, and a collector that listens."""
    packages, place = short / "site", short / "place"
    (packages / "locald").mkdir(parents=True)
    (packages / "locald" / "__init__.py").write_text(PRODUCT)
    text = (MEASURE / "begin.py").read_text("utf-8")
    assert text.count(f'"{guest.PLACE}/told"') == 1
    (packages / f"{guest.MODULE}.py").write_text(text.replace(guest.PLACE, str(place)))
    place.mkdir()
    serve = [
        sys.executable,
        "-I",
        str(MEASURE / "collector.py"),
        "serve",
        str(place),
        str(packages / "locald_kit_told"),
    ]
    subprocess.run(serve, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=True)
    made = Site(packages, place)
    yield made
    if not (place / "counts").exists():
        made.gather()


def reached(site: Site, tmp_path: Path) -> tuple[int, int, set[int]]:
    """Return how many began, how many told, and the lines they reached of the product."""
    tree = tmp_path / "tree"
    (tree / "locald").mkdir(parents=True)
    (tree / "locald" / "__init__.py").write_text(PRODUCT)
    counted = site.gather()
    trace = tmp_path / "trace.info"
    told = read_lines(counted, tree, trace)
    found = {
        int(line[3:].split(",")[0])
        for line in trace.read_text("utf-8").splitlines()
        if line.startswith("DA:") and not line.endswith(",0")
    }
    return counted.began, told, found


@pytest.mark.parametrize(
    ("code", "status", "line"),
    [
        ("locald.stay()", 0, 7),
        ("locald.leave()", 3, 4),
        ("locald.stay(); raise SystemExit(5)", 5, 7),
    ],
)
def test_each_way_to_end_is_told(site: Site, tmp_path: Path, code: str, status: int, line: int) -> None:
    """The end of the program, and os._exit, which locald takes on its way to a container; the status stays."""
    done = site.run(code)
    assert (done.returncode, done.stderr) == (status, b"")
    assert reached(site, tmp_path) == (1, 1, {1, 3, 6, line})


def test_where_the_place_is_not_seen_it_tells_all_the_same(site: Site, tmp_path: Path) -> None:
    """As in the container that unpacks layers, which sees the installation and not the rest of the host."""
    (site.place / "told").rename(site.place / "hidden")
    assert site.run("locald.stay()").stderr == b""
    (site.place / "hidden").rename(site.place / "told")
    assert reached(site, tmp_path) == (1, 1, {1, 3, 6, 7})


def test_what_a_signal_ends_is_counted_as_begun(site: Site, tmp_path: Path) -> None:
    """Nobody can tell after a SIGKILL; the account says how many did not."""
    killed = site.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.returncode == -signal.SIGKILL
    assert site.run("locald.stay()").returncode == 0
    assert reached(site, tmp_path) == (2, 1, {1, 3, 6, 7})


def test_a_python_that_nobody_hears_says_so(site: Site) -> None:
    """Silence would look like code that nobody reached."""
    site.gather()
    done = site.run("locald.stay()")
    assert b"ConnectionRefusedError" in done.stderr


def test_a_broken_message_is_not_believed(site: Site, tmp_path: Path) -> None:
    """One that was killed while it told counts as one that did not."""
    assert site.run("locald.stay()").returncode == 0
    whole = site.gather()
    broken = Counted(b"", (whole.told[0], whole.told[0][:-9]), 2)
    (tmp_path / "locald").mkdir()
    (tmp_path / "locald" / "__init__.py").write_text(PRODUCT)
    assert read_lines(broken, tmp_path, tmp_path / "trace.info") == 1


def test_a_run_in_which_nobody_told_is_no_measurement(tmp_path: Path) -> None:
    """The collector listened and the product was not measured."""
    with pytest.raises(inputs.InputError, match="is not measured"):
        read_lines(Counted(b"", (), 0), tmp_path, tmp_path / "trace.info")


def test_every_installation_is_the_tree() -> None:
    """Clauses install a second one elsewhere: a line is the same line there."""
    for prefix in ("/opt/locald", "/srv/second"):
        installed = f"{prefix}/lib/python3.11/site-packages/locald/images/store.py"
        assert find_source(installed, Path("/tree")) == "/tree/locald/images/store.py"
