"""How podman in a guest is called, and what goes there for it."""

import gzip
import io
import json
import re
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from python_on_whales.exceptions import DockerException

import vms
from conformance import oracle, test_reference
from conformance.clauses import read_catalogue
from conformance.controls import __main__ as controls
from conformance.inputs import InputError
from conformance.oracle import Oracle
from conformance.subject import KitError, Result, Subject
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


# What podman 4.3 says where its storage is at fault.
BROKEN = (125, b"Error: creating container storage: database is locked\n")
ANSWER = "/bin/observe said so\n"
PROFILE = vms.read("reference")


class FakeGuest:
    """A guest that keeps files, and a podman whose containers end as they are told, one after the other."""

    def __init__(self, *ends: tuple[int, bytes]) -> None:
        self.profile = PROFILE
        self.files: dict[str, bytes] = {}
        self.ends = list(ends)
        self.asked = 0

    def run(self, command: list[str], **_: Any) -> vms.Output:
        """Show a file, or run one of the engines: locald's containers end well."""
        code, said, error = 0, b"", b""
        if command[0] == "cat":
            code, said = (0, self.files[command[1]]) if command[1] in self.files else (1, b"")
        elif command[0] == "podman":
            self.asked += 1
            code, error = self.ends.pop(0)
        return vms.Output(tuple(command), "plain", code, said, error, 0.1)

    def push(self, content: bytes, place: str) -> None:
        """Keep a file."""
        self.files[place] = content

    def run_container(self, *_: Any, **__: Any) -> Iterator[tuple[str, bytes]]:
        """Do as python-on-whales does with a stream."""
        self.asked += 1
        code, error = self.ends.pop(0)
        yield "stdout", ANSWER.encode()
        if error:
            yield "stderr", error
        if code:
            raise DockerException(["podman"], code)


def make_oracle(guest: FakeGuest) -> Oracle:
    """Return an oracle that asks `guest`."""
    client = SimpleNamespace(container=SimpleNamespace(run=guest.run_container))
    subject = Subject(cast("vms.Guest", guest), cast("Any", None), cast("Any", None), factor=1.0)
    return Oracle(subject, cast("Any", client))


def test_an_answer_is_asked_for_once() -> None:
    """Also where a container ends with a code of its own, and also by another worker: it stays in the guest."""
    guest = FakeGuest(
        (0, b""), (127, b"Error: crun: no such file: OCI runtime attempted to invoke a command\n")
    )
    for _ in range(2):
        asked = make_oracle(guest)
        assert (asked.see("bare").exit_code, asked.see("bare", "absent").exit_code) == (0, 127)
    assert guest.asked == 2


@pytest.mark.parametrize("end", [BROKEN, (-9, b""), (-15, b"Error: x\n")])
def test_podmans_own_failure_is_an_error_and_no_answer(end: tuple[int, bytes]) -> None:
    """Neither FAIL of what it is compared with, nor kept for those who ask later."""
    guest = FakeGuest(end, (0, b""))
    asked = make_oracle(guest)
    with pytest.raises(KitError, match="podman failed with"):
        asked.see("bare")

    assert guest.files == {}
    assert asked.see("bare").stdout == ANSWER
    assert asked.see("bare").stdout == ANSWER
    assert guest.asked == 2


def test_an_end_that_may_be_podmans_own_is_not_kept() -> None:
    """A payload may end with 125 too; whoever asks again sees whether it does each time."""
    guest = FakeGuest((125, b""), (0, b""))
    asked = make_oracle(guest)

    assert [asked.see("bare").exit_code for _ in range(3)] == [125, 0, 0]
    assert guest.asked == 2


class Ours(Subject):
    """A locald whose containers end well."""

    def call(self, *jobs: Any, guard: bool = False) -> Any:
        """Return what each showed."""
        del guard
        data = {"argv": [], "user": "plain", "exit_code": 0, "stdout": "", "stderr": "", "problem": ""}
        return [Result(data | {"leftover": []}) for _ in jobs]


OURS = Ours(cast("Any", FakeGuest()), cast("Any", None), cast("Any", None), factor=1.0)


@pytest.mark.parametrize("see", [test_reference.theirs_of, lambda asked: test_reference.whole(OURS, asked)])
def test_a_container_of_podmans_that_ends_badly_is_an_error(see: Callable[[Oracle], object]) -> None:
    """Where it has to end with 0, whatever stands in its way: an assertion would be locald's failure."""
    with pytest.raises(KitError, match="podman's container does not end with 0"):
        see(make_oracle(FakeGuest(*[(1, b"Error: cannot connect\n")] * 4)))


@pytest.mark.parametrize("end", [BROKEN, (1, b"cannot connect\n")])
def test_faults_are_planted_only_while_podman_answers(end: tuple[int, bytes]) -> None:
    """Else a clause that compares would be red for podman's sake, and count for the fault."""
    guest = FakeGuest((0, b""), end)
    controls.require_good(cast("vms.Guest", guest), "one")

    with pytest.raises(InputError, match=f"^after another podman's container ends with {end[0]}: "):
        controls.require_good(cast("vms.Guest", guest), "another")


def test_a_host_without_podman_is_not_asked() -> None:
    """Nor for it."""
    guest = FakeGuest()
    guest.profile = vms.read("local")
    controls.require_good(cast("vms.Guest", guest), "one")
    assert guest.asked == 0


def test_the_ends_are_those_that_the_clause_names() -> None:
    """By what each command comes to: a number of its own, 126 and 127 of whoever starts it, 128 and a signal."""
    signals = {"KILL": 9, "TERM": 15}

    def number(name: str, command: tuple[str, ...]) -> int:
        if command[:2] == (oracle.OBSERVE, "exit"):
            return int(command[2])
        return 128 + signals[name] if name in signals else 126 if name == "no program" else 127

    named = re.findall(r"\d+", read_catalogue()["REF-006"].observable)
    ends = {number(name, command) for name, command in test_reference.ENDS.items()}
    assert sorted(map(int, named)) == sorted(ends)
