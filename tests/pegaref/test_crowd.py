"""A burst of calls costs its callers an answer each, and no health check its own."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pegaref.wire import engine_pb2, engine_pb2_grpc
from tests.pegaref.running import DEADLINE_S, Running

pytestmark = pytest.mark.torch

BURST = 6000  # grpc's own limit on calls that wait to be taken up is 1,000, and 3,000 at the most
CHECKS = 50


async def burst(address: str) -> tuple[Counter[str], Counter[str]]:
    """How the calls of the burst ended, and the health checks that came behind them."""

    async def ended(call: grpc.aio.UnaryUnaryCall) -> str:  # type: ignore[type-arg]
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    alone = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(address, options=alone) as crowd,
        grpc.aio.insecure_channel(address, options=alone) as probes,
    ):
        engine = engine_pb2_grpc.EngineStub(crowd)
        health = health_pb2_grpc.HealthStub(probes)
        calls = [
            engine.UnregisterContext(
                engine_pb2.UnregisterRequest(instance_id=f"nobody-{number}"), timeout=DEADLINE_S
            )
            for number in range(BURST)
        ]
        checks = [health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S) for _ in range(CHECKS)]
        codes = await asyncio.gather(*(ended(call) for call in (*calls, *checks)))
    return Counter(codes[:BURST]), Counter(codes[BURST:])


def test_a_burst_of_calls_is_answered_and_cancels_no_health_check(server: Running) -> None:
    calls, checks = asyncio.run(burst(server.grpc))
    assert checks == {"OK": CHECKS}
    assert calls.total() == BURST
    assert "CANCELLED" not in calls
