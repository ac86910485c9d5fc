"""gRPC health probes on grpc.aio."""

from __future__ import annotations

import time

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scenarios.address import place
from scenarios.prober.messages import GrpcSeries, Outcome, Probed

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # otherwise a fresh channel would reuse another's connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),  # the minimum stays: grpc takes it for its connect timeout
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # every probe is one question
)
_REFUSED = {grpc.StatusCode.UNAVAILABLE: "refused", grpc.StatusCode.DEADLINE_EXCEEDED: "timeout"}


class GrpcProber:
    """Probes one series. Kept: all probes share one channel, side by side, as HTTP/2 does."""

    def __init__(self, number: int, series: GrpcSeries) -> None:
        self._number, self._series = number, series
        self._serving = tuple(map(health_pb2.HealthCheckResponse.ServingStatus.Value, series.serving))
        self._target = str(place(series.address))
        self._request = health_pb2.HealthCheckRequest(service=series.service)
        self._held: grpc.aio.Channel | None = None

    async def probe(self, at_s: float) -> Probed:
        """Probe once. Never raises but for cancellation."""
        channel = self._held or grpc.aio.insecure_channel(self._target, options=_OPTIONS)
        if self._series.kept:
            self._held = channel
        sent_s = time.monotonic()
        outcome: Outcome
        status = 0
        try:
            status = await self._ask(channel, max(0.001, at_s + self._series.give_up_s - sent_s))
            outcome = "ok" if status in self._serving else "wrong"
        except grpc.aio.AioRpcError as error:
            refused = _REFUSED.get(error.code())
            outcome = "refused" if refused == "refused" else "timeout" if refused == "timeout" else "error"
            if error.code() is grpc.StatusCode.NOT_FOUND and self._series.method is None:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                outcome = "ok" if status in self._serving else "wrong"
        finally:
            ended_s = time.monotonic()
            if not self._series.kept:
                await channel.close(None)
        return Probed(self._number, at_s, sent_s, ended_s, outcome, status)

    async def _ask(self, channel: grpc.aio.Channel, timeout_s: float) -> int:
        """The serving status. For a method, any answer is SERVING."""
        if self._series.method is None:
            answer = await health_pb2_grpc.HealthStub(channel).Check(self._request, timeout=timeout_s)
            return int(answer.status)
        path = f"/{self._series.method.lstrip('/')}"
        invoke = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        await invoke(b"", timeout=timeout_s)
        return int(health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel that is kept open, if there is one."""
        if self._held is not None:
            await self._held.close(None)
