"""A pile of calls under a fault: when each began, when it ended, and how."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from scenarios.report.model import Call as CallRecord
from scenarios.target import Call
from scenarios.traffic.caller import Caller, CallFailed


@dataclass(slots=True)
class _Entry:
    n: int
    began_s: float
    ended_s: float | None = None
    error: str | None = None
    answer: str = ""


class Pile:
    """`count` calls, all under way at once. Times are `time.monotonic()` seconds."""

    def __init__(self, caller: Caller, call: Call, count: int, deadline_s: float | None = None) -> None:
        self._call = call
        self._entries = [_Entry(n, time.monotonic()) for n in range(1, count + 1)]
        self._tasks = [asyncio.create_task(self._one(caller, entry, deadline_s)) for entry in self._entries]

    @property
    def started(self) -> int:
        """How many calls were started."""
        return len(self._entries)

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
                began_s=round(entry.began_s - origin_s, 4),
                ended_s=None if entry.ended_s is None else round(entry.ended_s - origin_s, 4),
                outcome="pending" if entry.ended_s is None else "error" if entry.error else "answered",
                detail=entry.error or entry.answer,
            )
            for entry in self._entries
        )

    def errors_in_words(self) -> str:
        """The different errors, each once."""
        return "; ".join(dict.fromkeys(entry.error for entry in self._entries if entry.error is not None))

    async def _one(self, caller: Caller, entry: _Entry, deadline_s: float | None) -> None:
        try:
            entry.answer = await caller.make(self._call, entry.n, deadline_s)
        except CallFailed as error:
            entry.error = str(error) or "failed"
        entry.ended_s = time.monotonic()
