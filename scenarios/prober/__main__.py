"""`python -m scenarios.prober`: commands on stdin, reports on stdout, one JSON line each.

A process of its own, so that neither the target nor the runner can make it late. It ends when its stdin
closes, and at once when the runner dies without closing it. The commands that it runs end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
import time

import msgspec
import psutil

from scenarios import child
from scenarios.prober.command import end_strays
from scenarios.prober.messages import (
    HEARTBEAT_S,
    Batch,
    Began,
    Paused,
    Probed,
    ProberCommand,
    ProberReport,
    StartWatch,
)
from scenarios.prober.schedule import Schedule

_NICER_BY = -10
_PR_SET_CHILD_SUBREAPER = 36


class _Outbox:
    """Collects ended probes and writes them in batches, since one line for many probes costs less."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._probed: list[Probed] = []
        self._began: list[Began] = []
        self._encoder = msgspec.json.Encoder()

    def done(self, probed: Probed) -> None:
        self._probed.append(probed)

    def began(self, began: Began) -> None:
        self._began.append(began)

    def flush(self) -> None:
        self.send(Batch(time.monotonic(), tuple(self._began), tuple(self._probed), time.process_time()))
        self._began.clear()
        self._probed.clear()

    def send(self, report: ProberReport) -> None:
        self._writer.write(self._encoder.encode(report) + b"\n")


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = await child.read_stdin()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    outbox = _Outbox(asyncio.StreamWriter(transport, protocol, None, loop))
    decoder = msgspec.json.Decoder(ProberCommand)
    beat = asyncio.create_task(_beat(outbox))
    schedule: Schedule | None = None
    try:
        while line := await reader.readline():
            command = decoder.decode(line)
            if schedule is not None:
                await schedule.stop()
                end_strays()
                schedule = None
            if isinstance(command, StartWatch):
                schedule = Schedule(command, outbox.began, outbox.done)
            else:
                outbox.flush()
                outbox.send(Paused(await _open_connections()))
    finally:
        beat.cancel()
        if schedule is not None:
            await schedule.stop()
            end_strays()


async def _open_connections() -> int:
    """How many connections are open after a garbage collection, without which grpc keeps some."""
    left = len(psutil.Process().net_connections("inet"))
    if left:
        await asyncio.sleep(HEARTBEAT_S)
        gc.collect()
        left = len(psutil.Process().net_connections("inet"))
    return left


async def _beat(outbox: _Outbox) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        outbox.flush()


def _end_at_once(*_: object) -> None:
    """SIGTERM is what the kernel sends when the runner is dead."""
    end_strays()
    os._exit(1)


def main() -> None:
    """Set up the process, then serve commands until stdin closes."""
    signal.signal(signal.SIGTERM, _end_at_once)
    child.tie_to_runner(signal.SIGTERM)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with contextlib.suppress(PermissionError):
        os.nice(_NICER_BY)  # it needs little CPU time, but on a busy machine it needs it on time
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would look like a slow target; the process lives for minutes
    asyncio.run(_main())


if __name__ == "__main__":
    main()
