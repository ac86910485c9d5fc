"""Machine code that runs one string of Python in a new thread, whoever holds the GIL.

A debugger must not make a thread that it holds wait for the GIL: if the GIL is wedged the wait never ends,
and cutting it short would corrupt the interpreter's locks. A new thread can wait for ever without harm.
"""

from __future__ import annotations

import platform
import struct

_CODE = {
    "x86_64": bytes.fromhex(
        "f30f1efa"  # endbr64
        "53"  # push rbx
        "55"  # push rbp
        "4883ec08"  # sub rsp, 8           the stack is aligned to 16 bytes again
        "4889fb"  # mov rbx, rdi           the table
        "ff5308"  # call [rbx + 8]         PyGILState_Ensure()
        "89c5"  # mov ebp, eax
        "488b3b"  # mov rdi, [rbx]
        "ff5310"  # call [rbx + 16]        PyRun_SimpleString(source)
        "89ef"  # mov edi, ebp
        "ff5318"  # call [rbx + 24]        PyGILState_Release(state)
        "4883c408"  # add rsp, 8
        "5d"  # pop rbp
        "5b"  # pop rbx
        "c3"  # ret
    )
}
TABLE_AT, SOURCE_AT = 64, 96
"""Where in the page the table of four pointers and the text are."""


def supported(machine: str | None = None) -> bool:
    """Whether there is code for this kind of processor."""
    return (machine or platform.machine()) in _CODE


def page(address: int, source: str, *, ensure: int, run: int, release: int) -> bytes:
    """What to write at `address`: `void f(void *table)`, its table at TABLE_AT, the text at SOURCE_AT."""
    code = _CODE[platform.machine()].ljust(TABLE_AT, b"\0")
    table = struct.pack("<4Q", address + SOURCE_AT, ensure, run, release)
    return code + table + source.encode() + b"\0"
