"""A pile of calls under a fault: when each began, when it ended, and how."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from scenarios.errors import CallFailed
from scenarios.record import CallRecord, relative
from scenarios.spec import Call
from scenarios.traffic.caller import Caller

_ERRORS_SHOWN = 3


@dataclass(slots=True)
class _CallState:
    n: int
    began_s: float
    ended_s: float | None = None
    error: str | None = None
    answer: str = ""


class ConcurrentCalls:
    """`count` calls, numbered from `first`, all under way at once. Times are `time.monotonic()` seconds."""

    def __init__(
        self, caller: Caller, call: Call, count: int, deadline_s: float | None = None, *, first: int = 1
    ) -> None:
        self._call = call
        self._entries = [_CallState(n, time.monotonic()) for n in range(first, first + count)]
        self._tasks = [asyncio.create_task(self._one(caller, entry, deadline_s)) for entry in self._entries]

    @property
    def started(self) -> int:
        """How many calls were started."""
        return len(self._entries)

    @property
    def last_began_s(self) -> float:
        """When the last of them began."""
        return max(entry.began_s for entry in self._entries)

    @property
    def pending(self) -> int:
        """How many have not ended."""
        return sum(entry.ended_s is None for entry in self._entries)

    @property
    def errors(self) -> int:
        """How many ended with something else than the answer they should have had."""
        return sum(entry.error is not None for entry in self._entries)

    @property
    def answered(self) -> int:
        """How many ended with the answer they should have had."""
        return self.started - self.pending - self.errors

    async def ended(self, within_s: float) -> bool:
        """Wait until all have ended, at most `within_s`; whether they have."""
        if not self._tasks:
            return True
        done, pending = await asyncio.wait(self._tasks, timeout=within_s)
        for task in done:
            task.result()
        return not pending

    async def abandon(self) -> None:
        """Cancel what is still under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def records(self, origin_s: float) -> tuple[CallRecord, ...]:
        """The calls for the report, with times relative to `origin_s`."""
        return tuple(
            CallRecord(
                n=entry.n,
                name=self._call.name,
                began_s=relative(entry.began_s, origin_s),
                ended_s=relative(entry.ended_s, origin_s),
                outcome="pending" if entry.ended_s is None else "error" if entry.error else "answered",
                detail=entry.error or entry.answer,
            )
            for entry in self._entries
        )

    def longest_s(self) -> float:
        """How long the slowest call took; a pending call counts until now."""
        now_s = time.monotonic()
        took = [(now_s if e.ended_s is None else e.ended_s) - e.began_s for e in self._entries]
        return max(took, default=0.0)

    def errors_in_words(self) -> str:
        """The first few different errors, each once."""
        errors = list(dict.fromkeys(entry.error for entry in self._entries if entry.error is not None))
        more = [f"and {len(errors) - _ERRORS_SHOWN} more"] if len(errors) > _ERRORS_SHOWN else []
        return "; ".join([*errors[:_ERRORS_SHOWN], *more])

    async def _one(self, caller: Caller, entry: _CallState, deadline_s: float | None) -> None:
        try:
            entry.answer = await caller.make(self._call, entry.n, deadline_s)
        except CallFailed as error:
            entry.error = str(error) or "failed"
        entry.ended_s = time.monotonic()
