"""The open loop: every probe starts when the schedule says, however the ones before it fared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from scenarios.prober.grpc import GrpcProber
from scenarios.prober.http import HttpProber
from scenarios.prober.messages import Began, GrpcLane, Lane, Probed, TcpLane, Watch
from scenarios.prober.tcp import TcpProber

_LET_END_S = 0.2
"""Probes under way get this long to end by themselves: a connection that is cut off in the making lingers."""


class LaneProber(Protocol):
    """Probes one lane."""

    async def probe(self, at_s: float) -> Probed: ...

    async def close(self) -> None: ...


class Schedule:
    """Probes all lanes of one `Watch` until it is stopped. `began` is called when a probe is taken up,
    `done` when it ended."""

    def __init__(self, watch: Watch, began: Callable[[Began], None], done: Callable[[Probed], None]) -> None:
        self._began, self._done = began, done
        self._under_way: dict[asyncio.Task[None], tuple[int, float]] = {}
        self._probers: list[LaneProber] = [_prober(i, lane) for i, lane in enumerate(watch.lanes)]
        self._loops = [
            asyncio.create_task(self._run(i, lane, watch.start_s + lane.offset_s))
            for i, lane in enumerate(watch.lanes)
        ]

    async def stop(self) -> None:
        """Start nothing more, report what does not end soon as `cut`, close every connection."""
        await _cancelled(self._loops)
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=_LET_END_S)
        under_way = dict(self._under_way)
        await _cancelled(list(under_way))
        for task, (lane, at_s) in under_way.items():
            if task.cancelled():
                self._done(Probed(lane, at_s, None, None, "cut", 0))
        for prober in self._probers:
            await prober.close()

    async def _run(self, number: int, lane: Lane, at_s: float) -> None:
        prober = self._probers[number]
        while True:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            self._began(Began(number, at_s, time.monotonic()))
            task = asyncio.create_task(self._probe(prober, at_s))
            self._under_way[task] = (number, at_s)
            at_s += lane.period_s

    async def _probe(self, prober: LaneProber, at_s: float) -> None:
        probed = await prober.probe(at_s)
        task = asyncio.current_task()
        assert task is not None
        del self._under_way[task]
        self._done(probed)


def _prober(number: int, lane: Lane) -> LaneProber:
    if isinstance(lane, GrpcLane):
        return GrpcProber(number, lane)
    return TcpProber(number, lane) if isinstance(lane, TcpLane) else HttpProber(number, lane)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
