"""Threads that a debugger may use to call a function: those that wait in the kernel and hold no lock."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SAMPLES_APART_S = 0.01
_LOOK_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class Seat:
    """A thread that waits in the kernel, and where it will be found: its stack pointer and its next
    instruction.
    """

    tid: int
    stack: int
    instruction: int


async def find(pid: int) -> list[Seat]:
    """Threads seen twice in the same place of the same system call, so that none is just passing through.

    Empty, after a second, if every thread stays busy. On a loaded machine a thread that is about to wait may
    first wait for a CPU, and looks busy too.
    """
    give_up = time.monotonic() + _LOOK_FOR_S
    before = _waiting(pid)
    while True:
        await asyncio.sleep(_SAMPLES_APART_S)
        after = _waiting(pid)
        found = [
            Seat(tid, int(call[-2], 16), int(call[-1], 16))
            for tid, call in after.items()
            if before.get(tid) == call
        ]
        if found or time.monotonic() >= give_up:
            return found
        before = after


def _waiting(pid: int) -> dict[int, list[str]]:
    found = {}
    for task in sorted(Path(f"/proc/{pid}/task").glob("[0-9]*"), key=lambda task: int(task.name)):
        with suppress(OSError):
            call = (task / "syscall").read_text().split()  # "running", or -1 SP PC, or NUMBER ARG×6 SP PC
            if len(call) == 9:
                found[int(task.name)] = call
    return found
