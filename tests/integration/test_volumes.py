"""The `Volumes` of an image: each run gets its own copy of what the image has there, and it goes with the run."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.images import busybox_entries
from tests.fixtures.layout import Entry, ImageConfig, make_layer, write_layout
from tests.integration.installed import Installed

pytestmark = pytest.mark.root
WAIT_S = 20
# What a container may be: both modes, and a user who is not the image's root; with --read-only the root filesystem
# is the stored tree itself.
RUNS = {
    "mapped": ("--mode", "mapped"),
    "mapped-www": ("--mode", "mapped", "-u", "www-data"),
    "mapped-read-only": ("--mode", "mapped", "--read-only"),
    "direct": ("--mode", "direct"),
    "direct-read-only": ("--mode", "direct", "--read-only"),
}


@pytest.fixture(scope="module")
def images(public: Path) -> Path:
    """The layouts `seeded`, with files where its volume is, and `bare`, whose volumes are no directories of it."""
    directory = public / "volumes"
    entries = [
        *busybox_entries(),
        # As in Debian's images: a container that is read-only needs no copy to have them made.
        *(Entry(f"etc/{name}", b"") for name in ("hostname", "hosts", "resolv.conf")),
        Entry("data", None, 0o1777),
        Entry("data/seed", b"from the image\n", 0o666),
        Entry("data/below", None, 0o755, 33, 33),
        Entry("data/below/closed", b"www\n", 0o400, 33, 33),
    ]
    for name, volumes in (("seeded", ["/data"]), ("bare", ["/fresh", "/fresh/inner", "/srv/new"])):
        config = ImageConfig(more={"Volumes": {path: {} for path in volumes}})
        (directory / name).mkdir(parents=True)
        write_layout(directory / name, [make_layer(entries)], config, "latest")
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


@pytest.fixture
def env(installed: Installed) -> Iterator[dict[str, str]]:
    """A store of the test's own: what one test spoils is not what the next one finds."""
    place = installed.user.home / f"data-{os.getpid()}"
    place.mkdir()
    os.chown(place, installed.user.uid, installed.user.gid)
    yield {"XDG_DATA_HOME": str(place)}
    subprocess.run(["/bin/rm", "-r", str(place)], check=True)


@contextmanager
def held(installed: Installed, *words: str, script: str, env: dict[str, str]) -> Iterator[Path]:
    """Run a script up to its `ready`, give the bundle, and let the run end well."""
    command = ("run", "-i", *words, "--", "sh", "-c", f"{script}; echo ready; read line")
    with installed.start(*command, env=env, stdin=subprocess.PIPE) as started:
        assert started.stdout is not None
        said = started.stdout.readline()
        try:
            assert said == b"ready\n", (said, started.stderr and started.stderr.read())
            (bundle,) = installed.bundles.iterdir()
            yield bundle
        finally:
            started.communicate(b"\n", timeout=WAIT_S)
        assert started.returncode == 0


def stored(env: dict[str, str]) -> dict[str, tuple[int, int, int]]:
    """Return every file of the unpacked images, with what a write to it would change."""
    trees = f"{env['XDG_DATA_HOME']}/locald/store/trees"
    found = {}
    for directory, names, files in os.walk(trees):
        for name in (*names, *files):
            status = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (status.st_mtime_ns, status.st_size, status.st_mode)
    return found


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_volume_begins_as_the_image_has_it_and_ends_with_the_run(
    installed: Installed, images: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    """Content, owners and modes; it can be written, the stored image cannot be reached through it."""
    run = (*words, f"oci:{images}/seeded")
    look = "cat /data/seed; stat -c '%a %u' /data /data/below /data/below/closed; ls -A /data"
    first = installed.locald("run", *run, "--", "sh", "-c", look, env=env)
    www = str(installed.user.uid) if "direct" in words else "33"
    root = www if "direct" in words else "0"
    owners = [f"1777 {root}", f"755 {www}", f"400 {www}"]
    assert first.out.splitlines() == ["from the image", *owners, "below", "seed"], first
    before = stored(env)
    assert any(path.endswith("/data/seed") for path in before)
    script = "echo changed > /data/seed && mkdir /data/made && echo mine > /data/made/new"
    with held(installed, *run, script=script, env=env) as bundle:
        volume = bundle / "volumes/0/rootfs"
        assert (volume / "made/new").read_text() == "mine\n"
        # Whoever wrote it inside: on disk it is the caller's.
        for name in ("made", "made/new"):
            status = (volume / name).stat()
            assert (status.st_uid, status.st_gid) == (installed.user.uid, installed.user.gid)
        assert stored(env) == before
    assert list(installed.bundles.iterdir()) == []
    assert stored(env) == before
    again = installed.locald("run", *run, "--", "sh", "-c", look, env=env)
    assert again.out == first.out


@pytest.mark.parametrize("mode", ["mapped", "direct"])
def test_a_volume_that_the_image_lacks_is_an_empty_directory(
    installed: Installed, images: Path, env: dict[str, str], mode: str
) -> None:
    """Also below another volume; each is a mount of its own that can be written."""
    script = "ls -A /fresh /fresh/inner /srv/new; touch /fresh/inner/x /srv/new/y; grep -c /fresh /proc/self/mounts"
    words = ("run", "--mode", mode, "--read-only", f"oci:{images}/bare", "--", "sh", "-c", script)
    for _ in range(2):
        result = installed.locald(*words, env=env)
        assert result.status == 0, result
        assert result.out == "/fresh:\ninner\n\n/fresh/inner:\n\n/srv/new:\n2\n"


def test_a_bind_takes_the_place_of_a_volume(installed: Installed, images: Path, env: dict[str, str]) -> None:
    """What `-v` shows there is not mixed with what the image has."""
    source = installed.user.home / f"volume-{os.getpid()}"
    source.mkdir()
    os.chown(source, installed.user.uid, installed.user.gid)
    try:
        words = ("-v", f"{source}:/data", f"oci:{images}/seeded")
        with held(installed, *words, script="echo mine > /data/new", env=env) as bundle:
            assert not (bundle / "volumes").exists()
            assert [path.name for path in source.iterdir()] == ["new"]
    finally:
        subprocess.run(["/bin/rm", "-r", str(source)], check=True)
