"""One page of memory that a fault in a target shares with the controller.

The target writes, the controller reads, and neither asks the other: what happens in a process whose GIL is
held can be seen from outside all the same. One word goes the other way: `let_go` is written by whoever ends
the fault, for what waits on memory rather than on the line, as a GPU does. All words are unsigned 64-bit,
native order; times are CLOCK_MONOTONIC in nanoseconds, which all processes of one machine share; zero means
that it has not happened.
"""

from __future__ import annotations

import mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZE_BYTES = 4096
WORDS = (
    "calls",  # what reached the fault and matched its trigger's conditions on arguments
    "hits",  # what the fault acted on
    "inside",  # how many threads or tasks are in it right now
    "first_hit_ns",
    "first_inside_ns",
    "since_ns",  # since when at least one is inside; 0 when none is
    "held_ns",  # for how long at least one was inside, the present stay not counted
    "tid",  # the thread that went in last, as the kernel numbers it
    "gil_held",  # how many of those inside keep the GIL
    "let_go",  # 1 once the fault is over
)
CALLS, HITS, INSIDE, FIRST_HIT, FIRST_INSIDE, SINCE, HELD, TID, GIL_HELD, LET_GO = range(len(WORDS))


class Page:
    """The words of one page, by number."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE_BYTES)
        self.words = memoryview(self._map).cast("Q")

    def read(self) -> dict[str, int]:
        """All words by name."""
        return dict(zip(WORDS, self.words))

    def pinned(self) -> Any:
        """A ctypes value that lies where the page begins; the page cannot be closed while it lives."""
        import ctypes

        return ctypes.c_char.from_buffer(self._map)

    def close(self) -> None:
        """Unmap; the words are gone then."""
        self.words.release()
        self._map.close()
