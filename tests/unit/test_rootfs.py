"""Paths and accounts of an image, found without following a link out of it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locald.errors.run import AccountUnusable, UserUnknown, VolumeUnusable
from locald.rootfs import find_account, find_path, read_file
from locald.spec import Account

PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\napp:x:999:998::/home/app:/bin/sh\n# no\nbroken:x:1\nodd:x:-1:5::/:/x\n"
)
GROUP = "root:x:0:\napp:x:998:\nshared:x:60:other,app\nbad:x:1\nlast:x:7:app"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small image beside a secret that lies outside of it."""
    (tmp_path / "secret").write_text("root:x:0:0::/stolen:/\n")
    image = tmp_path / "image"
    (image / "etc").mkdir(parents=True)
    (image / "etc/passwd").write_text(PASSWD)
    (image / "etc/group").write_text(GROUP)
    (image / "var/real").mkdir(parents=True)
    (image / "var/link").symlink_to("real")
    (image / "abs").symlink_to("/var/link")
    (image / "up").symlink_to("../../../../secret")
    (image / "loop").symlink_to("loop")
    return image


@pytest.mark.parametrize(
    ("path", "expected", "is_directory"),
    [
        ("/", "/", True),
        ("/var/link", "/var/real", True),
        ("/abs/x", "/var/real/x", False),
        ("/abs/../y", "/var/y", False),
        ("/up", "/secret", False),
        ("/../../etc/passwd", "/etc/passwd", False),
        ("/new/../other/./z", "/other/z", False),
        ("//var//real//", "/var/real", True),
    ],
)
def test_paths_are_resolved_inside_the_image(
    root: Path, path: str, expected: str, *, is_directory: bool
) -> None:
    """As for a process that has chroot(2)ed there: `..` and absolute links stop at the image's root."""
    found = find_path(str(root), path)
    assert (found.path, found.is_directory) == (expected, is_directory)


@pytest.mark.parametrize("path", ["/loop", "/loop/x", "/etc/passwd/x"])
def test_paths_that_lead_nowhere_are_an_error(root: Path, path: str) -> None:
    """A loop of links, a file in the middle."""
    with pytest.raises(VolumeUnusable):
        find_path(str(root), path)


@given(st.lists(st.sampled_from(["..", ".", "abs", "up", "var", "link", "etc", "new"]), max_size=8))
def test_no_path_leaves_the_image(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    """Whatever is asked for, the answer is clean and its part that exists lies inside."""
    image = tmp_path_factory.getbasetemp() / "walk"
    if not image.exists():
        (image / "var/real").mkdir(parents=True)
        (image / "var/link").symlink_to("real")
        (image / "abs").symlink_to("/var/link")
        (image / "up").symlink_to("../../..")
    found = find_path(str(image), "/" + "/".join(parts))
    assert not {".", ".."} & set(found.path.split("/"))
    assert os.path.realpath(f"{image}{found.path}") == os.path.normpath(f"{image}{found.path}")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Account(0, 0, (), "/root")),
        ("root", Account(0, 0, (), "/root")),
        ("app", Account(999, 998, (7, 60), "/home/app")),
        ("999", Account(999, 998, (7, 60), "/home/app")),
        ("app:shared", Account(999, 60, (), "/home/app")),
        ("app:5", Account(999, 5, (), "/home/app")),
        ("1234", Account(1234, 0, (), "/")),
        ("1234:root", Account(1234, 0, (), "/")),
        ("app:", Account(999, 998, (7, 60), "/home/app")),
    ],
)
def test_accounts_are_the_images_own(root: Path, user: str, expected: Account) -> None:
    """By name or number, with or without a group; further groups only where none was named."""
    assert find_account(str(root), user) == expected


@pytest.mark.parametrize("user", ["nobody", "app:nogroup", "4294967295", "99999999999", "broken", "٣", "-1"])
def test_unknown_accounts_are_an_error(root: Path, user: str) -> None:
    """Names that the files do not have, and numbers that no id can be."""
    with pytest.raises(UserUnknown):
        find_account(str(root), user)


@pytest.mark.parametrize("user", ["", "0", "bad", "0:5"])
@pytest.mark.parametrize("home", [b"/ro\0ot", b"/\0", b"/" + 4095 * b"a"])
def test_a_home_that_cannot_be_one_is_named(root: Path, user: str, home: bytes) -> None:
    """The file and the entry, in one line; neither would get through a config.json and execve(2)."""
    (root / "etc/passwd").write_bytes(b"bad:x:0:0::" + home + b":/bin/sh\n")
    with pytest.raises(AccountUnusable, match=r"entry of 'bad' in the image's /etc/passwd") as refused:
        find_account(str(root), user)
    assert (refused.value.code, refused.value.exit_code) == ("user.entry", 125)
    assert "\0" not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "home"),
    [
        (b"ok:x:5:0::/" + 4094 * b"a" + b":/bin/sh", "/" + 4094 * "a"),
        (b"ok:x:5:0::/h\xff:/bin/sh", "/h\udcff"),
        # What nobody is given cannot hurt; a name with a NUL is nobody's word.
        (b"o\0k:x:5:0:\0:/h:/bin\0/sh", "/h"),
        (b"ok:x:5:0::h\0:/bin/sh", "/"),
        # A newline ends an entry: what follows is another one, which has no seven parts.
        (b"ok:x:5:0::/h\nome:/bin/sh", "/"),
    ],
)
def test_other_odd_entries_serve(root: Path, line: bytes, home: str) -> None:
    """As podman takes them."""
    (root / "etc/passwd").write_bytes(line + b"\n")
    assert find_account(str(root), "5") == Account(5, 0, (), home)


def test_a_passwd_that_is_a_link_stays_in_the_image(root: Path) -> None:
    """A link to the outside leads to what lies at that path inside: nothing."""
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../secret")
    assert find_account(str(root), "").home == "/"


@pytest.mark.parametrize("kind", ["fifo", "directory", "absent"])
def test_a_passwd_that_is_no_file_is_empty(root: Path, kind: str) -> None:
    """Nothing blocks on a FIFO."""
    (root / "etc/passwd").unlink()
    if kind == "fifo":
        os.mkfifo(root / "etc/passwd")
    elif kind == "directory":
        (root / "etc/passwd").mkdir()
    assert read_file(str(root), "/etc/passwd") == b""
    assert find_account(str(root), "5:6") == Account(5, 6)
