"""What goes wrong outside of locald, as its user meets it: two lines, a code, 125, and nothing left behind."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures import TestUser, make_image
from tests.integration.images.fake_registry import FakeRegistry, Fault, cut, drop, replace
from tests.integration.installed import Installed, Result, as_user

pytestmark = pytest.mark.root
LIMIT_S = 60


@contextmanager
def small_disk(user: TestUser, size: str) -> Iterator[Path]:
    """Give the user a file system of so many bytes."""
    place = user.home / f"small-{os.getpid()}"
    place.mkdir()
    try:
        option = f"size={size},mode=700,uid={user.uid},gid={user.gid}"
        subprocess.run(
            ["/bin/mount", "-t", "tmpfs", "-o", option, "none", str(place)], check=True, timeout=LIMIT_S
        )
        try:
            yield place
        finally:
            subprocess.run(["/bin/umount", str(place)], check=True, timeout=LIMIT_S)
    finally:
        place.rmdir()


def refusal(result: Result) -> str:
    """Return the code of a refusal that is two lines: what happened, and what to do about it."""
    assert result.status == 125, result
    assert result.out == ""
    first, second = result.err.splitlines()
    assert first.startswith("locald: ["), first
    assert second.startswith("  hint: "), second
    return first.removeprefix("locald: [").partition("]")[0]


def left_in_store(data: Path) -> tuple[list[str], list[str]]:
    """Return what a store holds that is neither whole nor in its index: temporary files, wrong blobs, half trees."""
    store = data / "locald/store"
    temporary = [path.name for path in (store / "tmp").glob("*")]
    wrong = [
        path.name
        for path in (store / "blobs/sha256").glob("*")
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name
    ]
    half = [path.name for path in (store / "trees").glob("*") if not (path / "meta.json").exists()]
    return temporary, wrong + half


def left_of_runs(installed: Installed) -> list[Path]:
    """Return the bundles that are still there."""
    return list(installed.bundles.iterdir()) if installed.bundles.exists() else []


# 1 MiB holds the blobs of the image and not its tree, 256 KiB not even the blobs.
@pytest.mark.parametrize("size", ["64k", "256k", "1m", "2m"])
@pytest.mark.parametrize("verb", ["pull", "run"])
def test_a_full_disk_below_the_store(installed: Installed, layouts: Path, size: str, verb: str) -> None:
    """`store.full`, whatever was being written; what is left is whole, and with more room it works."""
    image = f"oci:{layouts}/busybox"
    words = (verb, image) if verb == "pull" else (verb, image, "--", "true")
    with small_disk(installed.user, size) as place:
        env = {"XDG_DATA_HOME": str(place)}
        result = installed.locald(*words, env=env)
        if result.status == 0:
            # It had room after all; then the next larger thing must not have.
            assert (verb, size) in {("pull", "1m"), ("pull", "2m"), ("run", "2m")}, result
        else:
            assert refusal(result) == "store.full"
        assert left_in_store(place) == ([], [])
        assert left_of_runs(installed) == []
        remount = ["/bin/mount", "-o", "remount,size=64m", str(place)]
        subprocess.run(remount, check=True, timeout=LIMIT_S)
        assert installed.locald(*words, env=env).status == 0


@pytest.mark.parametrize(
    ("kind", "fault", "code"),
    [
        pytest.param("manifests", drop, "registry.unreachable", id="drops-before-the-manifest"),
        pytest.param("blobs", drop, "registry.unreachable", id="drops-before-a-layer"),
        pytest.param("blobs", cut(0.3), "registry.interrupted", id="drops-inside-a-layer"),
        pytest.param(
            "blobs", replace(lambda body: body[:-1] + b"x"), "image.digest-mismatch", id="wrong-digest"
        ),
    ],
)
@pytest.mark.parametrize("verb", ["pull", "run"])
def test_a_registry_that_fails(installed: Installed, verb: str, kind: str, fault: Fault, code: str) -> None:
    """After its bounded tries: the code, no blob that is not its digest, no container."""
    with FakeRegistry(make_image("busybox")) as fake, small_disk(installed.user, "64m") as place:
        fake.always[kind] = fault
        env = {"XDG_DATA_HOME": str(place), "NO_COLOR": "1"}
        words = (verb, f"{fake.address}/app", *(() if verb == "pull" else ("--", "true")))
        assert refusal(installed.locald(*words, env=env)) == code
        assert left_in_store(place) == ([], [])
        assert left_of_runs(installed) == []
        assert installed.locald("images", "--json", env=env).out.strip() == "[]"


def test_nobody_listens(installed: Installed) -> None:
    """A port without a registry is said at once."""
    with FakeRegistry(make_image("busybox")) as fake:
        address = fake.address
    assert refusal(installed.locald("pull", f"{address}/app")) == "registry.unreachable"


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "empty", "absent"])
def test_a_config_json_that_is_none(installed: Installed, public: Path, kind: str) -> None:
    """The shim answers at once with one line, whatever stands in the place of config.json."""
    user = installed.user
    bundle = public / f"bundle-{kind}"
    (bundle / "rootfs").mkdir(parents=True)
    config = bundle / "config.json"
    if kind == "fifo":
        os.mkfifo(config)
    elif kind == "directory":
        config.mkdir()
    elif kind == "link":
        config.symlink_to("/dev/zero")
    elif kind == "empty":
        config.touch()
    for path in (bundle, *bundle.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    done = subprocess.run(  # type: ignore[call-overload]
        [str(installed.shim), "bundle", "run", "--bundle", str(bundle), "--id", f"none-{kind}"],
        **as_user(user, {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 125
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(("locald-shim: refused [", "locald-shim: failed [")), line
    state = Path("/run/locald-shim", str(user.uid), f"none-{kind}")
    assert not state.exists()


def test_a_missing_subuid_line(installed: Installed, users: tuple[TestUser, TestUser], layouts: Path) -> None:
    """Asked for mapped mode, an image of several owners is refused by name; nothing of it was written."""
    other = Installed(users[1], installed.bin)
    command = ("run", "--mode", "mapped", f"oci:{layouts}/owners", "--", "true")
    assert refusal(other.locald(*command)) == "subids.missing"
    assert left_of_runs(other) == []
    assert left_in_store(other.user.home / ".local/share") == ([], [])
