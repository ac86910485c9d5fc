"""Liveness, readiness and `grpc.health.v1`. All are read from memory and never ask an actor.

Liveness says that the control process runs, and nothing else: a wedged GPU must not get it restarted.
Readiness says whether work would be accepted, and if not, why, device by device. Start-up says whether every
device has been ready once, and goes on saying it: until then a kubelet asks for nothing else.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from typing import Any

from grpc_health.v1 import health_pb2

from pegaref.clock import Clock, Timer
from pegaref.registry import DeviceSnapshot, RegistrySnapshot
from pegaref.serving.refusal import NotFound
from pegaref.serving.rpc import CallContext, RpcBody

SERVING: int = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

LIVENESS_SERVICES = frozenset({"", "liveness"})
READINESS_SERVICES = frozenset({"readiness", "pegaflow.Engine"})
STARTUP_SERVICE = "startup"
SERVICES = LIVENESS_SERVICES | READINESS_SERVICES | {STARTUP_SERVICE}

_TRACEBACK_CHARACTERS = 16 * 1024  # of one that is shown; the log has all of it

# The longest delay before a watcher learns of a change. Snapshots send no notice, so they are polled.
WATCH_PERIOD_S = 0.1

_SHOWN = 100  # characters of a name that is not known


class Stage(StrEnum):
    """The stages of a server's life, as `/ready` reports them."""

    SERVING = "serving"
    STOPPING = "stopping"


class Health:
    """What probes are answered. Used from one event loop only."""

    def __init__(
        self, snapshot: Callable[[], RegistrySnapshot], clock: Clock, lost: Callable[[], str] = str
    ) -> None:
        self._snapshot = snapshot
        self._lost = lost  # the part of the server that has died; '' as long as all live
        self._clock = clock
        self._stage = Stage.SERVING
        # resolved at the next change; None while nobody waits
        self._change: asyncio.Future[None] | None = None
        self._waiting = 0
        self._before = (False, False)  # what is watched, when the waiting began
        self._timer: Timer | None = None

    @property
    def ready(self) -> bool:
        """Whether work would be accepted on every device."""
        return self._stage is Stage.SERVING and not self._lost() and self._snapshot().ready

    @property
    def started(self) -> bool:
        """Whether every device has been ready once."""
        return self._snapshot().started

    def stop(self) -> None:
        """End readiness for good, and tell watchers at once. Liveness is not affected."""
        self._stage = Stage.STOPPING
        self._wake_watchers()

    def status(self, service: str) -> int | None:
        """The `grpc.health.v1` status of a service name; None if the name is unknown."""
        if service in LIVENESS_SERVICES:
            return SERVING
        if service in READINESS_SERVICES:
            return SERVING if self.ready else NOT_SERVING
        if service == STARTUP_SERVICE:
            return SERVING if self.started else NOT_SERVING
        return None

    def report(self, *, tracebacks: bool) -> dict[str, Any]:
        """Readiness with its reasons, as JSON values; with `tracebacks` only for callers who may see them."""
        snapshot = self._snapshot()
        lost = self._lost()
        return {
            "ready": self._stage is Stage.SERVING and not lost and snapshot.ready,
            "stage": str(self._stage),
            **({"lost": lost} if lost else {}),
            "devices": {
                str(device_id): _device_json(device, tracebacks=tracebacks)
                for device_id, device in snapshot.devices.items()
            },
        }

    def startup_report(self) -> dict[str, Any]:
        """Whether the server has started, and what each device waits for that has not, as JSON values."""
        devices = self._snapshot().devices
        return {
            "started": self.started,
            "devices": {
                str(device_id): {"started": True}
                if device.started
                else {"started": False, "reason": device.reason}
                for device_id, device in devices.items()
            },
        }

    async def watch(self, service: str) -> AsyncIterator[int | None]:
        """Yields the status now and whenever it changes; None if the name is unknown."""
        last: int | None = -1
        while True:
            status = self.status(service)
            if status == last:
                await self._wait_changed()
            else:
                last = status
                yield status

    async def _wait_changed(self) -> None:
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
            self._before = (self.ready, self.started)
            self._poll_later()
        self._waiting += 1
        try:
            await asyncio.shield(self._change)
        finally:
            self._waiting -= 1

    def _poll_later(self) -> None:
        self._timer = self._clock.call_at(self._clock.now() + WATCH_PERIOD_S, self._poll)

    def _poll(self) -> None:
        self._poll_later()  # before anything can fail
        if (self.ready, self.started) != self._before or not self._waiting:
            self._wake_watchers()

    def _wake_watchers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._change is not None:
            self._change.set_result(None)
            self._change = None


class HealthService:
    """The methods of `grpc.health.v1.Health`."""

    def __init__(self, health: Health) -> None:
        self._health = health

    @property
    def bodies(self) -> Mapping[str, RpcBody]:
        """The methods by name, for `Service`."""
        return {"Check": self.check, "List": self.list, "Watch": self.watch}

    async def check(
        self, request: health_pb2.HealthCheckRequest, context: CallContext
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service. Raises NotFound."""
        status = self._health.status(request.service)
        if status is None:
            known = ", ".join(sorted(repr(name) for name in SERVICES))
            raise NotFound(f"no service {request.service[:_SHOWN]!r} here; known: {known}", field="service")
        return health_pb2.HealthCheckResponse(status=status)

    async def list(
        self, request: health_pb2.HealthListRequest, context: CallContext
    ) -> health_pb2.HealthListResponse:
        """The status of every service."""
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=self._health.status(name))
                for name in sorted(SERVICES)
            }
        )

    async def watch(self, request: health_pb2.HealthCheckRequest, context: CallContext) -> None:
        """Writes the status now and at each change, until the client leaves.

        An unknown name gets SERVICE_UNKNOWN and no error, as the protocol says, since the service may appear
        later.
        """
        async for status in self._health.watch(request.service):
            known = SERVICE_UNKNOWN if status is None else status
            await context.write(health_pb2.HealthCheckResponse(status=known))


def _device_json(device: DeviceSnapshot, *, tracebacks: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"ready": device.ready, "phase": str(device.phase), "epoch": device.epoch}
    if device.device_type:
        report["type"] = device.device_type
    if device.pid is not None:
        report["pid"] = device.pid
    if not device.ready:
        report["reason"] = device.reason
    if device.hang is not None:
        report["hang"] = str(device.hang)
        report["hang_age_s"] = round(device.hang_age_s, 3)
    if device.traceback and tracebacks:
        report["traceback"] = device.traceback[:_TRACEBACK_CHARACTERS]
    return report
