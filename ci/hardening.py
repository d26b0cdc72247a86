"""Judge a built shim by its ELF headers: `python ci/hardening.py PROGRAM…`.

What must hold of a program with the set-user-id bit: static (no interpreter, no library, no search path), position
independent, nothing both writable and executable, a stack that is not executable, and its relocated data read-only
before its own code runs. Source: elf(5) and the x86-64 psABI. The standard library only; 64-bit files only.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

EXECUTABLE, WRITABLE, READABLE = 1, 2, 4
ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
PT_GNU_STACK, PT_GNU_RELRO = 0x6474E551, 0x6474E552
DT_NEEDED, DT_RPATH, DT_TEXTREL, DT_BIND_NOW, DT_RUNPATH, DT_FLAGS, DT_FLAGS_1 = (
    1,
    15,
    22,
    24,
    29,
    30,
    0x6FFFFFFB,
)
DF_TEXTREL, DF_BIND_NOW = 0x4, 0x8
DF_1_NOW, DF_1_PIE = 0x1, 0x08000000
FORBIDDEN_TAGS = {DT_NEEDED: "needs a library", DT_RPATH: "has an RPATH", DT_RUNPATH: "has a RUNPATH"}


class Segment(NamedTuple):
    """One program header."""

    kind: int
    flags: int
    offset: int
    size: int


def read_segments(program: bytes) -> list[Segment]:
    """Return the program headers. Pure."""
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    segments = []
    for index in range(count):
        kind, flags, offset, _, _, length = struct.unpack_from("<IIQQQQ", program, table + index * size)
        segments.append(Segment(kind, flags, offset, length))
    return segments


def read_tags(program: bytes, segments: list[Segment]) -> Iterator[tuple[int, int]]:
    """Yield tag and value of each entry of the dynamic section. Pure."""
    for segment in segments:
        if segment.kind == PT_DYNAMIC:
            for at in range(segment.offset, segment.offset + segment.size, 16):
                tag, value = struct.unpack_from("<QQ", program, at)
                if tag == 0:
                    return
                yield tag, value


def find_weaknesses(program: bytes) -> list[str]:
    """Return one phrase for each way in which a program falls short. Pure."""
    if program[:6] != b"\x7fELF\x02\x01":
        return ["is not a little-endian 64-bit ELF file"]
    segments = read_segments(program)
    kinds = [segment.kind for segment in segments]
    tags = list(read_tags(program, segments))
    flags = {tag: value for tag, value in tags if tag in (DT_FLAGS, DT_FLAGS_1)}
    found = []
    if struct.unpack_from("<H", program, 16)[0] != ET_DYN or not flags.get(DT_FLAGS_1, 0) & DF_1_PIE:
        found.append("is not position independent")
    if PT_INTERP in kinds:
        found.append("has an interpreter")
    if any(s.kind == PT_LOAD and s.flags & WRITABLE and s.flags & EXECUTABLE for s in segments):
        found.append("has a segment that is writable and executable")
    # Without the header the kernel makes the stack executable.
    if not any(s.kind == PT_GNU_STACK and not s.flags & EXECUTABLE for s in segments):
        found.append("has an executable stack")
    bind_now = flags.get(DT_FLAGS, 0) & DF_BIND_NOW or flags.get(DT_FLAGS_1, 0) & DF_1_NOW
    if PT_GNU_RELRO not in kinds or not (bind_now or any(tag == DT_BIND_NOW for tag, _ in tags)):
        found.append("has data that stays writable after relocation")
    if flags.get(DT_FLAGS, 0) & DF_TEXTREL or any(tag == DT_TEXTREL for tag, _ in tags):
        found.append("relocates its code")
    found += [FORBIDDEN_TAGS[tag] for tag, _ in tags if tag in FORBIDDEN_TAGS]
    return found


def main() -> int:
    """Print the weaknesses of each program; 1 if there are any."""
    weak = False
    for name in sys.argv[1:]:
        for weakness in find_weaknesses(Path(name).read_bytes()):
            sys.stderr.write(f"hardening: {name} {weakness}\n")
            weak = True
    return int(weak or len(sys.argv) == 1)


if __name__ == "__main__":
    sys.exit(main())
