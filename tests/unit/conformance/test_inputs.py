"""What is made on the controller: programs by what they are made of, and nothing that runs on after its limit."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from conformance import inputs
from conformance.inputs import InputError, compile_static, download_wheels, find_compiled, run_program

LIMIT_S = 10.0


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Stand in for the compiler: what it makes is the source; the commands that it was given."""
    given: list[Sequence[str]] = []

    def run(command: Sequence[str], *, limit_s: float, env: Mapping[str, str] | None = None) -> str:
        del limit_s, env
        given.append(command)
        Path(command[command.index("-o") + 1]).write_bytes(Path(command[-1]).read_bytes())
        return ""

    monkeypatch.setattr(inputs, "run_program", run)
    return given


def write_source(tree: Path, text: str, *, age_s: float = 0) -> Path:
    """Return a source file of some tree, last changed so long ago."""
    tree.mkdir(exist_ok=True)
    source = tree / "observe.c"
    source.write_text(text)
    os.utime(source, (time.time() - age_s,) * 2)
    return source


def test_a_program_is_known_by_what_it_is_made_of(tmp_path: Path, compiler: list[Sequence[str]]) -> None:
    """Two trees share the cache: each gets its own, whichever was compiled last, and compiles it once."""
    ours = write_source(tmp_path / "a", "ours")
    # Older than what the other one is compiled to.
    theirs = write_source(tmp_path / "b", "theirs", age_s=1000)

    for _ in range(2):
        assert find_compiled(ours, tmp_path / "cache").read_text() == "ours"
        assert find_compiled(theirs, tmp_path / "cache").read_text() == "theirs"
    assert len(compiler) == 2


def test_other_flags_make_another_program(
    tmp_path: Path, compiler: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another text does."""
    source = write_source(tmp_path / "a", "ours")
    first = find_compiled(source, tmp_path / "cache")
    monkeypatch.setattr(inputs, "COMPILER", (*inputs.COMPILER, "-g"))

    assert find_compiled(source, tmp_path / "cache") != first
    assert "-g" in compiler[-1]


def test_programs_of_old_trees_are_taken_away(tmp_path: Path, compiler: list[Sequence[str]]) -> None:
    """As many are kept as of everything else, and none of another payload is counted."""
    cache = tmp_path / "cache"
    start = tmp_path / "start.c"
    start.write_text("start")
    find_compiled(start, cache)
    for number in range(inputs.KEPT + 2):
        find_compiled(write_source(tmp_path / "a", f"text {number}"), cache)

    kept = [path.name for path in (cache / "programs").glob("[!.]*")]
    assert len(kept) == inputs.KEPT + 1
    assert len(compiler) == inputs.KEPT + 3


def test_what_the_compiler_leaves_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off, it leaves neither the target nor what it had of it."""

    def cut_off(command: Sequence[str], **_: object) -> str:
        Path(command[command.index("-o") + 1]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "run_program", cut_off)
    source = write_source(tmp_path / "a", "ours")
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(KeyboardInterrupt):
        compile_static(source, place / "observe")

    assert list(place.iterdir()) == []


@pytest.mark.spawns
def test_a_program_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """At its limit: a compiler's children would go on, and hold the processor and the cache's files."""
    told = tmp_path / "pid"
    with pytest.raises(InputError, match=r"killed after .* s: /bin/sh"):
        run_program(["/bin/sh", "-c", f"sleep 60 & echo $! > {told}; wait"], limit_s=0.5)

    state = Path(f"/proc/{told.read_text().strip()}/stat")
    end = time.monotonic() + LIMIT_S
    # Whoever adopts it may take a while to collect it.
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.spawns
def test_a_failure_has_the_programs_words() -> None:
    """Of both streams; a program that says nothing is told by its code, and what succeeds by standard output alone."""
    with pytest.raises(InputError, match=r"(?s)/bin/sh .*: out\nerr$"):
        run_program(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], limit_s=LIMIT_S)
    with pytest.raises(InputError, match=r"/bin/false: exit code 1$"):
        run_program(["/bin/false"], limit_s=LIMIT_S)
    with pytest.raises(InputError, match="/no/such: "):
        run_program(["/no/such"], limit_s=LIMIT_S)
    assert run_program(["/bin/sh", "-c", "echo out; echo err >&2"], limit_s=LIMIT_S) == "out\n"


def test_a_wheel_that_changed_before_pip_read_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be judged under the digest of the one before; nothing of it is kept for the next run."""
    wheel, cache = tmp_path / "x.whl", tmp_path / "cache"
    wheel.write_bytes(b"of this run")

    def late(_requirement: str, target: Path, _python: str) -> None:
        target.mkdir(parents=True)
        (target / "x.whl").write_bytes(b"of another")

    monkeypatch.setattr(inputs, "download", late)
    with pytest.raises(InputError, match=r"the wheel changed while the run prepared; run again$"):
        download_wheels(wheel, cache, "3.11")
    assert list(cache.iterdir()) == []


def test_kept_wheels_are_judged_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are downloaded once, and again where what is kept is not what its name says."""
    wheel, cache = tmp_path / "x.whl", tmp_path / "cache"
    wheel.write_bytes(b"of this run")
    downloads = []

    def copy(requirement: str, target: Path, python: str) -> None:
        downloads.append(python)
        target.mkdir(parents=True)
        (target / "x.whl").write_bytes(Path(requirement).read_bytes())

    monkeypatch.setattr(inputs, "download", copy)
    kept = download_wheels(wheel, cache, "3.11")
    assert download_wheels(wheel, cache, "3.11") == kept
    assert downloads == ["3.11"]
    (kept / "x.whl").write_bytes(b"of another")

    assert (download_wheels(wheel, cache, "3.11") / "x.whl").read_bytes() == b"of this run"
    assert downloads == ["3.11", "3.11"]
