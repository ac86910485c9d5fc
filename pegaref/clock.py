"""Clocks: the registry reads only the clock that it is given. Deadlines are kept in a heap."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

_MARGIN_MOST_S = 0.1
_MARGIN_SHARE = 0.1


def answer_within_s(deadline_s: float) -> float:
    """How long a call may take so that its answer arrives before the caller's deadline, in seconds.

    That is a tenth less than the deadline, but at most 0.1 s less.
    """
    return deadline_s - min(_MARGIN_MOST_S, deadline_s * _MARGIN_SHARE)


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call; does nothing if it was made already."""
        ...


class Clock(Protocol):
    """Monotonic time in seconds, and calls at a later time."""

    def now(self) -> float:
        """Seconds since a fixed moment; never decreases."""
        ...

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, no earlier than `when_s`."""
        ...


class LoopClock:
    """The clock of a running event loop."""

    __slots__ = ("call_at", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now: Callable[[], float] = loop.time
        self.call_at: Callable[[float, Callable[[], None]], Timer] = loop.call_at


class _Deadline:
    __slots__ = ("callback", "heap")

    def __init__(self, callback: Callable[[], None], heap: DeadlineHeap) -> None:
        self.callback: Callable[[], None] | None = callback
        self.heap = heap

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.heap.count_cancelled()


class DeadlineHeap:
    """A clock on top of another, for calls that are nearly always cancelled, as deadlines are.

    Scheduling and cancelling touch a heap and not the event loop, at a tenth of the cost. The event loop has
    one timer for all calls; it is set for the earliest and stays when that one is cancelled.
    """

    COMPACT_FROM = 256

    def __init__(self, clock: Clock) -> None:
        self.now = clock.now
        self._call_at = clock.call_at
        self._heap: list[tuple[float, int, _Deadline]] = []
        self._order = itertools.count()
        self._cancelled = 0  # cancelled calls that are still in the heap
        self._armed: Timer | None = None
        self._armed_s = math.inf

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, no earlier than `when_s`."""
        due = _Deadline(callback, self)
        heapq.heappush(self._heap, (when_s, next(self._order), due))
        if when_s < self._armed_s:
            self._arm(when_s)
        return due

    def stop(self) -> None:
        """Cancel every call."""
        self._heap.clear()
        self._cancelled = 0
        if self._armed is not None:
            self._armed.cancel()
        self._armed, self._armed_s = None, math.inf

    def count_cancelled(self) -> None:
        """Count a cancelled call. Once more than half of the heap is cancelled, those calls are removed."""
        self._cancelled += 1
        if self._cancelled > self.COMPACT_FROM and 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def _arm(self, when_s: float) -> None:
        if self._armed is not None:
            self._armed.cancel()
        self._armed_s = when_s
        self._armed = self._call_at(when_s, self._fire)

    def _fire(self) -> None:
        self._armed, self._armed_s = None, math.inf
        now_s = self.now()
        try:
            while self._heap and (self._heap[0][0] <= now_s or self._heap[0][2].callback is None):
                due = heapq.heappop(self._heap)[2]
                callback, due.callback = due.callback, None
                if callback is None:
                    self._cancelled -= 1
                else:
                    callback()
        finally:  # a call that raises is the event loop's to report, and takes no other with it
            if self._heap and self._heap[0][0] < self._armed_s:
                self._arm(self._heap[0][0])
