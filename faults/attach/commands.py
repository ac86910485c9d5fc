"""The commands for gdb that load the agent."""

from __future__ import annotations

from collections.abc import Sequence

from faults.attach import trampoline
from faults.attach.seats import Seat
from faults.attach.target import Target

_SEATS_TRIED = 16
_PAGE_BYTES = 4096
_PAGE = (0, _PAGE_BYTES, 0x5, 0x22, -1, 0)  # readable and executable, private and anonymous: mmap(2)
_PRESETS = (
    "auto-load no", "debuginfod enabled off", "auto-solib-add off", "libthread-db-search-path /nonexistent",
    "exec-file-mismatch off", "pagination off", "confirm off", "width 0", "language c", "unwindonsignal on",
    "print thread-events off", "debug-file-directory /nonexistent", "sysroot /nonexistent",
)  # fmt: skip


def write(target: Target, source: str, seats: Sequence[Seat]) -> str:
    """The commands that load `source`, in a new thread if there are `seats` to start it from, else queued.

    gdb then says `wedge: WORD`, of loaded, moved, uninitialised, nopage, full, nothread.
    """
    lines = [
        *(f"set {preset}" for preset in _PRESETS),
        f"file /proc/{target.pid}/exe",
        f"attach {target.pid}",
    ]
    if seats:
        here = " || ".join(
            f"((unsigned long) $sp == {seat.stack} && (unsigned long) $pc == {seat.instruction})"
            for seat in seats[:_SEATS_TRIED]
        )
        lines += [
            "set $found = 0", "set $at = 1",
            "while $at <= $_inferior_thread_count && !$found",
            "  thread $at", f"  if {here}", "    set $found = 1", "  end", "  set $at = $at + 1",
            "end", *_give_up_if("!$found", "moved"),
        ]  # fmt: skip
    lines += [
        *_give_up_if(f"{_call(target, 'int', 'Py_IsInitialized')} == 0", "uninitialised"),
        f"set $page = {_call(target, 'long', 'mmap', *_PAGE)}",
        *_give_up_if("$page == -1", "nopage"),
    ]
    return "\n".join([*lines, *(_in_a_thread(target, source) if seats else _pending(target, source)),
                      'printf "wedge: loaded\\n"', "detach", "quit", ""])  # fmt: skip


def _give_up_if(condition: str, word: str) -> list[str]:
    return [f"if {condition}", f'  printf "wedge: {word}\\n"', "  detach", "  quit", "end"]


def _call(target: Target, returns: str, name: str, *arguments: object) -> str:
    given = ", ".join(f"(unsigned long) {argument}" for argument in arguments)
    takes = ", ".join("unsigned long" for _ in arguments) or "void"
    return f"(({returns} (*)({takes})) {target.functions[name]})({given})"


def _in_a_thread(target: Target, source: str) -> list[str]:
    functions = target.functions
    content = trampoline.page(
        0, source, ensure=functions["PyGILState_Ensure"], run=functions["PyRun_SimpleString"],
        release=functions["PyGILState_Release"],
    )  # fmt: skip
    start = _call(target, "long", "PyThread_start_new_thread", "$page", f"($page + {trampoline.TABLE_AT})")
    return [
        *_written(content),
        f"set {{unsigned long}} ($page + {trampoline.TABLE_AT}) = $page + {trampoline.SOURCE_AT}",
        *_give_up_if(f"{start} == -1", "nothread"),
    ]


def _pending(target: Target, source: str) -> list[str]:
    add = _call(target, "int", "Py_AddPendingCall", target.functions["PyRun_SimpleString"], "$page")
    return [*_written(source.encode() + b"\0"), *_give_up_if(f"{add} != 0", "full")]


def _written(content: bytes) -> list[str]:
    """Write to the page, eight bytes at a time; a debugger may write where the process itself may not."""
    if len(content) > _PAGE_BYTES:
        raise ValueError(f"{len(content)} bytes do not fit into a page")
    padded = content.ljust(-(-len(content) // 8) * 8, b"\0")
    return [
        f"set {{unsigned long}} ($page + {at}) = {int.from_bytes(padded[at : at + 8], 'little')}"
        for at in range(0, len(padded), 8)
    ]
