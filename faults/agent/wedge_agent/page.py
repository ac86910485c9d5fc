"""One page of memory that a fault in a target shares with the controller.

The target writes and the controller reads, without asking each other, so a process whose GIL is held can
still be observed. One word goes the other way: whoever ends the fault writes `released`, for a GPU that waits
on memory instead of the lifeline. All words are unsigned 64-bit in native order. Times are CLOCK_MONOTONIC in
nanoseconds, which all processes of one machine share; zero means that the event has not happened.
"""

from __future__ import annotations

import mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZE_BYTES = 4096
WORDS = (
    "calls",  # calls that reached the fault and matched its trigger's conditions on arguments
    "hits",  # calls that the fault acted on
    "inside",  # how many threads or tasks are in it right now
    "first_hit_ns",
    "first_inside_ns",
    "since_ns",  # since when at least one is inside; 0 if none is
    "held_ns",  # how long at least one was inside, without the current stay
    "tid",  # the thread that went in last, as the kernel numbers it
    "gil_held",  # how many of those inside keep the GIL
    "released",  # 1 once the fault is over
)
# the threads inside, as far as there is room; 0 marks a free place
_THREADS = slice(len(WORDS), len(WORDS) + 64)
CALLS, HITS, INSIDE, FIRST_HIT, FIRST_INSIDE, SINCE, HELD, TID, GIL_HELD, RELEASED = range(len(WORDS))


class Page:
    """The words of one page, by number."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE_BYTES)
        self.words = memoryview(self._map).cast("Q")

    def read(self) -> dict[str, int]:
        """The value of every word, by its name."""
        return dict(zip(WORDS, self.words))

    def threads(self) -> list[int]:
        """The threads that are inside right now, as the kernel numbers them, each once; at most 64."""
        return sorted({tid for tid in self.words[_THREADS].tolist() if tid})

    def enter(self, tid: int) -> None:
        """Name a thread as inside, if there is room."""
        self._exchange(0, tid)

    def leave(self, tid: int) -> None:
        """Remove one mention of a thread."""
        self._exchange(tid, 0)

    def _exchange(self, one: int, other: int) -> None:
        for at in range(_THREADS.start, _THREADS.stop):
            if self.words[at] == one:
                self.words[at] = other
                return

    def pinned(self) -> Any:
        """A ctypes value that lies where the page begins; the page cannot be closed while it lives."""
        import ctypes

        return ctypes.c_char.from_buffer(self._map)

    def close(self) -> None:
        """Unmap the page, after which it cannot be read."""
        self.words.release()
        self._map.close()
