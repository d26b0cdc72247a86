"""A build of the shim that counts, and the lines that its counts stand for, read by LLVM's own tools."""

import re
import shutil
from pathlib import Path
from typing import Final

from conformance.inputs import InputError, build_crate, run_program, run_rust
from conformance.measure.raw_profile import ProfileError, make_raw_profile

ROOT: Final = Path(__file__).parent.parent.parent
CRATE: Final = ROOT / "shim"
TRIPLE: Final = "x86_64-unknown-linux-gnu"
# `--target` keeps these from the build script, which has a C library and no use for them.
FLAGS: Final = (
    "-C target-feature=+crt-static --cfg locald_coverage -C instrument-coverage -Z no-profiler-runtime "
    "-C llvm-args=-runtime-counter-relocation"
)
READ_LIMIT_S: Final = 120
# What counts is not part of what is measured.
LEFT_OUT: Final = ("shim/src/sys/counter.rs", "shim/src/sys/coverage.rs")
_LLVM: Final = re.compile(r"^LLVM version: (\d+)", re.MULTILINE)


def build_counting_shim(target: Path) -> Path:
    """Return a build of the shim that counts, in cargo's directory `target`; cargo knows whether it is current.

    Raises:
        InputError: It cannot be built; the message has cargo's words.
    """
    # One unstable flag on the stable compiler: without a C library LLVM's run-time library cannot be linked.
    counting = {"RUSTFLAGS": FLAGS, "RUSTC_BOOTSTRAP": "1"}
    build_crate(CRATE, target, "--profile=coverage", f"--target={TRIPLE}", env=counting)
    return target / TRIPLE / "coverage" / "locald-shim"


def read_lines(program: Path, counters: bytes, work: Path) -> str:
    """Return what was counted, as an lcov trace of the files of shim/src.

    Args:
        program: What `build_counting_shim` returned.
        counters: The content of the file that its processes shared.
        work: A directory for what lies between.

    Raises:
        ProfileError: The counters are not this program's, or empty.
        InputError: LLVM's tools are missing or do not read it.
    """
    profdata, cov = find_llvm("profdata"), find_llvm("cov")
    raw, indexed = work / "shim.profraw", work / "shim.profdata"
    raw.write_bytes(make_raw_profile(program.read_bytes(), counters))
    run_program([profdata, "merge", "--sparse", f"--output={indexed}", str(raw)], limit_s=READ_LIMIT_S)
    trace = run_program(
        [cov, "export", "--format=lcov", f"--instr-profile={indexed}", str(program)], limit_s=READ_LIMIT_S
    )
    return keep_own_files(trace)


def keep_own_files(trace: str) -> str:
    """Return the records of the shim's own sources, named from the root of the tree; no functions. Pure.

    Raises:
        ProfileError: There is none, as if nobody had reached anything.
    """
    kept = []
    for record in trace.split("end_of_record\n"):
        name = re.search(r"^SF:(.+)$", record, re.MULTILINE)
        path = Path(name[1]) if name else Path("/")
        if not path.is_relative_to(CRATE / "src") or str(path.relative_to(ROOT)) in LEFT_OUT:
            continue
        # Names of functions are mangled, and one stands for each of its instances.
        lines = [line for line in record.splitlines() if line.startswith(("DA:", "LF:", "LH:"))]
        kept.append("\n".join([f"SF:{path.relative_to(ROOT)}", *lines, "end_of_record\n"]))
    if not kept:
        raise ProfileError(f"the counts are of no file below {CRATE / 'src'}")
    return "".join(kept)


def find_llvm(tool: str) -> str:
    """Return the path of one of LLVM's programs, of the version that the compiler is made of.

    Raises:
        InputError: There is none; the message says what brings it.
    """
    said = run_rust(["rustc", "-vV"], limit_s=READ_LIMIT_S)
    version = _LLVM.search(said)
    if version is None:
        raise InputError(f"rustc does not say which LLVM it is made of: {said}")
    sysroot = run_rust(["rustc", "--print", "sysroot"], limit_s=READ_LIMIT_S).strip()
    # Debian's, then rustup's component.
    places = (f"llvm-{tool}-{version[1]}", f"{sysroot}/lib/rustlib/{TRIPLE}/bin/llvm-{tool}")
    for place in places:
        if found := shutil.which(place):
            return found
    raise InputError(
        f"llvm-{tool} of LLVM {version[1]}, which rustc is made of, is missing; "
        f"Debian: apt-get install llvm-{version[1]}; rustup: rustup component add llvm-tools"
    )
