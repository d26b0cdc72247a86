"""What keeps the setuid program small and hard: where `unsafe` is, what it is built from, how it is linked."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from ci.hardening import find_weaknesses

SHIM = Path(__file__).resolve().parents[2] / "shim"
# sys.rs and its parts: every contact with the kernel. Nothing else may hold the word.
UNSAFE_HOMES = re.compile(r"^sys(\.rs|/[a-z]+\.rs)$")
MAX_CRATES = 12
COMPILE_LIMIT_S = 60
# Comments, strings (raw ones too), bytes and characters; what is left is code. Lifetimes have no closing quote.
NOT_CODE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?c?r(\#*)".*?"\1 | [bc]?"(?:\\.|[^"\\])*" | b?'(?:\\[^']+|[^'\\])'""",
    re.DOTALL | re.VERBOSE,
)
GOOD = ("-static-pie", "-Wl,-z,relro,-z,now,-z,noexecstack")


def find_code(source: str) -> str:
    """Return Rust source without its comments, strings and characters."""
    return NOT_CODE.sub(" ", source)


def test_comments_and_strings_are_no_code() -> None:
    """The reader that the next test relies on."""
    source = """
    // unsafe
    /* unsafe
       too */
    let a = "unsafe \\" unsafe"; let b = r#"unsafe " unsafe"#; let c = b"unsafe"; let d = '"';
    fn f<'a>(x: &'a str) { unsafe { g(x) } } let e = c"unsafe"; let h = '\\''; // unsafe
    """
    assert re.findall(r"\bunsafe\b", find_code(source)) == ["unsafe"]


def test_unsafe_has_one_home() -> None:
    """Both crate roots deny it, sys.rs and its parts alone allow it, and nothing else holds the word."""
    for path in sorted((SHIM / "src").rglob("*.rs")):
        name = path.relative_to(SHIM / "src").as_posix()
        code = find_code(path.read_text("utf-8"))
        words = re.findall(r"\bunsafe(?:_code)?\b", code)
        if name in ("lib.rs", "main.rs"):
            assert "#![deny(unsafe_code)]" in code, name
            assert words == ["unsafe_code"], name
        elif not UNSAFE_HOMES.match(name):
            assert words == [], name


def test_every_unsafe_block_says_why() -> None:
    """Clippy demands the argument; this says that clippy is told to."""
    lints = tomllib.loads((SHIM / "Cargo.toml").read_text("utf-8"))["lints"]
    assert lints["clippy"]["undocumented_unsafe_blocks"] == "deny"
    assert lints["clippy"]["multiple_unsafe_ops_per_block"] == "deny"
    assert lints["rust"]["unsafe_op_in_unsafe_fn"] == "deny"


def test_few_crates_each_with_a_reason() -> None:
    """The lock file holds the whole run-time tree; deny.toml names each crate below a comment that says why."""
    packages = tomllib.loads((SHIM / "Cargo.lock").read_text("utf-8"))["package"]
    crates = {package["name"] for package in packages} - {"locald-shim"}
    assert len(packages) - 1 <= MAX_CRATES
    rules = (SHIM.parent / "deny.toml").read_text("utf-8")
    allowed = {entry["name"] for entry in tomllib.loads(rules)["bans"]["allow"]} - {"locald-shim"}
    assert crates == allowed
    manual = (SHIM.parent / "docs" / "decisions" / "0051-dependencies.md").read_text("utf-8")
    assert all(f"`{crate}`" in manual for crate in crates)


def compile_c(directory: Path, *flags: str) -> bytes:
    """Return a small program linked with `flags`."""
    source, program = directory / "a.c", directory / "a.out"
    source.write_text("int x; int *p = &x; int main(void) { return *p; }\n")
    command = ["gcc", "-fPIE", "-o", str(program), str(source), *flags]
    subprocess.run(command, check=True, timeout=COMPILE_LIMIT_S, stderr=subprocess.DEVNULL)
    return program.read_bytes()


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("flags", "weakness"),
    [
        (("-static", "-no-pie"), "is not position independent"),
        (("-pie",), "has an interpreter"),
        (("-pie",), "needs a library"),
        ((*GOOD, "-Wl,-z,execstack"), "has an executable stack"),
        ((*GOOD, "-Wl,-z,norelro"), "has data that stays writable after relocation"),
        (("-pie", "-Wl,-z,relro,-z,lazy"), "has data that stays writable after relocation"),
        (("-nostdlib", "-static", "-Wl,--omagic"), "has a segment that is writable and executable"),
        (("-pie", "-Wl,-rpath,/tmp"), "has a RUNPATH"),
        (("-pie", "-Wl,-rpath,/tmp,--disable-new-dtags"), "has an RPATH"),
    ],
)
def test_a_weak_program_is_seen(tmp_path: Path, flags: tuple[str, ...], weakness: str) -> None:
    """One program for each thing that the check looks for."""
    assert weakness in find_weaknesses(compile_c(tmp_path, *flags))


@pytest.mark.spawns
def test_a_hard_program_passes(tmp_path: Path) -> None:
    """Else every program would be weak, and the tests above would show nothing."""
    assert find_weaknesses(compile_c(tmp_path, *GOOD)) == []


def test_what_is_no_program_is_weak() -> None:
    """A script with the set-user-id bit would be worse than any of these."""
    assert find_weaknesses(b"#!/bin/sh\n") == ["is not a little-endian 64-bit ELF file"]
