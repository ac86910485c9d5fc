"""A server as its libraries' first pages teach it: uvicorn and grpc.aio on one event loop.

It keeps what clients register, tells all of it at `/instances`, logs what it does to stderr, and bounds
nothing that a client can send, since nothing it is made of does. So it goes dark in the suite `hostile`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvicorn
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from scenarios.traffic.proto import build, compiled, method

engine = {
    name: method(compiled(Path(__file__).parent / "pegaflow-engine.proto"), f"pegaflow.Engine/{name}")
    for name in ("RegisterContextBatch", "UnregisterContext", "Session")
}
OK = build(engine["UnregisterContext"].response, {"status": {"ok": True}}).SerializeToString()
log = logging.getLogger("plain")
instances: dict[str, dict[str, Any]] = {}


async def register(request: Any, context: Any) -> bytes:
    """Refuse what has not as much memory as layers; keep everything else."""
    told = MessageToDict(request)
    if len(request.wrapper_bytes) != len(request.num_blocks):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{len(told['layerNames'])} layers do not fit")
    instances[request.instance_id] = told
    log.info("instance %s: registered %d layers", request.instance_id, len(request.layer_names))
    return OK


async def unregister(request: Any, context: Any) -> bytes:
    """Forget an instance."""
    instances.pop(request.instance_id, None)
    log.info("instance %s: unregistered", request.instance_id)
    return OK


async def session(request: Any, context: Any) -> AsyncIterator[bytes]:
    """Open until the client leaves."""
    log.info("session of %s opened", request.instance_id)
    try:
        await asyncio.Event().wait()
        yield b""
    finally:
        log.info("session of %s ended", request.instance_id)


async def health(request: Request) -> Response:
    """Alive."""
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> Response:
    """Ready as soon as it listens."""
    return PlainTextResponse('{"ready": true}\n')


async def metrics(request: Request) -> Response:
    """One gauge."""
    return PlainTextResponse(f"# TYPE plain_instances gauge\nplain_instances {len(instances)}\n")


async def list_instances(request: Request) -> Response:
    """Everything that is registered, for people."""
    return PlainTextResponse(json.dumps(instances, indent=1))


async def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn sends it once more when it has ended
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    calls = grpc.aio.server()
    probed = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(probed, calls)
    await probed.set("", health_pb2.HealthCheckResponse.SERVING)
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "RegisterContextBatch": unary(register, engine["RegisterContextBatch"].request.FromString),
        "UnregisterContext": unary(unregister, engine["UnregisterContext"].request.FromString),
        "Session": stream(session, engine["Session"].request.FromString),
    }
    calls.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pegaflow.Engine", handlers),))
    port = calls.add_insecure_port("127.0.0.1:0")
    await calls.start()
    paths = {"/health": health, "/ready": ready, "/metrics": metrics, "/instances": list_instances}
    app = Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    host, http_port = listener.getsockname()
    print(f"plain listening http={host}:{http_port} grpc={host}:{port}", flush=True)  # noqa: T201
    await uvicorn.Server(uvicorn.Config(app, log_config=None)).serve(sockets=[listener])
    await calls.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
