"""Calls of the target on a fixed schedule, whatever happened to those before them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec

from scenarios.errors import ScenariosError
from scenarios.spec import Call, Target
from scenarios.spec.loads import Storm
from scenarios.traffic.caller import Caller
from scenarios.traffic.load.messages import LoadTally

_FIRST_NUMBER = 100_001
"""The numbers below are those of the calls piled up under the fault."""

_FIRST_WITHIN_S = 2.0
_UNDONE_AT_ONCE = 32
_SAID_SHOWN = 3
_CONNECTIONS = 64


class CallStorm:
    """A `storm` load."""

    descriptors = _CONNECTIONS

    def __init__(self, load: Storm, spec: Target, folder: Path, names: dict[str, str]) -> None:
        self._load = load
        self._caller = Caller(spec, folder, names)
        self._call = next(call for call in spec.call if call.name == load.call)
        if load.hold_s is not None:
            self._call = msgspec.structs.replace(self._call, hold_s=load.hold_s)
        self._before = self._caller.chain(self._call)
        self._undoes = any(call.undo is not None for call in (*self._before, self._call))
        self._under_way: dict[asyncio.Task[None], int] = {}
        self._to_undo: set[int] = set()
        self._started = self._answered = self._throttled = self._least = 0
        self._said: Counter[str] = Counter()
        self._schedule: asyncio.Task[None] | None = None
        self._first_ended = asyncio.Event()

    async def begin(self) -> None:
        """Begin to call; returns when the first call has ended, at the latest after `_FIRST_WITHIN_S`."""
        self._schedule = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WITHIN_S):
                await self._first_ended.wait()

    def watch(self) -> None:
        """The fewest calls at once are counted from here."""
        self._least = len(self._under_way)

    def tally(self) -> LoadTally:
        """How many calls were started and answered, and how many are under way."""
        return LoadTally(
            started=self._started,
            answered=self._answered,
            errors=self._said.total(),
            open=len(self._under_way),
            least_open=self._least,
            throttled=self._throttled,
            said=tuple(f"{text} (x{times})" for text, times in self._said.most_common(_SAID_SHOWN)),
        )

    async def stop(self) -> None:
        """Stop calling, cancel the calls under way, and close every connection."""
        if self._schedule is not None:
            self._schedule.cancel()
            await asyncio.gather(self._schedule, return_exceptions=True)
        under_way = dict(self._under_way)
        for task in under_way:
            task.cancel()
        for ended in await asyncio.gather(*under_way, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        await self._caller.close()

    async def clean_up(self, within_s: float) -> tuple[str, ...]:
        """Undo every call that may have left something behind; what there was no time for."""
        turns = asyncio.Semaphore(_UNDONE_AT_ONCE)

        async def undo(n: int) -> None:
            async with turns:
                await self._caller.undo(self._call, n, within_s)
                self._to_undo.discard(n)

        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(undo(n) for n in sorted(self._to_undo)))
        except TimeoutError:
            return (f"{len(self._to_undo)} calls of {self._call.name} are not undone",)
        finally:
            await self._caller.close()
        return ()

    async def _run(self) -> None:
        due_s = time.monotonic()
        for n in itertools.count(_FIRST_NUMBER):
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s += 1 / self._load.rate_hz
            if len(self._under_way) >= self._load.at_most:
                self._throttled += 1
                continue
            self._started += 1
            task = asyncio.create_task(self._one(n))
            self._under_way[task] = n

    async def _one(self, n: int) -> None:
        if self._undoes:
            self._to_undo.add(n)
        try:
            for call in self._before:
                await self._make(call, n)
            await self._make(self._call, n)
            self._answered += 1
            if self._undoes:
                await self._caller.undo(self._call, n, self._deadline_s(self._call))
                self._to_undo.discard(n)
        except ScenariosError as error:
            self._said[str(error) or "failed"] += 1
        finally:
            task = asyncio.current_task()
            assert task is not None
            del self._under_way[task]
            self._first_ended.set()
            self._least = min(self._least, len(self._under_way))

    async def _make(self, call: Call, n: int) -> None:
        await self._caller.make(call, n, self._deadline_s(call))

    def _deadline_s(self, call: Call) -> float:
        return call.deadline_s if self._load.deadline_s is None else self._load.deadline_s
