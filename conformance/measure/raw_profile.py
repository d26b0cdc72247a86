"""The raw profile of LLVM, put together from a program and what its processes counted.

Pure. LLVM's own library writes such a file when a process ends; the shim has no C library for it, and its processes
end in ways that no library sees. So they count in a file that they share, and the rest is in the program: which counter
is whose, and the names. Format: compiler-rt's InstrProfilingWriter.c and InstrProfData.inc, raw version 10
(LLVM 19 to 22). llvm-profdata refuses any other version by name.
"""

import struct
from typing import Final, NamedTuple

RAW_VERSION: Final = 10
# "\377lprofr\201": 64 bits, little-endian.
MAGIC: Final = int.from_bytes(b"\xfflprofr\x81", "big")
COUNTERS, FUNCTIONS, NAMES = "__llvm_prf_cnts", "__llvm_prf_data", "__llvm_prf_names"
# One record of FUNCTIONS, one counter, and what the kinds of values that nobody profiles here end with.
FUNCTION_BYTES: Final = 64
COUNTER_BYTES: Final = 8
LAST_VALUE_KIND: Final = 2
WORD: Final = 1 << 64


class ProfileError(Exception):
    """A program that counts nothing, or counters of another program."""


class Section(NamedTuple):
    """A part of an ELF file."""

    address: int
    content: bytes


def read_sections(program: bytes) -> dict[str, Section]:
    """Return the sections of a little-endian 64-bit ELF file by name; source: elf(5).

    Raises:
        ProfileError: It is none.
    """
    if program[:6] != b"\x7fELF\x02\x01":
        raise ProfileError("this is no little-endian 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", program, 40)
    size, count, names_at = struct.unpack_from("<HHH", program, 58)
    headers = [struct.unpack_from("<IIQQQQ", program, table + index * size) for index in range(count)]
    names = headers[names_at][4] if headers else 0
    found = {}
    for name_at, _, _, address, offset, length in headers:
        start = names + name_at
        name = program[start : program.index(b"\0", start)].decode()
        found[name] = Section(address, program[offset : offset + length])
    return found


def measure_counters(program: bytes) -> int:
    """Return how many bytes the counters of a program take.

    Raises:
        ProfileError: It counts nothing.
    """
    section = read_sections(program).get(COUNTERS)
    if section is None or not section.content:
        raise ProfileError("this program counts nothing: it was not built to be measured")
    return len(section.content)


def make_raw_profile(program: bytes, counters: bytes) -> bytes:
    """Return the raw profile of `program` with these counts.

    Raises:
        ProfileError: The counters are not of this program, or nothing at all was counted.
    """
    wanted = measure_counters(program)
    if len(counters) != wanted:
        raise ProfileError(f"the counters take {len(counters)} bytes, this program's {wanted}")
    if not any(counters):
        raise ProfileError("nothing was counted: no process of this program ran to where it counts")
    sections = read_sections(program)
    functions, names = sections[FUNCTIONS], sections[NAMES]
    distance = (sections[COUNTERS].address - functions.address) % WORD
    no_padding = no_bitmap = no_tables = 0
    header = struct.pack(
        "<16Q",
        *(MAGIC, RAW_VERSION, 0, len(functions.content) // FUNCTION_BYTES),
        *(no_padding, len(counters) // COUNTER_BYTES, no_padding, no_bitmap, no_padding),
        *(len(names.content), distance, no_bitmap, names.address, no_tables, no_tables, LAST_VALUE_KIND),
    )
    profile = header + functions.content + counters + names.content
    return profile + bytes(-len(profile) % 8)
