"""Which thread is stuck where, from what `faults.Fault.threads` sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from faults import Frame, ThreadStack

_OURS = ("faults/agent/", "faults/catalogue/")
_MAIN = "MainThread"


@dataclass(frozen=True, slots=True)
class Stuck:
    """A thread, the innermost frame first. `in_fault`: it waits in the fault itself."""

    pid: int
    name: str
    frames: tuple[Frame, ...]
    in_fault: bool

    def __str__(self) -> str:
        theirs = [frame for frame in self.frames if not _ours(frame)]
        if not theirs and self.in_fault:
            return f"a thread of the fault itself in {self.pid}"
        return f"{self.name} of {self.pid}: {' ← '.join(map(_short, theirs)) or 'outside Python'}"


def stuck(threads: Iterable[ThreadStack]) -> tuple[Stuck, ...]:
    """The threads worth a look: those inside the fault, and the main thread where it was seen."""
    chosen = [thread for thread in threads if thread.inside or thread.name == _MAIN]
    return tuple(
        Stuck(found.thread.pid, found.name or "a thread", found.frames, found.inside)
        for found in sorted(chosen, key=lambda found: not found.inside)
    )


def _ours(frame: Frame) -> bool:
    return any(part in frame.file for part in _OURS)


def _short(frame: Frame) -> str:
    return f"{frame.function} {PurePath(frame.file).name}:{frame.line}"
