"""How podman in a guest is called, and what goes there for it."""

import gzip
import io
import json
import stat
import sys
import tarfile
from pathlib import Path

from conformance import oracle
from vms.__main__ import parse


def test_podman_is_called_through_the_guests_own_way_in() -> None:
    """Words that a shell would take apart arrive whole; what is podman's is not taken for an option of ours."""
    client = oracle.make_client("reference")
    words = [str(word) for word in [*client.client_config.docker_cmd, "run", "--env", "A=b c; d", "--user=0"]]

    assert words[:3] == [sys.executable, "-m", "vms"]
    parsed = parse(words[3:])
    assert (parsed.verb, parsed.profile, parsed.user) == ("ssh", "reference", oracle.CALLER)
    assert parsed.limit_s == oracle.LIMIT_S
    assert parsed.command == ["podman", "run", "--env", "A=b c; d", "--user=0"]


def test_every_image_says_what_its_config_is(tmp_path: Path) -> None:
    """In its layout, as it is declared."""
    oracle.make_images(tmp_path, b"observer", b"busybox")

    for name, config in oracle.CONFIGS.items():
        (manifest,) = json.loads((tmp_path / name / "index.json").read_text())["manifests"]
        blobs = tmp_path / name / "blobs/sha256"
        read = json.loads((blobs / manifest["digest"].partition(":")[2]).read_text())
        image = json.loads((blobs / read["config"]["digest"].partition(":")[2]).read_text())
        assert image["config"] == config


def test_the_layer_has_what_two_engines_can_differ_in(tmp_path: Path) -> None:
    """Owners, bits beyond the mode, and a file in the image's volume."""
    oracle.make_images(tmp_path, b"observer", b"busybox")
    index = json.loads((tmp_path / "named/index.json").read_text())
    blobs = tmp_path / "named/blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    layer = gzip.decompress((blobs / manifest["layers"][0]["digest"].partition(":")[2]).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        files = {member.name: (member.mode, member.uid, member.gid) for member in archive}

    assert files["srv/service"] == (0o640, 999, 998)
    assert files["srv/shared"] == (0o2775, 0, 50)
    assert files["srv/kept/seed"][1:] == (999, 998)


def test_the_context_of_a_build_is_whole(tmp_path: Path) -> None:
    """Everything that a COPY names is there, and the programs can be executed."""
    oracle.make_context(tmp_path, b"observer", b"busybox")

    copied = [
        word
        for line in (tmp_path / "Containerfile").read_text().splitlines()
        if line.startswith("COPY")
        for word in line.split()[1:-1]
    ]
    assert copied == ["observe", "busybox", "etc"]
    assert all((tmp_path / word).exists() for word in copied)
    assert stat.S_IMODE((tmp_path / "observe").stat().st_mode) == 0o755
