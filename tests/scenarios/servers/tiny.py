"""A server such as people write: health, metrics and GPU work in one process, or the work in a child.

`--place loop` has the bug: the work runs on the event loop that answers `/health`. `--place thread` and
`--place child` are two repairs, of which only the second stands a held GIL. `--leak` never unmaps what
was dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import grpc.aio
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


class Place(Protocol):
    """Where the work runs."""

    async def work(self, what: str, key: str) -> str: ...


def do(what: str, key: str) -> str:
    """The work itself; "" or what went wrong."""
    gpu = importlib.import_module("gpu")  # only where the work runs

    try:
        {"keep": gpu.keep, "drop": gpu.drop, "forget": gpu.forget}[what](key)
    except KeyError as error:
        return f"{error} is taken"
    return ""


class Loop:
    """On the event loop."""

    async def work(self, what: str, key: str) -> str:
        return do(what, key)


class Thread:
    """On a thread."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def work(self, what: str, key: str) -> str:
        async with self._turn:
            return await asyncio.to_thread(do, what, key)


class Child:
    """In a child process, started again when it died."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def work(self, what: str, key: str) -> str:
        async with self._turn:
            try:
                return await self._ask(what, key)
            except (EOFError, ConnectionError):
                await self.start()
                raise

    async def start(self) -> None:
        """Start the child."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--place", "worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await self._ask("drop", "nothing")

    async def _ask(self, what: str, key: str) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {key}\n".encode())
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("the worker died")
        return line.decode().strip()


def worker() -> None:
    """The child: one line in, one line out, until stdin closes."""
    for line in sys.stdin:
        what, _, key = line.strip().partition(" ")
        print(do(what, key), flush=True)  # noqa: T201


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Always SERVING."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: object
    ) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def app(place: Place, *, leak: bool) -> Starlette:
    """The HTTP side."""

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def work(request: Request) -> Response:
        what = request.path_params["what"]
        if what == "drop" and leak:
            what = "forget"
        try:
            wrong = await place.work(what, request.query_params["key"])
        except (EOFError, ConnectionError) as error:
            return PlainTextResponse(str(error), status_code=503)
        return PlainTextResponse(wrong or "done", status_code=409 if wrong else 200)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", health),
            Route("/{what}", work, methods=["POST"]),
        ]
    )


async def serve(where: str, *, leak: bool) -> None:
    """Serve until SIGTERM."""
    kinds: dict[str, Callable[[], Place]] = {"loop": Loop, "thread": Thread, "child": Child}
    place = kinds[where]()
    if isinstance(place, Child):
        await place.start()
    listener = socket.create_server(("127.0.0.1", 0))
    rpc = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Health(), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    await rpc.start()
    config = uvicorn.Config(
        app(place, leak=leak), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    print(f"tiny listening http=127.0.0.1:{listener.getsockname()[1]} grpc=127.0.0.1:{port}", flush=True)  # noqa: T201
    with contextlib.suppress(asyncio.CancelledError):
        await server.serve(sockets=[listener])
    await rpc.stop(0)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", choices=["loop", "thread", "child", "worker"], default="loop")
    parser.add_argument("--leak", action="store_true")
    arguments = parser.parse_args()
    if arguments.place == "worker":
        worker()
    else:
        asyncio.run(serve(arguments.place, leak=arguments.leak))


if __name__ == "__main__":
    main()
