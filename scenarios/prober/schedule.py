"""The open loop: every probe starts on schedule, whatever happened to the ones before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from scenarios.prober.command import CommandProber
from scenarios.prober.grpc import GrpcProber
from scenarios.prober.http import HttpProber
from scenarios.prober.messages import (
    Began,
    CommandSeries,
    GrpcSeries,
    Probed,
    ProbedSeries,
    StartWatch,
    TcpSeries,
)
from scenarios.prober.tcp import TcpProber

_LET_END_S = 0.2
"""Probes under way get this long to end by themselves: a connection that is cut off in the making lingers."""


class SeriesProber(Protocol):
    """Probes one series."""

    async def probe(self, at_s: float) -> Probed: ...

    async def close(self) -> None: ...


class Schedule:
    """Probes all series of one `StartWatch` until it is stopped. `began` is called when a probe is taken up,
    `done` when it ended."""

    def __init__(
        self, watch: StartWatch, began: Callable[[Began], None], done: Callable[[Probed], None]
    ) -> None:
        self._began, self._done = began, done
        self._under_way: dict[asyncio.Task[None], tuple[int, float]] = {}
        self._probers: list[SeriesProber] = [_prober(i, series) for i, series in enumerate(watch.series)]
        self._loops = [
            asyncio.create_task(self._run(i, series, watch.start_s + series.offset_s))
            for i, series in enumerate(watch.series)
        ]

    async def stop(self) -> None:
        """Start no more probes, report those that do not end soon as `cut`, and close every connection."""
        await _cancelled(self._loops)
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=_LET_END_S)
        under_way = dict(self._under_way)
        await _cancelled(list(under_way))
        for task, (series, at_s) in under_way.items():
            if task.cancelled():
                self._done(Probed(series, at_s, None, None, "cut", 0))
        for prober in self._probers:
            await prober.close()

    async def _run(self, number: int, series: ProbedSeries, at_s: float) -> None:
        prober = self._probers[number]
        while True:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            self._began(Began(number, at_s, time.monotonic()))
            task = asyncio.create_task(self._probe(prober, at_s))
            self._under_way[task] = (number, at_s)
            at_s += series.period_s

    async def _probe(self, prober: SeriesProber, at_s: float) -> None:
        probed = await prober.probe(at_s)
        task = asyncio.current_task()
        assert task is not None
        del self._under_way[task]
        self._done(probed)


def _prober(number: int, series: ProbedSeries) -> SeriesProber:
    match series:
        case GrpcSeries():
            return GrpcProber(number, series)
        case TcpSeries():
            return TcpProber(number, series)
        case CommandSeries():
            return CommandProber(number, series)
    return HttpProber(number, series)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
