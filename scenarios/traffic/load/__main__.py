"""`python -m scenarios.traffic.load`: loads, told on stdin, with reports on stdout, one JSON line each.

A process of its own, so that what the load costs makes neither the prober nor the runner late. It ends when
its stdin closes, and is killed by the kernel when the runner dies without closing it.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path
from typing import Protocol

import msgspec

from scenarios import child
from scenarios.spec import HttpProbe
from scenarios.spec.loads import Idle, Scrape, SlowLoris
from scenarios.traffic.load.connections import IdleConnections, SlowConnections
from scenarios.traffic.load.messages import (
    BeginLoads,
    CannotLoad,
    Cleaned,
    CleanUp,
    GeneratedLoad,
    LoadCommand,
    LoadReport,
    LoadsStopped,
    LoadTally,
    OpenWindow,
    StopLoads,
    Tallied,
    Up,
)
from scenarios.traffic.load.scrape import ScrapingConnections

_SPARE_DESCRIPTORS = 64


class _Traffic(Protocol):
    """One load."""

    descriptors: int

    async def begin(self) -> None: ...

    def watch(self) -> None: ...

    def tally(self) -> LoadTally: ...

    async def stop(self) -> None: ...

    async def clean_up(self, within_s: float) -> tuple[str, ...]: ...


class _TooFewDescriptors(Exception):
    """The hard limit on open files is below what the loads need."""


async def _main() -> None:
    reader = await child.read_stdin()
    decoder = msgspec.json.Decoder(LoadCommand)
    traffic: list[_Traffic] = []
    while line := await reader.readline():
        match decoder.decode(line):
            case BeginLoads() as begin:
                traffic = [_traffic(load, begin) for load in begin.loads]
                try:
                    _allow_descriptors(sum(one.descriptors for one in traffic))
                except _TooFewDescriptors as error:
                    _say(CannotLoad(str(error)))
                    return
                await asyncio.gather(*(one.begin() for one in traffic))
                _say(Up())
            case OpenWindow():
                for one in traffic:
                    one.watch()
                _say(_tallied(traffic))
            case StopLoads():
                _say(_tallied(traffic))
                await asyncio.gather(*(one.stop() for one in traffic))
                _say(LoadsStopped())
            case CleanUp(within_s):
                left = await asyncio.gather(*(one.clean_up(within_s) for one in traffic))
                _say(Cleaned(tuple(text for texts in left for text in texts)))
    # The runner wants no more of it, or is gone: the kernel closes what is open.


def _traffic(load: GeneratedLoad, begin: BeginLoads) -> _Traffic:
    if isinstance(load, Idle | SlowLoris | Scrape):
        probe = next(probe for probe in begin.spec.probe if probe.name == load.probe)
        if isinstance(load, Idle):
            return IdleConnections(load, probe, begin.names)
        if isinstance(load, SlowLoris):
            return SlowConnections(load, probe, begin.names)
        assert isinstance(probe, HttpProbe)
        return ScrapingConnections(load, probe, begin.names)
    from scenarios.traffic.load.storm import CallStorm  # grpc takes longer to load than everything else

    return CallStorm(load, begin.spec, Path(begin.folder), begin.names)


def _allow_descriptors(wanted: int) -> None:
    needed = wanted + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < needed:
        raise _TooFewDescriptors(
            f"the loads need {needed} open files and {hard} are allowed: "
            f"raise the limit with `ulimit -n {needed}`, or lower the loads' counts"
        )
    if resource.RLIM_INFINITY != soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _tallied(traffic: list[_Traffic]) -> Tallied:
    return Tallied(time.monotonic(), tuple(one.tally() for one in traffic), time.process_time())


def _say(report: LoadReport) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Set up the process, then serve commands until stdin closes."""
    child.tie_to_runner()
    asyncio.run(_main())


if __name__ == "__main__":
    main()
