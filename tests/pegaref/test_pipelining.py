"""However much one connection sends, it has one request a turn of the loop, and little memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from pegaref.clock import LoopClock
from pegaref.config import Limits
from pegaref.placement.dispatch import DirectDispatch
from pegaref.serving import Connections, DirectAnswers, Metrics, Turns
from pegaref.serving.connections import BoundedReads
from tests.pegaref.prober import Prober
from tests.pegaref.running import Running

HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
MOST_GROWTH_BYTES = 32 * 1024 * 1024


class Wire(asyncio.Transport):
    """Counts the answers that are written, and knows whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[bytes] = []
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answers.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert high <= 64 * 1024


async def no_application(scope: object, receive: object, send: object) -> None:
    raise AssertionError("liveness needs none")


def connected() -> tuple[BoundedReads, Wire]:
    loop = asyncio.get_running_loop()
    metrics = Metrics(tuple, lambda: 0)
    connections = Connections(
        Limits(),
        LoopClock(loop),
        DirectAnswers(DirectDispatch(), metrics),
        metrics.http.route("other"),
        Turns(),
    )
    config = Config(no_application, interface="asgi3", log_config=None, access_log=False, lifespan="off")
    config.load()
    reads, wire = connections.protocol(config, ServerState(), {}, loop), Wire()
    reads.connection_made(wire)
    return reads, wire


def receive(reads: BoundedReads, data: bytes) -> None:
    buffer = reads.get_buffer(-1)
    assert len(data) <= len(buffer) <= 16 * 1024
    buffer[: len(data)] = data
    reads.buffer_updated(len(data))


async def test_one_request_is_answered_a_turn_and_nothing_is_read_meanwhile() -> None:
    reads, wire = connected()
    receive(reads, HEALTH * 5)
    answered = []
    for _ in range(6):
        answered.append((len(wire.answers), wire.reading))
        await asyncio.sleep(0)
    assert answered == [(1, False), (2, False), (3, False), (4, False), (5, True), (5, True)]


@pytest.mark.promise("http-shares")
async def test_nothing_is_answered_to_a_peer_that_does_not_read() -> None:
    reads, wire = connected()
    reads.pause_writing()
    receive(reads, HEALTH * 3)
    await asyncio.sleep(0.01)
    assert (wire.answers, wire.reading) == ([], False)
    reads.resume_writing()
    await asyncio.sleep(0.01)
    assert (len(wire.answers), wire.reading) == (3, True)


async def test_a_request_that_comes_in_pieces_is_answered_once() -> None:
    reads, wire = connected()
    for byte in HEALTH * 2:
        receive(reads, bytes([byte]))
    await asyncio.sleep(0.01)
    assert [answer[:15] for answer in wire.answers] == [b"HTTP/1.1 200 OK"] * 2


async def test_a_head_of_many_short_headers_is_431() -> None:
    reads, wire = connected()
    receive(reads, b"GET /health HTTP/1.1\r\n" + b"a:b\r\n" * 500 + b"\r\n")
    assert wire.answers[0].startswith(b"HTTP/1.1 431 ")
    assert wire.closed


FLOOD = """
import selectors, socket, sys, time
host, _, port = sys.argv[1].rpartition(":")
payload, read = sys.argv[2].encode().decode("unicode_escape").encode() * 500, sys.argv[3] == "read"
with selectors.DefaultSelector() as ready:
    for _ in range(int(sys.argv[4])):
        connection = socket.create_connection((host, int(port)))
        connection.setblocking(False)
        ready.register(connection, selectors.EVENT_WRITE | (selectors.EVENT_READ if read else 0))
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for key, events in ready.select(0.1):
            try:
                if events & selectors.EVENT_READ and not key.fileobj.recv(1 << 18):
                    raise ConnectionError
                if events & selectors.EVENT_WRITE:
                    key.fileobj.send(payload)
            except BlockingIOError:
                pass
            except OSError:
                ready.unregister(key.fileobj)
"""


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.promise("http-shares")
@pytest.mark.torch
@pytest.mark.once
@pytest.mark.parametrize(
    ("request_text", "reads", "connections"),
    [
        ("GET /health HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n", "read", 8),
        ("GET /ready HTTP/1.1\\r\\n\\r\\n", "unread", 64),
    ],
)
def test_whoever_pipelines_keeps_no_probe_out(
    server: Running, request_text: str, reads: str, connections: int
) -> None:
    before = resident_bytes(server.pid)
    with Prober(server.http, server.grpc) as prober:
        subprocess.run(
            [sys.executable, "-c", FLOOD, server.http, request_text, reads, str(connections)],
            check=True,
            timeout=60,
        )
        grown = resident_bytes(server.pid) - before
    assert prober.dark == ()
    assert grown < MOST_GROWTH_BYTES
