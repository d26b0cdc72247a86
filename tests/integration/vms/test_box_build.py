"""A box that is being built leaves nothing on this machine, however its build ends."""

import os
from pathlib import Path

import pytest

from vms import box_build
from vms.errors import CommandTimedOut

MOUNTS = Path("/proc/self/mountinfo")

pytestmark = pytest.mark.root


def test_a_killed_step_leaves_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it mounted is not there for whoever removes its directory: that would empty this machine's own."""
    monkeypatch.setattr(box_build, "STEP_LIMIT_S", 2.0)
    build = box_build.Build(tmp_path, lambda _line: None)
    build.root.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "kept").touch()
    script = 'mount --bind "$1" "$2" && touch "$2/mounted" && trap "" TERM && while :; do sleep 1; done'

    with pytest.raises(CommandTimedOut):
        build.mounting("/bin/sh", "-c", script, "sh", str(source), str(build.root))

    # It had mounted before it was killed, and nobody sees that here.
    assert (source / "mounted").exists()
    assert str(build.root) not in MOUNTS.read_text()
    assert os.listdir(build.root) == []
