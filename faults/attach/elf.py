"""Where a function of a running process is, read from the files that it has mapped.

Knowing the addresses beforehand shortens the time for which a debugger holds the process, and shows whether
it contains an interpreter at all. Layouts are those of elf(5), for 64-bit little-endian files.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_IDENT = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_LOAD, _SYMTAB, _DYNSYM, _FUNCTION = 1, 2, 11, 2
_PAGE_BYTES = mmap.PAGESIZE
_MAPPING = re.compile(r"^([0-9a-f]+)-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ \d+ +(/.*)$")


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file that a process has mapped. `start` is where its first byte is; `path` as the process sees it."""

    start: int
    path: str


def mapped_files(pid: int) -> tuple[Mapped, ...]:
    """Every file of which the process has mapped the beginning. Raises OSError when it may not be read."""
    found: dict[str, Mapped] = {}
    for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
        match = _MAPPING.match(line)
        if match and int(match[2], 16) == 0:
            found.setdefault(match[3], Mapped(int(match[1], 16), match[3]))
    return tuple(found.values())


def functions(pid: int, file: Mapped, names: Collection[str]) -> dict[str, int]:
    """The address in the process of each of the functions that `file` defines. Empty for what is no ELF
    file.
    """
    try:
        with Path(f"/proc/{pid}/root{file.path}").open("rb") as opened:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[: len(_IDENT)] != _IDENT:
                    return {}
                bias = file.start - _first_address(data)
                return {name: bias + value for name, value in _defined(data, frozenset(names))}
    except (OSError, ValueError, struct.error):  # gone, empty, or cut short
        return {}


def _first_address(data: mmap.mmap) -> int:
    """The address that the file asks for its first page: 0 unless it is linked to a fixed place."""
    header = _HEADER.unpack_from(data)
    offset, size, count = header[5], header[9], header[10]
    for at in range(count):
        kind, _, start, address, *_ = _SEGMENT.unpack_from(data, offset + at * size)
        if kind == _LOAD and start < _PAGE_BYTES:
            return int(address) // _PAGE_BYTES * _PAGE_BYTES
    return 0


def _defined(data: mmap.mmap, names: frozenset[str]) -> Iterator[tuple[str, int]]:
    header = _HEADER.unpack_from(data)
    offset, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(data, offset + at * size) for at in range(count)]
    wanted = {name.encode(): name for name in names}
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind not in (_SYMTAB, _DYNSYM):
            continue
        strings = sections[link][4]
        table = data[start : start + length - length % _SYMBOL.size]
        for name_at, info, _, section, value, _ in _SYMBOL.iter_unpack(table):
            if section and info & 0xF == _FUNCTION:
                begin = strings + name_at
                name = wanted.get(data[begin : data.find(b"\0", begin)])
                if name is not None:
                    yield name, value
