"""A box is named by everything that went into it, and is what was recorded."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vms import box_build, boxes, home
from vms.errors import BoxError, ProfileError

DECLARATION = boxes.Declaration(
    name="some",
    suite="bookworm",
    kernel_package="linux",
    packages=("a", "b"),
    initrd_modules=("ext4",),
    disk_gib=4,
    epoch=1,
)
SCRIPTS = {"guest-setup.sh": b"true", "boxes.py": b"pass"}


def key(**changes: object) -> str:
    """Return the key of a changed declaration."""
    return boxes.make_key(dataclasses.replace(DECLARATION, **changes), SCRIPTS, "tools 1")  # type: ignore[arg-type]


def test_the_same_inputs_have_the_same_name() -> None:
    """In any order of the scripts."""
    backwards = dict(reversed(SCRIPTS.items()))

    assert key() == boxes.make_key(DECLARATION, backwards, "tools 1")
    assert key().startswith("some-")


def test_any_input_changes_the_name() -> None:
    """The declaration, a script's content, a script's name, a tool's version."""
    others = {
        key(packages=("a", "c")),
        key(packages=("a,b",)),
        key(epoch=2),
        key(disk_gib=5),
        boxes.make_key(DECLARATION, SCRIPTS | {"guest-setup.sh": b"false"}, "tools 1"),
        boxes.make_key(DECLARATION, {"guest-setup.sh": b"pass", "boxes.py": b"true"}, "tools 1"),
        boxes.make_key(DECLARATION, SCRIPTS, "tools 2"),
    }

    assert len(others) == 7
    assert key() not in others


@pytest.mark.parametrize("name", [path.stem for path in box_build.FILES.glob("*.toml")], ids=str)
def test_every_declaration_of_the_project_is_valid(name: str) -> None:
    """And asks for no container engine, unless it is the one to compare with."""
    declared = boxes.declare(name)
    engines = {"runc", "crun", "podman", "bubblewrap"} & set(declared.packages)

    assert {"python3", "strace", "sudo"} <= set(declared.packages)
    assert engines == ({"crun", "podman"} if name == "debian12-podman" else set())


def test_a_box_on_a_base_is_the_base_with_more_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is changed in the base is changed in both; nothing else can be said, so that no more can differ."""
    monkeypatch.setattr(box_build, "FILES", tmp_path)
    (tmp_path / "some.toml").write_text(
        'suite = "bookworm"\nkernel_package = "linux"\npackages = ["a", "b"]\ninitrd_modules = ["ext4"]\n'
        "disk_gib = 4\nepoch = 1\n"
    )
    more = tmp_path / "more.toml"
    more.write_text('base = "some"\npackages = ["c"]\n')

    assert boxes.declare("more") == dataclasses.replace(DECLARATION, name="more", packages=("a", "b", "c"))

    more.write_text('base = "some"\npackages = ["c"]\ndisk_gib = 5\n')
    with pytest.raises(ProfileError, match="disk_gib"):
        boxes.declare("more")


def test_an_unknown_box_is_an_error() -> None:
    """With the file that is not there."""
    with pytest.raises(ProfileError, match=r"nothing\.toml"):
        boxes.declare("nothing")


def test_a_key_is_as_long_as_prune_looks_for() -> None:
    """Else no box would ever go."""
    assert len(key().removeprefix("some-")) == boxes.KEY_DIGITS


def make_box(directory: Path, name: str, *, used_s: int = 0) -> boxes.Box:
    """Write a box with one small file."""
    path = directory / name
    path.mkdir()
    (path / f"{name}.box").write_bytes(b"disk")
    files = {f"{name}.box": hashlib.sha256(b"disk").hexdigest()}
    (path / boxes.RECORD).write_text(json.dumps({"files": files, "kernel": "6.1"}))
    os.utime(path / boxes.RECORD, (used_s, used_s))
    return boxes.Box(name, path, path / f"{name}.box", files[f"{name}.box"], "6.1")


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """By its hash, not by its name or size."""
    box = make_box(tmp_path, "some-1")
    assert boxes._open("some-1", box.directory) == box
    box.archive.write_bytes(b"dusk")

    with pytest.raises(BoxError, match="is not what was built"):
        boxes._open("some-1", box.directory)


def test_boxes_that_were_not_used_lately_go(tmp_path: Path) -> None:
    """The one in use and the latest stay; another declaration's are left alone, also where its name begins the same."""
    names = [f"some-{number:016x}" for number in range(6)]
    others = [f"other-{0:016x}", *(f"some-more-{number:016x}" for number in range(4))]
    for number, name in enumerate(names[1:], start=1):
        make_box(tmp_path, name, used_s=number)
    for name in others:
        make_box(tmp_path, name, used_s=0)
    current = make_box(tmp_path, names[0], used_s=0)

    gone = boxes.prune(current)

    assert set(gone) == set(names[1:4])
    assert {path.name for path in tmp_path.iterdir()} == {names[0], *names[4:], *others}


def test_what_a_build_that_was_killed_left_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A root and a disk, before the next build; a box stays."""
    left = tmp_path / ".building-abc"
    (left / "root/etc").mkdir(parents=True)
    other = make_box(tmp_path, "other-1")

    @contextlib.contextmanager
    def built(*_: object) -> Iterator[tuple[Path, dict[str, object]]]:
        assert not left.exists()
        made = tmp_path / ".building-new/out"
        made.mkdir(parents=True)
        yield made, {}

    monkeypatch.setattr(box_build, "built", built)
    recipe = box_build.Recipe("some", "bookworm", (), (), 4)
    boxes._build(recipe, (), tmp_path / "some-1", report=lambda _: None)
    assert (tmp_path / "some-1" / boxes.RECORD).exists()
    assert other.archive.exists()


def test_a_leftover_with_a_mount_below_it_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removed through it, what is mounted there would go."""
    names = (".building-1", ".building-2")
    for name in names:
        (tmp_path / name / "root/sys").mkdir(parents=True)
    monkeypatch.setattr(home, "_read_mount_points", lambda: [Path("/"), tmp_path / ".building-1/root/sys"])

    home.remove_leftovers(tmp_path, ".building-*")

    assert [(tmp_path / name).exists() for name in names] == [True, False]


def test_the_mount_points_are_the_kernels() -> None:
    """Every process has at least these two."""
    assert {Path("/"), Path("/proc")} <= {*home._read_mount_points()}


def test_a_public_box_is_the_users_to_remove(tmp_path: Path) -> None:
    """It has no kernel of ours, and nothing here can make it again."""
    make_box(tmp_path, "some-1")
    archive = tmp_path / "some-0/some.box"
    archive.parent.mkdir()
    archive.write_bytes(b"disk")

    box = boxes.Box("some-0", archive.parent, archive, "0" * 64)

    assert (box.kernel_image, box.initrd) == (None, None)
    assert boxes.prune(box) == ()
    assert archive.exists()


def test_a_box_says_nothing_of_who_packed_it(tmp_path: Path) -> None:
    """The same files are the same archive, whenever and by whomever they were made."""
    made = []
    for number, when in enumerate((1, 2)):
        place = tmp_path / str(number)
        place.mkdir()
        for name in ("metadata.json", "box.img"):
            (place / name).write_bytes(name.encode())
            (place / name).chmod(0o600 | number)
            os.utime(place / name, (when, when))
        box_build.pack(place / "box", place, ("metadata.json", "box.img"))
        made.append((place / "box").read_bytes())

    assert made[0] == made[1]
