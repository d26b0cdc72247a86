"""What is made of counts: traces joined, decisions listed, a raw profile put together from a program's sections."""

import subprocess
from pathlib import Path

import pytest

from conformance.measure import lines
from conformance.measure.raw_profile import ProfileError, make_raw_profile, measure_counters, read_sections
from conformance.measure.shim import keep_own_files

COMPILE_LIMIT_S = 60
TRACE = """SF:locald/spec.py
DA:1,1
DA:2,0
DA:2,3
LF:2
end_of_record
SF:shim/src/policy/ids.rs
DA:7,0
DA:9,18446744073709551615
end_of_record
"""
ROOT = Path(__file__).resolve().parents[3]


def test_a_line_is_reached_if_any_of_its_counts_says_so() -> None:
    """A line has a record for each piece of code on it, and a count may be as large as 64 bits hold."""
    assert lines.parse_trace(TRACE) == {
        "locald/spec.py": {1: True, 2: True},
        "shim/src/policy/ids.rs": {7: False, 9: True},
    }


def test_sources_are_joined_by_line() -> None:
    """What one source reached stays reached, whatever the others did."""
    assert lines.join(
        [{"a": {1: True, 2: False}}, {"a": {1: False, 2: False, 3: True}}, {"b": {1: False}}]
    ) == {
        "a": {1: True, 2: False, 3: True},
        "b": {1: False},
    }


def test_only_clauses_count_for_the_decisions() -> None:
    """A unit test that reaches a line does not take it off the list; a file that no clause touched is all on it."""
    sources = {
        lines.TESTS: {"locald/spec.py": {1: True, 2: True}, "shim/src/plan.rs": {4: True}},
        "local": {"locald/spec.py": {1: True, 2: False}},
        "debian": {"locald/spec.py": {1: False, 2: False}},
    }
    document = lines.make_document(sources, {"local": {"clauses": 3}}, (), "2026-11-27T00:00:00Z")
    assert document["files"]["locald/spec.py"]["reached_by"] == {lines.TESTS: 2, "local": 1, "debian": 0}
    texts = {"locald/spec.py": ["one", "    two"], "shim/src/plan.rs": ["", "", "", "four"]}
    assert lines.describe_decisions(document, texts) == [
        "locald/spec.py:2: two",
        "shim/src/plan.rs:4: four",
        "locald/spec.py: 1 of 2 lines reached by clauses",
        "shim/src/plan.rs: 0 of 1 lines reached by clauses",
        "decisions: 1 of 3 lines reached by clauses",
    ]
    assert document["sources"] == {lines.TESTS: {}, "local": {"clauses": 3}, "debian": {}}


def test_without_a_clause_nothing_is_said_of_clauses() -> None:
    """Neither reached nor unreached: nobody looked."""
    document = lines.make_document(
        {lines.TESTS: {"locald/spec.py": {1: True}}}, {}, (), "2026-11-27T00:00:00Z"
    )
    assert document["files"]["locald/spec.py"]["unreached_by_clauses"] is None


def test_the_least_reached_file_stands_last() -> None:
    """Where a terminal still shows it."""
    sources = {"local": {"a": {1: False}, "b": {1: True}, "c": {1: True, 2: False}}}
    described = lines.describe_files(lines.make_document(sources, {}, (), "2026-11-27T00:00:00Z"))
    assert [line.split()[-1] for line in described] == ["file", "b", "c", "a"]


@pytest.mark.parametrize(
    "name", ["shim/src/policy.rs", "shim/src/policy/mounts.rs", "shim/src/plan.rs", "locald/spec.py"]
)
def test_the_decisions_are_there(name: str) -> None:
    """A pattern that fits no file would account for nothing."""
    assert lines.is_decision(name)
    assert (ROOT / name).is_file()


def test_crates_and_the_counting_itself_are_left_out() -> None:
    """Neither is the shim; names of functions are mangled and go too."""
    source = ROOT / "shim" / "src"
    record = "SF:{}\nFN:1,_RNv\nFNDA:1,_RNv\nDA:1,1\nLF:1\nLH:1\nend_of_record\n"
    counting = (source / "sys" / "coverage.rs", source / "sys" / "counter.rs")
    names = (source / "plan.rs", *counting, "/registry/libc/src/lib.rs")
    trace = "".join(record.format(name) for name in names)
    assert keep_own_files(trace) == "SF:shim/src/plan.rs\nDA:1,1\nLF:1\nLH:1\nend_of_record\n"


def test_a_trace_without_the_shim_is_no_measure() -> None:
    """Its files would stand nowhere, neither reached nor unreached."""
    for trace in ("", "SF:/registry/libc/src/lib.rs\nDA:1,1\nend_of_record\n"):
        with pytest.raises(ProfileError, match=r"the counts are of no file below .*/shim/src$"):
            keep_own_files(trace)


DECIDING = ("locald/spec.py", "shim/src/plan.rs", "shim/src/policy.rs", "shim/src/policy/ids.rs")
TREE = (*DECIDING, "shim/src/policy/tests.rs", "shim/src/main.rs", "locald/host.py")


def test_every_decision_is_counted_on_every_host() -> None:
    """What is compiled for unit tests alone, and what decides nothing, need not be."""
    whole: dict[str, dict[int, bool]] = {name: {1: False} for name in DECIDING}
    assert lines.find_lost({"local": whole, "debian": whole}, TREE) == []
    part = {name: whole[name] for name in DECIDING[:3]}

    assert lines.find_lost({"local": whole, "debian": part}, TREE) == [
        "debian: nothing was counted of shim/src/policy/ids.rs, whose lines decide"
    ]
    assert lines.find_lost({"local": whole | {"shim/src/plan.rs": {}}}, TREE) == [
        "local: nothing was counted of shim/src/plan.rs, whose lines decide"
    ]


def test_a_decision_that_moved_is_missed() -> None:
    """Its old pattern would account for nothing; without a clause nobody asks."""
    whole = {name: {1: True} for name in TREE}
    moved = [name for name in TREE if name != "shim/src/plan.rs"]
    assert lines.find_lost({"local": whole}, moved) == [
        "no file is called shim/src/plan.rs, whose lines decide"
    ]
    assert lines.find_lost({}, moved) == []


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program with sections as the compiler makes them: two counters, one record, a name."""
    directory = tmp_path_factory.mktemp("program")
    source = directory / "a.c"
    source.write_text(
        '__attribute__((section("__llvm_prf_cnts"), used)) static long counts[2];\n'
        '__attribute__((section("__llvm_prf_data"), used)) static long record[8] = {1};\n'
        '__attribute__((section("__llvm_prf_names"), used)) static const char names[] = "name";\n'
        "int main(void) { return 0; }\n"
    )
    command = ["gcc", "-o", str(directory / "a.out"), str(source)]
    subprocess.run(command, check=True, timeout=COMPILE_LIMIT_S)
    return (directory / "a.out").read_bytes()


@pytest.mark.spawns
def test_a_raw_profile_has_the_programs_parts_and_the_counts(program: bytes) -> None:
    """Sixteen words, the records, the counts, the names, padded to eight bytes."""
    counters = (5).to_bytes(8, "little") + bytes(8)
    profile = make_raw_profile(program, counters)
    sections = read_sections(program)
    records, names = sections["__llvm_prf_data"].content, sections["__llvm_prf_names"].content
    assert profile[:8] == b"\x81rforpl\xff"
    assert profile[128:] == records + counters + names + bytes(-len(names) % 8)
    words = [int.from_bytes(profile[at : at + 8], "little") for at in range(0, 128, 8)]
    assert (words[3], words[5], words[9]) == (1, 2, len(names))
    distance = sections["__llvm_prf_cnts"].address - sections["__llvm_prf_data"].address
    assert words[10] == distance % (1 << 64)


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("counters", "says"),
    [(bytes(16), "nothing was counted"), (b"\1" * 8, "the counters take 8 bytes, this program's 16")],
)
def test_counts_that_show_nothing_are_no_profile(program: bytes, counters: bytes, says: str) -> None:
    """Else code that nobody measured would look like code that nobody reached."""
    with pytest.raises(ProfileError, match=says):
        make_raw_profile(program, counters)


@pytest.mark.spawns
def test_a_program_that_does_not_count_is_named(tmp_path: Path) -> None:
    """The release build, or a script, in the place of the measured one."""
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    command = ["gcc", "-o", str(tmp_path / "a.out"), str(tmp_path / "a.c")]
    subprocess.run(command, check=True, timeout=COMPILE_LIMIT_S)
    with pytest.raises(ProfileError, match="not built to be measured"):
        measure_counters((tmp_path / "a.out").read_bytes())
    with pytest.raises(ProfileError, match="no little-endian 64-bit ELF file"):
        measure_counters(b"#!/bin/sh\n")
