"""A gRPC server without grpc.health.v1 is probed through a method of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from scenarios.prober.grpc import GrpcProber
from scenarios.prober.messages import GrpcSeries, Probed


async def _health(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server with one method, `mine.Engine/Health`, and nothing else."""
    server = grpc.aio.server()
    handlers = {"Health": grpc.unary_unary_rpc_method_handler(_health)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mine.Engine", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def probed(address: str, method: str | None, *, kept: bool = False) -> Probed:
    prober = GrpcProber(0, GrpcSeries(address, kept, 0.1, 0.0, 5.0, method=method))
    try:
        return await prober.probe(time.monotonic())
    finally:
        await prober.close()


@pytest.mark.parametrize("kept", [False, True])
async def test_a_method_that_answers_is_lit(address: str, kept: bool) -> None:
    found = await probed(address, "mine.Engine/Health", kept=kept)

    assert (found.outcome, found.status) == ("ok", 1)


async def test_a_method_that_is_not_there_is_an_error(address: str) -> None:
    assert (await probed(address, "mine.Engine/Helth")).outcome == "error"


async def test_the_same_server_has_no_health_service(address: str) -> None:
    assert (await probed(address, None)).outcome == "error"
