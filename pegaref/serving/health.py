"""Liveness and readiness, on both wires. Both are read from memory; neither ever asks an actor.

Liveness says that the control process runs, and nothing else: a wedged GPU must not get it restarted.
Readiness says whether work would be accepted, and if not, why, device by device.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from typing import Any

from grpc_health.v1 import health_pb2

from pegaref.clock import Clock, Timer
from pegaref.registry.snapshot import DeviceSnapshot, RegistrySnapshot

SERVING: int = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

LIVENESS_SERVICES = frozenset({"", "liveness"})
READINESS_SERVICES = frozenset({"readiness", "pegaflow.Engine"})

# A watcher hears of a change at most this late. The snapshot has no bell to ring: it is read.
WATCH_PERIOD_S = 0.1


class Stage(StrEnum):
    """Where the server is in its life."""

    SERVING = "serving"
    STOPPING = "stopping"


class Health:
    """What the probes are told. Used from one event loop only."""

    def __init__(self, snapshot: Callable[[], RegistrySnapshot], clock: Clock) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._stage = Stage.SERVING
        self._change: asyncio.Future[None] | None = None  # done at the next change; None while nobody waits
        self._waiting = 0
        self._seen = False  # readiness when the waiting began
        self._timer: Timer | None = None

    @property
    def ready(self) -> bool:
        """Whether work would be accepted on every device."""
        return self._stage is Stage.SERVING and self._snapshot().ready

    def stop(self) -> None:
        """Not ready any more, for good; watchers hear of it at once. Liveness stays."""
        self._stage = Stage.STOPPING
        self._ring()

    def status(self, service: str) -> int | None:
        """The status of a name of `grpc.health.v1`; None for an unknown one."""
        if service in LIVENESS_SERVICES:
            return SERVING
        if service in READINESS_SERVICES:
            return SERVING if self.ready else NOT_SERVING
        return None

    def report(self, *, tracebacks: bool) -> dict[str, Any]:
        """Readiness with its reasons, as JSON values. `tracebacks` are not for everybody's eyes."""
        snapshot = self._snapshot()
        return {
            "ready": self._stage is Stage.SERVING and snapshot.ready,
            "stage": str(self._stage),
            "devices": {
                str(number): _device(device, tracebacks=tracebacks)
                for number, device in snapshot.devices.items()
            },
        }

    async def watch(self, service: str) -> AsyncIterator[int | None]:
        """The status now, and again whenever it changes."""
        last: int | None = -1
        while True:
            status = self.status(service)
            if status == last:
                await self._changed()
            else:
                last = status
                yield status

    async def _changed(self) -> None:
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
            self._seen = self.ready
            self._look_later()
        self._waiting += 1
        try:
            await asyncio.shield(self._change)
        finally:
            self._waiting -= 1

    def _look_later(self) -> None:
        self._timer = self._clock.call_at(self._clock.now() + WATCH_PERIOD_S, self._look)

    def _look(self) -> None:
        if self.ready != self._seen or not self._waiting:
            self._ring()
        else:
            self._look_later()

    def _ring(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._change is not None:
            self._change.set_result(None)
            self._change = None


def _device(device: DeviceSnapshot, *, tracebacks: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"ready": device.ready, "phase": str(device.phase), "epoch": device.epoch}
    if device.pid is not None:
        report["pid"] = device.pid
    if not device.ready:
        report["reason"] = device.reason
    if device.hang is not None:
        report["hang"] = str(device.hang)
        report["hang_age_s"] = round(device.hang_age_s, 3)
    if device.traceback and tracebacks:
        report["traceback"] = device.traceback
    return report
