"""Layers that attack: each is refused or harmless, and a canary outside stays as it is."""

import errno
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locald.errors.images import LayerInvalid, StoreFull, StoreUnusable
from locald.images import archive
from locald.images.archive import layer_errors
from tests.unit.images.tars import (
    Member,
    apply,
    digest_of,
    directory,
    file,
    hard_link,
    listing,
    member,
    symlink,
    tar,
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Return where the root filesystem goes; afterwards nothing beside it may have changed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(b"alive")
    (outside / "canary").chmod(0o640)
    yield tmp_path / "root"
    assert listing(outside) == {"canary": "-0640 alive"}
    assert {path.name for path in tmp_path.iterdir()} <= {"outside", "root"}
    assert (outside / "canary").stat().st_nlink == 1


def refuse(root: Path, *layers: list[Member]) -> str:
    """Unpack `layers`, which must be refused, and return the reason."""
    with pytest.raises(LayerInvalid) as caught:
        apply(root, *(tar(layer) for layer in layers))
    assert caught.value.code == "image.layer-invalid"
    return caught.value.reason


@pytest.mark.parametrize("name", ["../outside/canary", "a/../../outside/canary", "..", "/../x", "a/.."])
def test_names_that_lead_upwards(root: Path, name: str) -> None:
    """`..` in a name is refused, wherever it would lead."""
    assert "upwards" in refuse(root, [file(name, b"dead")])


def test_absolute_names_are_the_roots_own(root: Path) -> None:
    """An absolute name is taken from the root, as docker and umoci do."""
    apply(root, tar([file(f"{root.parent}/outside/canary", b"dead")]))
    assert (root / f"{root.parent}/outside/canary".lstrip("/")).read_bytes() == b"dead"


@pytest.mark.parametrize(
    "target", ["../outside", "/", "../../../../../..", "/proc/self/cwd", "/proc/self/root"]
)
def test_writing_through_a_link_stays_inside(root: Path, target: str) -> None:
    """A link planted by a lower layer is followed in terms of the root only."""
    apply(
        root,
        tar([symlink("evil", target)]),
        tar([file("evil/outside/canary", b"dead"), file("evil/canary", b"dead")]),
    )


def test_links_by_absolute_host_path_stay_inside(root: Path) -> None:
    """The host's own path, written into a link, means a place below the root."""
    apply(root, tar([symlink("evil", str(root.parent / "outside")), file("evil/canary", b"dead")]))
    assert (root / f"{root.parent}/outside/canary".lstrip("/")).read_bytes() == b"dead"


def test_a_link_in_the_place_of_a_file_is_replaced(root: Path) -> None:
    """open(2) on a planted link would write to its target."""
    apply(root, tar([symlink("evil", "../outside/canary")]), tar([file("evil", b"dead")]))
    assert listing(root) == {"evil": "-0644 dead"}


def test_metadata_never_follows_a_link(root: Path) -> None:
    """Mode and time of a directory entry do not reach what a link of the same name points at."""
    apply(root, tar([symlink("evil", "../outside")]), tar([directory("evil", 0o777)]), tar([file("evil/a")]))
    assert listing(root) == {"evil": "d0777", "evil/a": "-0644 "}


def test_a_directory_exchanged_for_a_link_before_the_end(root: Path) -> None:
    """What is applied at the end must not reach through a link that took a directory's place."""
    apply(root, tar([directory("d", 0o777), file("d/x")]), tar([symlink("d", "../outside")]))
    assert listing(root) == {"d": "l ../outside"}


@pytest.mark.parametrize("target", ["../outside/canary", "/../outside/canary", "a/../../outside/canary"])
def test_hard_links_that_lead_upwards(root: Path, target: str) -> None:
    """A hard link to a host file would let the container change it."""
    assert "upwards" in refuse(root, [hard_link("evil", target)])


@pytest.mark.parametrize("link", ["../outside", "/", "/proc/self/root"])
def test_hard_links_through_a_link(root: Path, link: str) -> None:
    """The target's directories are looked up in the root, so the host's file is simply not there."""
    refuse(root, [symlink("evil", link), hard_link("h", f"evil{root.parent}/outside/canary")])


def test_hard_links_to_a_link_do_not_follow_it(root: Path) -> None:
    """linkat(2) without AT_SYMLINK_FOLLOW: the new name is a link again."""
    apply(
        root,
        tar([symlink("l", str(root.parent / "outside/canary")), hard_link("h", "l"), file("h", b"dead")]),
    )
    assert listing(root)["h"] == "-0644 dead"


@pytest.mark.parametrize("target", ["", "/", ".", "dir", "absent", "dir/absent/x"])
def test_hard_links_to_what_is_no_file(root: Path, target: str) -> None:
    """The root, a directory, and what is not there."""
    refuse(root, [directory("dir"), hard_link("h", target)])


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh.."])
def test_whiteouts_of_the_root_or_its_parent(root: Path, name: str) -> None:
    """`.wh...` would remove the parent, `.wh..` the directory itself."""
    refuse(root, [directory("a")], [file(name)])


def test_whiteouts_through_a_link_stay_inside(root: Path) -> None:
    """A whiteout below a planted link removes nothing of the host."""
    apply(
        root,
        tar([symlink("evil", "../outside"), symlink("host", str(root.parent))]),
        tar([file("evil/.wh.canary"), file("host/.wh.outside"), file("host/outside/.wh..wh..opq")]),
    )


def test_a_whiteout_of_a_link_spares_its_target(root: Path) -> None:
    """And so does replacing it."""
    apply(root, tar([symlink("evil", str(root.parent / "outside"))]), tar([file(".wh.evil")]))
    assert listing(root) == {}


def test_link_loops(root: Path) -> None:
    """Bounded, as in the kernel."""
    refuse(root, [symlink("a", "b"), symlink("b", "a"), file("a/x")])
    assert not (root / "x").exists()


def test_a_file_in_the_place_of_a_directory(root: Path) -> None:
    """No tool writes a file below a file."""
    refuse(root, [file("a"), file("a/b")])


def test_nesting_beyond_any_limit(root: Path) -> None:
    """So deep that descriptors or the stack would run out."""
    refuse(root, [file("d/" * 300 + "x")])


def test_nesting_beyond_the_limit_through_links(root: Path) -> None:
    """Each name is short; the places they reach are not."""
    layer = [directory("/".join("d" * 200)), symlink("l", "/".join("d" * 200)), file("l/" + "e/" * 100 + "x")]
    refuse(root, layer)


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_names_that_no_file_can_have(root: Path, name: str) -> None:
    """A NUL inside a pax path, a component longer than 255 bytes."""
    info, data = file("placeholder")
    info.pax_headers = {"path": name}
    refuse(root, [(info, data)])


def test_link_targets_that_no_link_can_have(root: Path) -> None:
    """Empty, or longer than a path may be."""
    refuse(root, [symlink("l", "")])


def test_a_root_that_is_no_directory(root: Path) -> None:
    """`./` as a link would move everything."""
    refuse(root, [symlink("./", "../outside")])


@pytest.mark.parametrize(("uid", "gid"), [(-1, 0), (0, -1), (2**32 - 1, 0), (0, 2**40)])
def test_impossible_owners(root: Path, uid: int, gid: int) -> None:
    """(uid_t)-1 would mean: leave it as it is."""
    info, data = file("a")
    info.uid, info.gid = uid, gid
    layer = tar([(info, data)], layout=tarfile.GNU_FORMAT)
    with pytest.raises(LayerInvalid):
        apply(root, layer)


def test_unknown_member_types(root: Path) -> None:
    """What we do not understand is refused, not guessed."""
    refuse(root, [member("a", b"Z")])


def test_devices_make_nothing(root: Path) -> None:
    """Not even as root: a device in a tree is one that somebody may open."""
    apply(
        root,
        tar(
            [member("mem", tarfile.CHRTYPE, devmajor=1, devminor=1, mode=0o666), member("b", tarfile.BLKTYPE)]
        ),
    )
    assert listing(root) == {}


def test_setuid_files_belong_to_the_caller(root: Path) -> None:
    """A squashed tree holds no file of another owner, whatever its header says."""
    apply(root, tar([file("s", b"", 0o6755, uid=1, gid=1)]))
    status = (root / "s").stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    assert stat.S_IMODE(status.st_mode) == 0o6755


def damaged(offset: int, value: bytes) -> bytes:
    """Return a layer of two files whose second header is damaged at `offset`."""
    layer = bytearray(tar([file("a", b"1"), file("b", b"2")], layout=tarfile.GNU_FORMAT))
    layer[1024 + offset : 1024 + offset + len(value)] = value
    return bytes(layer)


@pytest.mark.parametrize(
    "layer",
    [
        b"x" * 1024,
        tar([file("a", b"1" * 2000)])[:1500],
        tar([file("a", b"1")], layout=tarfile.GNU_FORMAT)[:700],
        tar([file("a", b"1"), file("b")], layout=tarfile.GNU_FORMAT)[:1200],
        damaged(148, b"0000000"),
        damaged(124, b"\xff" * 12),
        damaged(124, b"garbage!!"),
    ],
    ids=["noise", "short data", "short padding", "short header", "checksum", "negative size", "size"],
)
def test_damaged_archives(root: Path, layer: bytes) -> None:
    """A damaged header is no end of an archive: tarfile alone would take it for one."""
    with pytest.raises(LayerInvalid):
        apply(root, layer)


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "-512"},
        {"size": "99999999999999999999"},
        {"size": "x"},
        {"mtime": "9" * 30},
        {"GNU.sparse.map": "0,99999", "GNU.sparse.size": "10", "GNU.sparse.major": "0"},
        {"SCHILY.xattr.user." + "k" * 300: "v"},
        {"hdrcharset": "nonsense"},
    ],
)
def test_hostile_pax_headers(root: Path, headers: dict[str, str]) -> None:
    """Sizes and numbers that make parsers loop, allocate or overflow."""
    info, data = file("a", b"123")
    info.pax_headers = headers
    try:
        apply(root, tar([(info, data)]))
    except LayerInvalid:
        return
    assert set(listing(root)) == {"a"}


@pytest.mark.parametrize("patched", [False, True], ids=["this-python", "patched-python"])
def test_huge_headers_are_not_read_into_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, patched: bool
) -> None:
    """A pax header of some gigabytes would be read whole, also where tarfile does not ask a subclass's `frombuf`."""
    if patched:
        monkeypatch.setattr(tarfile.TarInfo, "fromtarfile", classmethod(read_as_patched))
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(LayerInvalid, match="impossible size"):
        apply(root, info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def read_as_patched(cls: Any, archive: Any) -> Any:
    """Read a member as the Pythons do that go from `_fromtarfile` to `_frombuf` (Debian's 3.11.2-6+deb12u9)."""
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    info = vars(tarfile.TarInfo)["frombuf"].__func__(cls, block, archive.encoding, archive.errors)
    info.offset = archive.fileobj.tell() - tarfile.BLOCKSIZE
    return info._proc_member(archive)


def test_chains_of_headers_end(root: Path) -> None:
    """Each pax header may be followed by another: the parser's recursion is bounded."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 0
    with pytest.raises(LayerInvalid):
        apply(root, info.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024))


def test_gzip_bombs_take_no_memory() -> None:
    """A megabyte of input for a gigabyte of output is handed out in small pieces."""
    import gzip  # noqa: PLC0415

    bomb = gzip.compress(bytes(1 << 26))
    stream = archive.LayerStream(io.BytesIO(bomb), "sha256")
    assert all(len(chunk) <= archive.CHUNK_BYTES for chunk in iter(stream.read, b""))
    assert stream.size_bytes == 1 << 26


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.ENAMETOOLONG, LayerInvalid),
        (errno.EIO, StoreUnusable),
    ],
)
def test_the_kernels_words_become_ours(number: int, kind: type[Exception]) -> None:
    """The disk's faults are not the layer's."""
    with pytest.raises(kind), layer_errors(digest_of(b"")):
        raise OSError(number, os.strerror(number), b"name")
