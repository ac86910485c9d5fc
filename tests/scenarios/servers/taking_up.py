"""A gRPC server that answers health checks and `pegaflow.Engine/Health`, and does nothing else.

grpc's own limit of 1,000 calls that wait to be taken up is raised, unless it is started `--with-limit`.
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


async def check(request: bytes, context: Any) -> bytes:
    """Always serving."""
    return bytes(health_pb2.HealthCheckResponse(status="SERVING").SerializeToString())


async def ask(request: bytes, context: Any) -> bytes:
    """An empty answer."""
    return b""


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=() if "--with-limit" in sys.argv else _RAISED)
    for service, method, body in (
        ("grpc.health.v1.Health", "Check", check),
        ("pegaflow.Engine", "Health", ask),
    ):
        handlers = {method: grpc.unary_unary_rpc_method_handler(body)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"taking up grpc=127.0.0.1:{port}", flush=True)  # noqa: T201
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
