"""When a server has settled: its processes, threads and descriptors have stayed the same for two seconds.

A server that says that it is ready may still be starting: workers come one after the other, pools fill. What
it holds then is no measure of what a fault leaves behind, and a worker that comes after a fault was armed is
not broken by it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import msgspec

from scenarios.errors import SetupFailed
from scenarios.server.resources import Holding, not_accepted

QUIET_S = 2.0
"""A server that has not changed for so long has settled."""

_LOOK_EVERY_S = 0.2
_CHANGES_SHOWN = 4


class NeverSettled(SetupFailed):
    """The server went on changing; `changes` are the last ones, in words."""

    def __init__(self, within_s: float, changes: tuple[str, ...]) -> None:
        self.changes = changes
        super().__init__(
            f"it never settled: in {within_s:g} s (ready_within_s) its processes, threads and descriptors "
            f"were never the same for {QUIET_S:g} s; last: {', '.join(changes)}"
        )


class Settling:
    """Readings of what a server holds, and since when nothing has changed.

    A change is more of a kind than was ever counted here, or fewer. So a helper process that comes and goes
    is no change once it was seen to come and to go. `connections`: whether sockets count; while the server is
    probed, those that it accepts come and go. `processes`: how many there were before the first reading;
    another number in that is a change already.
    """

    def __init__(
        self, held: Callable[[], Holding], *, connections: bool, processes: int | None = None
    ) -> None:
        self._held, self._connections = held, connections
        self._bounds: dict[str, tuple[int, int]] = {}
        if processes is not None:
            self._bounds["processes"] = processes, processes
        self._readings: list[tuple[dict[str, int], Holding]] = []
        self._reading: asyncio.Task[None] | None = None
        self._since_s = 0.0
        self.changes: deque[str] = deque(maxlen=_CHANGES_SHOWN)

    async def __aenter__(self) -> Self:
        self.read()
        self._reading = asyncio.create_task(self._read_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reading is not None
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)  # there is no event for another process's threads
            self.read()

    def read(self) -> None:
        """Take a reading now."""
        holding = self._held()
        counts = self._counts(holding)
        changed = [
            f"{kind} {was[0 if count < was[0] else 1]} → {count}"
            for kind, count in counts.items()
            if (was := self._bounds.get(kind)) is not None and not was[0] <= count <= was[1]
        ]
        for kind, count in counts.items():
            low, high = self._bounds.get(kind, (count, count))
            self._bounds[kind] = min(low, count), max(high, count)
        if changed or not self._readings:
            self._since_s = time.monotonic()
            self._readings.clear()
        self.changes += changed
        self._readings.append((counts, holding))

    def _counts(self, holding: Holding) -> dict[str, int]:
        counts: dict[str, int] = msgspec.to_builtins(holding.counts)
        if not self._connections:
            counts["fds"] -= sum(n for name, n in holding.fds.items() if name.startswith("socket:"))
        return {{"fds": "descriptors", "mappings": "shared mappings"}.get(k, k): n for k, n in counts.items()}

    @property
    def quiet(self) -> bool:
        """Whether nothing has changed for long enough."""
        return time.monotonic() - self._since_s >= QUIET_S

    @property
    def usual(self) -> Holding:
        """What it held most often since the last change, and of that the last reading."""
        seen = [counts for counts, _ in self._readings]
        return max(reversed(self._readings), key=lambda reading: seen.count(reading[0]))[1]

    def disturbed(self) -> bool:
        """Whether anything has changed since the first reading that the probes do not explain."""
        if self.changes or self._connections:
            return bool(self.changes)
        return self.quiet and not_accepted(self._readings[0][1], self._readings[-1][1])


async def wait_settled(held: Callable[[], Holding], within_s: float) -> Holding:
    """What a server that is left in peace holds once it has settled. Raises `NeverSettled`."""
    give_up_s = time.monotonic() + within_s
    async with Settling(held, connections=True) as settling:
        while not settling.quiet:
            if time.monotonic() > give_up_s:
                raise NeverSettled(within_s, tuple(settling.changes))
            await asyncio.sleep(_LOOK_EVERY_S)
        return settling.usual
