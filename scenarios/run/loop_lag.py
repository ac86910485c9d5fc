"""How late the judge's own event loop was. It makes the calls of a scenario and asks the endpoints what they
say: while it stands still, an answer that came in time looks like none.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

_EVERY_S = 0.05

GUARD = "the judge itself was on time"
"""The proof that the machine let the judge read the answers that it judges."""


class LoopLag:
    """Looks twenty times a second, inside the context, at how late it gets to run."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()

    def worst_s(self, from_s: float, to_s: float) -> float:
        """By how many seconds at most it was late between two times (`time.monotonic()`)."""
        return max(
            (ran_s - due_s for due_s, ran_s in self._ticks if due_s < to_s and ran_s > from_s), default=0.0
        )

    async def _look(self) -> None:
        while True:
            due_s = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self._ticks.append((due_s, time.monotonic()))
