"""`/health` and `/livez`: one answer, written in the connection's protocol, when the placement says so."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest

from pegaref.placement.pool import WorkerPool
from pegaref.serving.direct import DirectAnswers, DirectCycle
from pegaref.serving.metrics import Metrics
from tests.pegaref.running import DEADLINE_S, Running, running

HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture(scope="module", params=["process", "pool"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that answers at once, and one that needs a free worker to. The actors need not be ready."""
    pytest.importorskip("torch", reason="no placement opens without")
    folder = tmp_path_factory.mktemp("server")
    loads = request.param != "process"
    with running(folder, f"--placement={request.param}", ready=False, loads=loads) as server:
        yield server


@pytest.mark.promise("liveness")
@pytest.mark.torch
@pytest.mark.parametrize("path", ["/health", "/livez", "/health?verbose=1", "/he%61lth"])
def test_liveness_is_ok(server: Running, path: str) -> None:
    answer = server.get(path)
    assert (answer.status_code, answer.text) == (200, "ok")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.torch
def test_liveness_answers_head_without_a_body(server: Running) -> None:
    answer = httpx.head(server.url("/health"), timeout=DEADLINE_S)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "2")


@pytest.mark.torch
def test_liveness_of_another_method_is_405_and_the_connection_goes_on(server: Running) -> None:
    with httpx.Client(base_url=server.url(""), timeout=DEADLINE_S) as client:
        refused = client.post("/health", content=b"x" * 100_000)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        assert client.get("/health").text == "ok"


def exchange(server: Running, *requests: bytes) -> bytes:
    """What one connection answers to the requests, sent at once, until the server closes it."""
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(b"".join(requests))
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.torch
def test_liveness_closes_the_connection_when_it_is_asked_to(server: Running) -> None:
    answer = exchange(server, HEALTH + b"connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.torch
def test_requests_sent_at_once_are_answered_in_their_order(server: Running) -> None:
    metrics = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"
    with_body = HEALTH + b"content-length: 3\r\n\r\nxyz"
    last = b"GET /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answer = exchange(server, metrics, HEALTH + b"\r\n", with_body, last)
    found = [answer.find(word) for word in (b"# HELP", b"\r\n\r\nok", b"Not Found")]
    assert found == sorted(found)
    assert -1 not in found
    assert (answer.count(b"HTTP/1.1 200 OK"), answer.count(b"HTTP/1.1 404 ")) == (3, 1)


@pytest.mark.torch
def test_liveness_of_an_old_client_is_answered_and_closed(server: Running) -> None:
    assert exchange(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok")


@pytest.mark.torch
def test_liveness_is_dated_by_now(server: Running) -> None:
    dated = parsedate_to_datetime(server.get("/health").headers["date"])
    assert abs((datetime.now(UTC) - dated).total_seconds()) < 10


@pytest.mark.torch
def test_every_answer_is_counted_by_its_status(server: Running) -> None:
    def counted(status: int) -> float:
        start = f'pegaref_http_requests_total{{route="/livez",status="{status}"}} '
        lines = server.get("/metrics").text.splitlines()
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))

    before = counted(200), counted(405)
    server.get("/livez")
    server.post("/livez")
    assert (counted(200), counted(405)) == (before[0] + 1, before[1] + 1)
    assert 'pegaref_http_requests_in_flight{route="/livez"} 0.0' in server.get("/metrics").text


class HeldDispatch:
    """Keeps the handlers until the test calls them."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []

    async def run(self, body: object) -> None:
        raise AssertionError("liveness has no body that waits")

    def call(self, handler: Callable[[], None]) -> None:
        self.held.append(handler)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@pytest.mark.promise("one-dispatch")
@pytest.mark.parametrize("leaves", [False, True])
def test_the_answer_waits_for_the_dispatch_and_for_nobody_who_left(leaves: bool) -> None:
    dispatch, metrics, wire = HeldDispatch(), Metrics(tuple, lambda: 0), Wire()
    answers = DirectAnswers(dispatch, metrics)  # type: ignore[arg-type]  # its `run` is never called
    route = answers.route(b"/health")
    assert route is not None
    completed: list[bool] = []
    cycle = DirectCycle(
        answers,
        route,
        b"GET",
        transport=wire,
        headers=[],
        keep_alive=True,
        on_response=lambda: completed.append(True),
    )
    cycle.start()
    assert (wire.written, route.counters.in_flight) == (b"", 1)
    cycle.disconnected = leaves
    dispatch.held.pop()()
    assert wire.written.endswith(b"\r\n\r\nok") is not leaves
    assert route.counters.outcomes == ({"499": 1} if leaves else {"200": 1})
    assert (bool(completed), route.counters.in_flight) == (not leaves, 0)


@pytest.mark.promise("one-dispatch")
async def test_in_a_pool_a_handler_is_called_once_a_worker_is_free_for_it() -> None:
    pool = WorkerPool(1)
    entered, gate, called = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stuck() -> None:
        entered.set()
        await gate.wait()

    first = asyncio.create_task(pool.run(stuck))
    await entered.wait()
    pool.call(called.set)
    await asyncio.sleep(0.05)
    assert not called.is_set()
    gate.set()
    await asyncio.wait_for(called.wait(), DEADLINE_S)
    await first
    pool.close()
