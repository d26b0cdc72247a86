"""What layers do to a root filesystem: the image spec's rules, one by one."""

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locald.errors.images import DigestMismatch, LayerInvalid
from locald.images.layers import Unpacker
from locald.images.owners import Owners
from tests.unit.images.tars import (
    WHEN_S,
    apply,
    digest_of,
    directory,
    file,
    hard_link,
    listing,
    member,
    notes,
    symlink,
    tar,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return where a root filesystem may be made."""
    return tmp_path / "root"


def test_all_kinds_of_entries(root: Path) -> None:
    """Files, directories, links, fifos: modes, setuid bits and times are kept."""
    apply(
        root,
        tar(
            [
                directory("./etc", 0o751),
                file("etc/a", b"data", 0o4755),
                symlink("etc/l", "/nowhere"),
                hard_link("etc/h", "etc/a"),
                member("fifo", tarfile.FIFOTYPE, mode=0o620),
                file("implied/b", b"x"),
            ]
        ),
    )
    assert listing(root) == {
        "etc": "d0751",
        "etc/a": "-4755 data",
        "etc/h": "-4755 data",
        "etc/l": "l /nowhere",
        "fifo": "p0620",
        "implied": "d0755",
        "implied/b": "-0644 x",
    }
    assert (root / "etc/a").samefile(root / "etc/h")
    for name in ("etc", "etc/a", "etc/l", "fifo"):
        assert (root / name).lstat().st_mtime == WHEN_S
    assert (root / "implied").stat().st_mtime == 0


def test_the_root_entry_sets_the_root(root: Path) -> None:
    """`./` in a layer is the root filesystem itself."""
    apply(root, tar([directory("./", 0o711), file("a")]))
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert root.stat().st_mtime == WHEN_S


def test_times_keep_their_nanoseconds(root: Path) -> None:
    """A pax time is exact, also before 1970."""
    apply(
        root,
        tar(
            [
                file("a", pax_headers={"mtime": "1600000000.123456789"}),
                file("b", pax_headers={"mtime": "-1.5"}),
            ]
        ),
    )
    assert (root / "a").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (root / "b").stat().st_mtime_ns == -1_500_000_000


def test_sealed_directories_are_filled_first(root: Path) -> None:
    """Modes 0555 and 0000 come at the end, over several layers, and so do times."""
    apply(
        root,
        tar([directory("ro", 0o555), file("ro/a", b"1"), directory("no", 0), file("no/b", b"2")]),
        tar([file("ro/c", b"3"), file("no/d", b"4")]),
    )
    assert stat.S_IMODE((root / "ro").stat().st_mode) == 0o555
    assert stat.S_IMODE((root / "no").stat().st_mode) == 0
    assert (root / "no").stat().st_mtime == WHEN_S
    (root / "no").chmod(0o700)
    assert {"ro/a", "ro/c", "no/b", "no/d"} <= set(listing(root))


def test_readable_trees_note_what_they_seal(root: Path) -> None:
    """A tree for copying stays readable; the true modes are noted, for each name of a file."""
    unpacker = apply(
        root,
        tar([directory("no", 0), file("no/b", b"", 0o111), hard_link("c", "no/b"), file("d")]),
        readable=True,
    )
    assert unpacker.sealed == {"no": 0, "no/b": 0o111, "c": 0o111}
    assert listing(root) == {"no": "d0500", "no/b": "-0511 ", "c": "-0511 ", "d": "-0644 "}


def test_whiteouts_hide_lower_layers_only(root: Path) -> None:
    """A whiteout removes a file or a whole directory of lower layers, wherever it stands in its own."""
    apply(
        root,
        tar([file("a", b"low"), file("dir/x"), file("dir/y/z"), file("keep")]),
        tar(
            [
                file("a", b"new"),
                file(".wh.a"),
                file(".wh.dir"),
                file("dir/y/fresh"),
                file(".wh.absent"),
                file("q/.wh.z"),
            ]
        ),
    )
    assert set(listing(root)) == {"a", "dir", "dir/y", "dir/y/fresh", "keep"}
    assert (root / "a").read_bytes() == b"new"


def test_whiteout_after_its_layers_own_file(root: Path) -> None:
    """What the same layer brings survives the whiteout of its directory, the rest does not."""
    apply(
        root,
        tar([file("dir/low"), file("dir/sub/low")]),
        tar([file("dir/sub/new"), file(".wh.dir")]),
    )
    assert set(listing(root)) == {"dir", "dir/sub", "dir/sub/new"}


def test_opaque_directories_hide_their_lower_content(root: Path) -> None:
    """In either order with the layer's own files, at any depth, and not the directory itself."""
    apply(
        root,
        tar([directory("o", 0o750), file("o/old"), file("o/deep/old"), directory("o/deep/er")]),
        tar([file("o/deep/new"), file("o/.wh..wh..opq"), file("o/new")]),
    )
    assert set(listing(root)) == {"o", "o/deep", "o/deep/new", "o/new"}
    assert listing(root)["o"] == "d0750"


def test_aufs_leftovers_are_ignored(root: Path) -> None:
    """`.wh..wh.plnk` and its kin are no content."""
    apply(root, tar([directory(".wh..wh.plnk"), file(".wh..wh.aufs"), file("a")]))
    assert set(listing(root)) == {"a"}


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (file("x", b"1"), directory("x")),
        (directory("x"), file("x", b"1")),
        (symlink("x", "y"), directory("x")),
        (directory("x"), symlink("x", "y")),
        (file("x"), member("x", tarfile.FIFOTYPE)),
        (symlink("x", "y"), symlink("x", "z")),
    ],
)
def test_an_upper_entry_replaces_a_lower_one(
    root: Path, lower: object, upper: object, tmp_path: Path
) -> None:
    """Of whatever kind both are; a link is replaced, not followed."""
    base = [file("y/canary", b"c")]
    apply(root, tar([*base, lower]), tar([upper]))  # type: ignore[list-item]  # parametrize knows no Member
    apply(tmp_path / "alone", tar([*base, upper]))  # type: ignore[list-item]  # the same
    assert listing(root) == listing(tmp_path / "alone")


def test_replacing_a_directory_forgets_what_was_below(root: Path) -> None:
    """No mode or time of a removed directory is applied at the end."""
    apply(root, tar([directory("a", 0o500), directory("a/b", 0o500)]), tar([file("a", b"f"), directory("c")]))
    assert listing(root) == {"a": "-0644 f", "c": "d0755"}


def test_replacing_one_name_of_a_hard_link_spares_the_other(root: Path) -> None:
    """An upper file is a new file."""
    apply(root, tar([file("a", b"low"), hard_link("b", "a")]), tar([file("a", b"up")]))
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"up", b"low")


def test_hard_links_reach_lower_layers_and_link_links(root: Path) -> None:
    """A hard link to a symbolic link is another name of that link."""
    apply(root, tar([file("a", b"1"), symlink("l", "a")]), tar([hard_link("b", "/a"), hard_link("m", "./l")]))
    assert listing(root)["b"] == "-0644 1"
    assert listing(root)["m"] == "l a"


def test_links_among_directories_are_followed_inside(root: Path) -> None:
    """As in a usr-merged Debian: `lib/x` of an upper layer lands in `usr/lib`."""
    apply(
        root,
        tar(
            [
                directory("usr/lib"),
                symlink("lib", "usr/lib"),
                symlink("abs", "/usr/lib"),
                symlink("up", "../../usr"),
            ]
        ),
        tar(
            [
                file("lib/a"),
                file("abs/b"),
                file("up/lib/c"),
                symlink("dangling", "/new/dir"),
                file("dangling/d"),
            ]
        ),
    )
    assert {"usr/lib/a", "usr/lib/b", "usr/lib/c", "new/dir/d"} <= set(listing(root))


def test_links_below_directories_are_followed_inside(root: Path) -> None:
    """An absolute target starts at the root, `..` leaves one directory, wherever the link lies."""
    apply(
        root,
        tar(
            [
                directory("a/b"),
                symlink("a/b/absolute", "/c"),
                symlink("a/b/up", "../d"),
                symlink("a/b/over", "../../../e"),
            ]
        ),
        tar([file("a/b/absolute/1"), file("a/b/up/2"), file("a/b/over/3")]),
    )
    assert {name for name, text in listing(root).items() if text.startswith("-")} == {"c/1", "a/d/2", "e/3"}


def test_devices_are_left_out_and_noted(root: Path) -> None:
    """They replace what was there, as in every other runtime, and are not made."""
    found = notes(
        root, tar([file("null", b"x")]), tar([member("null", tarfile.CHRTYPE), member("sd", tarfile.BLKTYPE)])
    )
    assert (listing(root), found.counts) == ({}, {"device": 2})
    assert found.paths == {"device": ["null", "sd"]}


def test_user_attributes_are_kept_and_others_noted(root: Path) -> None:
    """user.* is data; security.capability would need privilege."""
    found = notes(
        root,
        tar(
            [
                file(
                    "a",
                    pax_headers={"SCHILY.xattr.user.k": "v\udcff", "SCHILY.xattr.security.capability": "x"},
                )
            ]
        ),
    )
    assert os.getxattr(root / "a", "user.k") == b"v\xff"
    assert found.counts == {"xattr:security.capability": 1}


def sparse(size: int) -> bytes:
    """Return a layer with a GNU sparse member of the old format: 3 bytes at 4096, and holes up to `size`."""
    header = bytearray(tarfile.TarInfo("s").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"%011o\0" % 3
    header[386:410] = b"%011o\0%011o\0" % (4096, 3)
    header[410:434] = b"%011o\0%011o\0" % (8192, 0)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"abc".ljust(512, b"\0") + bytes(1024)


def test_sparse_files_have_their_holes(root: Path) -> None:
    """Data at its offsets, zeros between."""
    apply(root, sparse(8192))
    assert (root / "s").read_bytes() == bytes(4096) + b"abc" + bytes(4093)


def test_a_sparse_map_beyond_the_end_is_refused(root: Path) -> None:
    """Its size and its map contradict each other."""
    with pytest.raises(LayerInvalid, match="sparse"):
        apply(root, sparse(100))


def test_bytes_that_are_no_utf8_are_kept(root: Path) -> None:
    """Names are bytes."""
    apply(root, tar([file("caf\udce9", b"1")], layout=tarfile.GNU_FORMAT))
    assert os.listdir(os.fsencode(root)) == [b"caf\xe9"]


def test_long_names(root: Path) -> None:
    """Pax and GNU long names and link targets."""
    name = "d" * 200 + "/" + "f" * 200
    for number, layout in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        apply(root.with_name(f"r{number}"), tar([file(name), symlink("l", "t/" * 150)], layout=layout))
        assert {name, "l"} <= set(listing(root.with_name(f"r{number}")))


def test_wrong_diff_id_is_refused(root: Path) -> None:
    """What is unpacked must be what the config promised, to the last byte after the archive's end."""
    layer = tar([file("a")])
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    unpacker = Unpacker(fd, Owners.squashed())
    with pytest.raises(DigestMismatch):
        unpacker.apply(io.BytesIO(layer + b"\0"), digest_of(layer), digest_of(layer))
    unpacker.close()
    os.close(fd)


def test_on_disk_owner() -> None:
    """The caller's id is 0 there, those before it move up by one, those after it stay."""
    mapped = Owners.mapped(999, 0)
    assert [mapped.on_disk(uid, 0) for uid in (0, 998, 999, 1000)] == [(1, 0), (999, 0), (0, 0), (1000, 0)]
    assert Owners.squashed().on_disk(5, 5) is None
    assert Owners.parse(str(mapped)) == mapped
    assert mapped.reduced({999}, {0}) == Owners.squashed()
    assert mapped.reduced({0, 999}, {0}) == mapped


@given(st.integers(0, 70_000), st.integers(0, 70_000), st.integers(0, 70_000))
def test_on_disk_owners_never_collide(caller: int, one: int, other: int) -> None:
    """Different ids of an image have different owners on disk."""
    owners = Owners.mapped(caller, caller)
    assert (owners.on_disk(one, one) == owners.on_disk(other, other)) == (one == other)


_NAMES = st.sampled_from(
    ["a", "b", "a/b", "a/c", "b/a", "a/b/c", "c/.wh.a", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "l/a", "l"]
)
_ENTRIES = st.one_of(
    st.builds(file, _NAMES, st.binary(max_size=4)),
    st.builds(directory, _NAMES, st.sampled_from([0o755, 0o555, 0o700])),
    st.builds(symlink, _NAMES, st.sampled_from(["a", "/a/b", "../../b", "l", "..", "/"])),
    st.builds(hard_link, _NAMES, _NAMES),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(_ENTRIES, max_size=6), min_size=1, max_size=3))
def test_any_layers_stay_inside(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    """Whatever members follow each other: nothing beside the root changes, and only layer errors are raised."""
    base = tmp_path_factory.mktemp("any")
    (base / "canary").write_bytes(b"c")
    before = listing(base)
    with contextlib.suppress(LayerInvalid):
        apply(base / "root", *(tar(layer) for layer in layers))
    after = {path: text for path, text in listing(base).items() if path.partition("/")[0] != "root"}
    assert after == before
