"""The prober, against real servers: it keeps to its schedule whatever they do, and dies with its runner."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scenarios.errors import ProberFailed
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.messages import Began, GrpcSeries, HttpSeries, Probed, ProbedSeries

PERIOD_S = 0.05
_WITHIN_S = 20.0

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], asyncio.Future[None]]


class Watched:
    """What a prober said."""

    def __init__(self) -> None:
        self.began: list[Began] = []
        self.probed: list[Probed] = []

    def outcomes(self, lane: int = 0) -> list[str]:
        return [p.outcome for p in sorted(self.probed, key=lambda p: p.at_s) if p.series == lane]


@asynccontextmanager
async def watching(*lanes: ProbedSeries) -> AsyncIterator[tuple[ProberHandle, Watched]]:
    watched = Watched()

    def heard(batch: object) -> None:
        watched.began += batch.began  # type: ignore[attr-defined]  # a Batch
        watched.probed += batch.probed  # type: ignore[attr-defined]

    async with asyncio.timeout(_WITHIN_S), ProberHandle() as handle:
        handle.on_batch = heard
        await handle.news()
        await handle.watch(lanes, soon())
        yield handle, watched


async def until(handle: ProberHandle, holds: Callable[[], bool]) -> None:
    while not holds():
        await handle.news()


@asynccontextmanager
async def http_server(answer: bytes | None) -> AsyncIterator[str]:
    """Answers every request on every connection with these bytes, or never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                connections.add(writer.get_extra_info("peername"))
                if answer is not None:
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    connections.clear()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health"
        server.close()


connections: set[tuple[str, int]] = set()
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
DOWN = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"


def lane(url: str, *, kept: bool = False, give_up_s: float = 1.0, body: str | None = None) -> HttpSeries:
    return HttpSeries(url, kept, PERIOD_S, 0.0, give_up_s, body=body)


async def test_every_probe_of_the_schedule_is_reported_once() -> None:
    async with http_server(OK) as url, watching(lane(url)) as (handle, watched):
        await until(handle, lambda: len(watched.probed) >= 10)
        await handle.pause()
    starts = sorted(p.at_s for p in watched.probed)
    assert len(set(starts)) == len(starts) == len(watched.began)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(abs(gap - PERIOD_S) < 1e-6 for gap in gaps)


async def test_fresh_probes_connect_each_time_and_kept_ones_once() -> None:
    async with http_server(OK) as url:
        async with watching(lane(url)) as (handle, watched):
            await until(handle, lambda: len(watched.probed) >= 5)
        assert len(connections) >= 5
    async with http_server(OK) as url:
        async with watching(lane(url, kept=True)) as (handle, watched):
            await until(handle, lambda: len(watched.probed) >= 5)
        assert len(connections) == 1


@pytest.mark.parametrize("kept", [False, True])
async def test_a_server_that_never_answers_hides_no_probe(kept: bool) -> None:
    async with http_server(None) as url, watching(lane(url, kept=kept, give_up_s=0.4)) as (handle, watched):
        await until(handle, lambda: len(watched.probed) >= 10)
        await handle.pause()
    ended = [p for p in watched.probed if p.outcome != "cut"]
    assert {p.outcome for p in ended} == {"timeout"}
    assert all(p.ended_s is not None and 0.39 < p.ended_s - p.at_s < 2.4 for p in ended)


async def test_a_kept_connection_counts_the_wait_for_its_turn() -> None:
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await answered.wait()
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with watching(lane(url, kept=True, give_up_s=10.0)) as (handle, watched):
            await until(handle, lambda: len(watched.began) >= 8)
            answered.set()
            await until(handle, lambda: len(watched.probed) >= 8)
            await handle.pause()
        server.close()
    first = sorted(watched.probed, key=lambda p: p.at_s)[:5]
    latencies = [p.ended_s - p.at_s for p in first if p.ended_s is not None]
    assert latencies == sorted(latencies, reverse=True)
    assert latencies[0] > 5 * PERIOD_S


async def test_an_answer_that_came_too_late_is_not_taken_for_the_next_probe_s() -> None:
    asked: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The first request is answered only when the second has come; from then on the server is down."""
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                asked.append(writer)
                if len(asked) == 2:
                    asked[0].write(OK)
                if len(asked) >= 2:
                    writer.write(DOWN)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with watching(lane(url, kept=True, give_up_s=0.4)) as (handle, watched):
            await until(handle, lambda: len(asked) >= 5)
            await handle.pause()
        server.close()
    assert set(watched.outcomes()) - {"cut"} == {"timeout", "wrong"}


async def test_a_refused_a_wrong_and_a_broken_answer_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    closed = f"http://127.0.0.1:{port}/"
    async with http_server(DOWN) as down, http_server(OK) as up:
        lanes = (lane(closed), lane(down), lane(up, body="^ready$"), lane(up, body="^ok$"))
        async with watching(*lanes) as (handle, watched):
            await until(handle, lambda: len(watched.probed) >= 16)
    assert set(watched.outcomes(0)) == {"refused"}
    assert set(watched.outcomes(1)) == {"wrong"}
    assert {p.status for p in watched.probed if p.series == 1} == {503}
    assert set(watched.outcomes(2)) == {"wrong"}
    assert set(watched.outcomes(3)) == {"ok"}


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Serves "", is not serving "gpu", knows no other."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in ("", "gpu"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return health_pb2.HealthCheckResponse(status=2 if request.service else 1)


@asynccontextmanager
async def grpc_server() -> AsyncIterator[str]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_grpc_health_is_judged_by_its_serving_status() -> None:
    async with grpc_server() as address:
        lanes = (
            GrpcSeries(address, False, PERIOD_S, 0.0, 2.0),
            GrpcSeries(address, True, PERIOD_S, 0.0, 2.0),
            GrpcSeries(address, True, PERIOD_S, 0.0, 2.0, service="gpu"),
            GrpcSeries(address, True, PERIOD_S, 0.0, 2.0, service="nobody"),
            GrpcSeries(address, True, PERIOD_S, 0.0, 2.0, service="gpu", serving=("SERVING", "NOT_SERVING")),
        )
        async with watching(*lanes) as (handle, watched):
            await until(handle, lambda: len(watched.probed) >= 25)
            await handle.pause()
    wanted = ["ok", "ok", "wrong", "wrong", "ok"]
    assert [set(watched.outcomes(i)) - {"cut"} for i in range(5)] == [{outcome} for outcome in wanted]


async def test_a_pause_leaves_no_connection_even_to_a_stopped_server(servers: object) -> None:
    process = subprocess.Popen(
        [sys.executable, f"{servers}/tiny.py", "--place", "loop"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = said.split("grpc=")[1].strip()
        async with watching(GrpcSeries(address, False, PERIOD_S, 0.0, 5.0)) as (handle, watched):
            await until(handle, lambda: len(watched.probed) >= 3)
            process.send_signal(signal.SIGSTOP)
            before = len(watched.began)
            await until(handle, lambda: len(watched.began) >= before + 10)
            await handle.pause()
            assert not psutil.Process(handle.pid).net_connections("inet")
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]  # a pipe was asked for


RUNNER = """
import asyncio
from scenarios.prober.handle import ProberHandle

async def main():
    async with ProberHandle() as handle:
        await handle.news()
        print(handle.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_prober_dies_with_a_runner_that_is_killed() -> None:
    runner = subprocess.Popen([sys.executable, "-c", RUNNER], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    prober = psutil.Process(int(runner.stdout.readline()))
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    runner.stdout.close()
    prober.wait(timeout=5)
    assert not prober.is_running()


async def test_a_prober_that_is_killed_is_told() -> None:
    async with http_server(OK) as url, watching(lane(url)) as (handle, _):
        os.kill(handle.pid, signal.SIGKILL)
        began_s = time.monotonic()
        with pytest.raises(ProberFailed, match="ended"):
            await until(handle, lambda: False)
        assert time.monotonic() - began_s < 4
