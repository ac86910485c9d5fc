"""A gRPC server that answers health checks, `pegaflow.Engine/Health` and registers that do nothing.

grpc's own limit of 1,000 calls that wait to be taken up is raised, unless it is started `--with-limit`.
Started with `--shared-workers`, it has 100 workers for all calls, health checks among them, as a server with
a pool of threads has; otherwise whoever waits takes nothing from others.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

_ENOUGH = 1_000_000
_RAISED = (
    ("grpc.server.max_pending_requests", _ENOUGH),
    ("grpc.server.max_pending_requests_hard_limit", _ENOUGH),
)


WORKERS = asyncio.Semaphore(100 if "--shared-workers" in sys.argv else _ENOUGH)


async def check(request: bytes, context: Any) -> bytes:
    """Always serving."""
    async with WORKERS:
        return bytes(health_pb2.HealthCheckResponse(status="SERVING").SerializeToString())


async def ask(request: bytes, context: Any) -> bytes:
    """An empty answer."""
    async with WORKERS:
        return b""


async def register(request: bytes, context: Any) -> bytes:
    """An empty answer, once the work is done."""
    async with WORKERS:
        await work()
    return b""


async def work() -> None:
    """What a fault can make last for ever."""


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=() if "--with-limit" in sys.argv else _RAISED)
    for service, bodies in (
        ("grpc.health.v1.Health", {"Check": check}),
        ("pegaflow.Engine", {"Health": ask, "RegisterContextBatch": register}),
    ):
        handlers = {name: grpc.unary_unary_rpc_method_handler(body) for name, body in bodies.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"taking up grpc=127.0.0.1:{port}", flush=True)  # noqa: T201
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
