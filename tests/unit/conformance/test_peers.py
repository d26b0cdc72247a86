"""What is done in a guest before a peer runs there."""

import subprocess
from pathlib import Path

import pytest

from conformance.peers import HYBRID

CONTROLLERS = "/sys/fs/cgroup/unified/cgroup.controllers"


@pytest.mark.spawns
@pytest.mark.parametrize("is_hybrid", [True, False])
def test_the_cover_for_crun_is_made_where_cgroups_are_of_both_versions(
    tmp_path: Path, *, is_hybrid: bool
) -> None:
    """Whether the file is there decides: one of cgroupfs has the size 0 whatever can be read from it."""
    controllers, said = tmp_path / "controllers", tmp_path / "said"
    if is_hybrid:
        controllers.touch()
    mount = tmp_path / "mount"
    mount.write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    mount.chmod(0o755)
    assert CONTROLLERS in HYBRID
    script = HYBRID.replace(CONTROLLERS, str(controllers))

    subprocess.run(["/bin/sh", "-eu", "-c", script], env={"PATH": str(tmp_path)}, timeout=20, check=True)

    assert said.exists() == is_hybrid
    if is_hybrid:
        assert said.read_text() == f"--bind /dev/null {controllers}\n"
