"""What the tests of an installed locald share: one wheel, two users, one image layout, one set-up installation."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import TestUser, ensure_users, make_image
from tests.integration.installed import Installed, build_wheel, by_pip, fresh_place

POLICY = Path("/etc/locald/policy")


@pytest.fixture(scope="session")
def users() -> tuple[TestUser, TestUser]:
    """One with subordinate ids and one without."""
    found = ensure_users()
    for user in found:
        # What is installed in one's home is run by the other.
        user.home.chmod(0o755)
    return found


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A directory that the users can read; pytest's own are private to root."""
    with tempfile.TemporaryDirectory(prefix="locald-public-") as name:
        os.chmod(name, 0o755)  # noqa: S103  # what it is for
        yield Path(name)


@pytest.fixture(scope="session")
def wheel(public: Path) -> Path:
    """The wheel of this tree."""
    directory = public / "wheel"
    directory.mkdir(mode=0o755)
    return build_wheel(directory)


@pytest.fixture(scope="session")
def layouts(public: Path) -> Path:
    """A directory with the image layouts `busybox` and `owners`."""
    directory = public / "layouts"
    directory.mkdir(mode=0o755)
    for name in ("busybox", "owners"):
        shutil.copytree(make_image(name), directory / name)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


@pytest.fixture(scope="session")
def policy() -> Iterator[Path]:
    """The policy of this machine, put back as it was."""
    before = POLICY.read_bytes() if POLICY.exists() else None
    yield POLICY
    if before is None:
        POLICY.unlink(missing_ok=True)
    else:
        POLICY.write_bytes(before)


@pytest.fixture(scope="session")
def installed(users: tuple[TestUser, TestUser], wheel: Path, policy: Path) -> Iterator[Installed]:
    """Locald in a venv of the first user's, set up for both."""
    del policy
    place = fresh_place(users[0], "run")
    made = by_pip(users[0], place)(wheel)
    for user in users:
        result = Installed(user, made.bin).set_up()
        assert result.status == 0, result
    yield made
    shutil.rmtree(place)
