"""Making what a container's mounts need, without following a link."""

import os
import stat
from pathlib import Path

import pytest

from locald import mountpoints


def test_what_is_missing_is_made(tmp_path: Path) -> None:
    """Directories 0755 and files 0644 whatever the umask; what is there stays as it is."""
    (tmp_path / "etc").mkdir(mode=0o700)
    (tmp_path / "etc/hosts").write_text("kept")
    before = os.umask(0o077)
    try:
        mountpoints.make_mountpoints(str(tmp_path), ["/a/b", "/etc"], ["/etc/hosts", "/run/x/file"], None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "run/x/file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o700
    assert (tmp_path / "etc/hosts").read_text() == "kept"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A path that is no longer free of links leads to an error, and to nothing outside."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root/out").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        mountpoints.make_mountpoints(str(tmp_path / "root"), ["/out/made"], [], None)
    assert os.listdir(tmp_path) == ["root"]


def test_the_other_process_does_the_same(tmp_path: Path) -> None:
    """`argv` is what `main` reads; what goes wrong is its answer."""
    own = mountpoints.Owner(os.getuid(), os.getgid())
    words = mountpoints.argv(str(tmp_path), ["/d"], ["/d/f"], own)
    assert words[1:4] == ["-P", "-m", "locald.mountpoints"]
    assert mountpoints.main(words[4:]) == ""
    assert (tmp_path / "d/f").is_file()
    blocked = mountpoints.argv(str(tmp_path), ["/d/f/x"], [], own)
    assert "Not a directory" in mountpoints.main(blocked[4:])
