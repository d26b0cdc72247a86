"""Which accelerator: each box's kernel is tried once a boot, however the boxes take turns."""

from pathlib import Path

import pytest

from vms import accel, home

BOXES = ("debian12", "debian13")


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the kernels that were tried, on a machine with KVM that boots `debian13` and hangs on any other."""
    kernels: list[str] = []

    def boots(kernel: Path) -> bool:
        kernels.append(kernel.name)
        return kernel.name == "debian13"

    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setenv("LOCALD_VMS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(accel, "DEVICE", device)
    monkeypatch.setattr(accel, "_boots", boots)
    return kernels


def choose(*boxes: str) -> list[str]:
    """Return what is chosen for each box, in turn."""
    return [accel.choose(Path(box), f"sha256 of {box}") for box in boxes]


def test_each_kernel_is_tried_once(tried: list[str]) -> None:
    """A try takes ten seconds where KVM hangs, and the hosts of a run take turns with their boxes."""
    assert choose(*BOXES, *BOXES, BOXES[0]) == ["tcg", "kvm", "tcg", "kvm", "tcg"]
    assert tried == list(BOXES)


def test_after_a_boot_of_this_machine_it_is_tried_again(
    tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another kernel of the host, another answer."""
    choose("debian12")
    monkeypatch.setattr(accel, "_boot_id", lambda: "another")
    choose("debian12")
    assert tried == ["debian12"] * 2


@pytest.mark.parametrize(
    "note", ["", "[]", '{"key": "an older kit\'s", "accelerator": "kvm"}', '{"boot": 1}']
)
def test_a_note_that_is_none_is_replaced(tried: list[str], note: str) -> None:
    """Half a file, or an older kit's: the kernel is tried, and the note is whole afterwards."""
    place = home.root() / "accelerator.json"
    place.parent.mkdir(parents=True)
    place.write_text(note)
    assert accel.recall() == "tcg"
    assert choose("debian13", "debian13") == ["kvm", "kvm"]
    assert tried == ["debian13"]
    assert [path.name for path in place.parent.iterdir()] == ["accelerator.json"]


def test_a_box_with_its_kernel_inside_has_what_was_found_last(tried: list[str]) -> None:
    """It cannot be tried by itself; where nobody tried, nothing is known."""
    assert accel.recall() == "tcg"
    choose(*BOXES)
    assert (accel.recall(), len(tried)) == ("kvm", 2)


def test_without_kvm_nothing_is_tried(tried: list[str]) -> None:
    """A device that is not there, or not ours to open."""
    accel.DEVICE.unlink()
    assert choose(*BOXES) == ["tcg", "tcg"]
    assert tried == []
