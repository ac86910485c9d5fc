"""Growing pauses between attempts, up to a limit."""

from __future__ import annotations

from collections.abc import Callable

from pegaref.clock import Clock, Timer

_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 2.0


def _doubled(first_s: float, times: int, most_s: float) -> float:
    return float(min(first_s * 2 ** min(times, 30), most_s))


class RespawnBackoff:
    """The pause before an actor is launched again: none the first time, then longer each time."""

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._deaths = 0

    def next_delay_s(self, lived_s: float) -> float:
        """Count a death and return the pause after it, in seconds. The count restarts if the actor had been
        ready (`lived_s`) for at least the longest pause."""
        if lived_s >= self._most_s:
            self._deaths = 0
        self._deaths += 1
        if self._deaths == 1:
            return 0.0
        return _doubled(self._first_s, self._deaths - 2, self._most_s)


class CleanupRetry:
    """The pause before a cleanup that the actor refused is sent again; `on_over` is called when it ends."""

    __slots__ = ("_clock", "_on_over", "_timer")

    def __init__(self, clock: Clock, on_over: Callable[[], None]) -> None:
        self._clock = clock
        self._on_over = on_over
        self._timer: Timer | None = None

    @property
    def pausing(self) -> bool:
        """Whether the pause is on."""
        return self._timer is not None

    def start(self, attempts: int) -> None:
        """Begin the pause. `attempts` counts the attempts after the first."""
        delay_s = _doubled(_RETRY_FIRST_S, attempts, _RETRY_MOST_S)
        self._timer = self._clock.call_at(self._clock.now() + delay_s, self._end)

    def stop(self) -> None:
        """End the pause without calling anyone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        self._on_over()
