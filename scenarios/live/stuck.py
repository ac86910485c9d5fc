"""Which thread is stuck where, from the texts of `faults.Fault.stacks`.

Those come in two forms: the agent's, Python's own (`traceback.format_stack`, the innermost frame last), and
py-spy's, read from outside (`py-spy dump`, the innermost frame first).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

_AGENT_THREAD = re.compile(r"thread \d+ of process (\d+):")
_AGENT_FRAME = re.compile(r'\s+File "(.+)", line (\d+), in (.+)')
_SPY_PROCESS = re.compile(r"Process (\d+):")
_SPY_THREAD = re.compile(r'Thread (\d+) \([^)]*\)(?:: "(.*)")?')
_SPY_FRAME = re.compile(r"\s+(\S.*) \((.+):(\d+)\)")
_OURS = ("faults/agent/", "faults/catalogue/")
_WAITS = "wait_for_end"


@dataclass(frozen=True, slots=True)
class Frame:
    """One call."""

    function: str
    file: str
    line: int

    @property
    def ours(self) -> bool:
        """Whether it belongs to the fault, and not to the target."""
        return any(part in self.file for part in _OURS)

    def __str__(self) -> str:
        return f"{self.function} {PurePath(self.file).name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Stuck:
    """A thread, the innermost frame first. `in_fault`: it waits in the fault itself."""

    pid: int
    name: str
    frames: tuple[Frame, ...]
    in_fault: bool

    def __str__(self) -> str:
        theirs = [frame for frame in self.frames if not frame.ours]
        if not theirs and self.in_fault:
            return f"a thread of the fault itself in {self.pid}"
        return f"{self.name} of {self.pid}: {' ← '.join(map(str, theirs)) or 'outside Python'}"


def stuck(texts: Iterable[str]) -> tuple[Stuck, ...]:
    """The threads worth a look: those inside the fault, and the main thread where it was seen."""
    threads = [thread for text in texts for thread in _threads(text.splitlines())]
    chosen = [thread for thread in threads if thread.in_fault]
    return tuple(
        chosen + [t for t in threads if not t.in_fault and t.name in ("MainThread", "the main thread")]
    )


def _threads(lines: Sequence[str]) -> Iterable[Stuck]:
    pid, name, frames, innermost_last = 0, "", list[Frame](), False
    for line in [*lines, ""]:
        if not line or _AGENT_THREAD.match(line) or _SPY_THREAD.match(line):
            if frames:
                yield _thread(pid, name, frames, innermost_last)
            frames = []
        if found := _SPY_PROCESS.match(line):
            pid = int(found[1])
        elif found := _AGENT_THREAD.match(line):
            pid, name, innermost_last = int(found[1]), "a thread", True
        elif found := _SPY_THREAD.match(line):
            main = int(found[1]) == pid
            name, innermost_last = found[2] or ("the main thread" if main else f"thread {found[1]}"), False
        elif found := _AGENT_FRAME.match(line):
            frames.append(Frame(found[3], found[1], int(found[2])))
        elif found := _SPY_FRAME.match(line):
            frames.append(Frame(found[1], found[2], int(found[3])))


def _thread(pid: int, name: str, frames: Sequence[Frame], innermost_last: bool) -> Stuck:
    ordered = tuple(reversed(frames)) if innermost_last else tuple(frames)
    return Stuck(pid, name, ordered, any(f.ours and f.function == _WAITS for f in ordered))
