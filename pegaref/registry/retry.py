"""A pause before a cleanup that was refused is tried again: ever longer, and not for ever."""

from __future__ import annotations

from collections.abc import Callable

from pegaref.clock import Clock, Timer

FIRST_S = 0.05
MOST_S = 2.0


class Retry:
    """One pause at a time; `on_over` is called when it is over."""

    __slots__ = ("_clock", "_on_over", "_timer")

    def __init__(self, clock: Clock, on_over: Callable[[], None]) -> None:
        self._clock = clock
        self._on_over = on_over
        self._timer: Timer | None = None

    @property
    def waiting(self) -> bool:
        """Whether a pause lasts."""
        return self._timer is not None

    def after(self, attempts: int) -> None:
        """Begin the pause that follows so many attempts besides the first."""
        delay_s = min(FIRST_S * 2 ** min(attempts, 30), MOST_S)
        self._timer = self._clock.call_at(self._clock.now() + delay_s, self._over)

    def stop(self) -> None:
        """Forget the pause."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        self._on_over()
