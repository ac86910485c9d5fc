"""Threads in whose name something may be called: those that wait in the kernel, and hold nothing."""

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
    """Threads that wait in the same place of the same system call twice, so that none only passes by.

    None, after a second, if every thread is busy all the while: on a machine with much to do, one that is
    about to wait may have to wait for a CPU first, and looks as busy.
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
