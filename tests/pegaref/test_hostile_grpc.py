"""Whatever one client sends to the gRPC port: the probes are answered, and memory stays where it was."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from pegaref.config import Address, ServerConfig
from pegaref.server import Server, listening
from pegaref.serving import PartLost, Parts
from scenarios.traffic.attack import frame, header_block
from tests.pegaref import http2_traffic as http2
from tests.pegaref.crowds import crowd
from tests.pegaref.running import DEADLINE_S, Running, eventually, running
from tests.pegaref.test_limits import assert_lit

pytestmark = [pytest.mark.torch, pytest.mark.once]

MOST_MIB = 96  # that one of these may cost; without its bound each costs several hundred in two seconds


def resident_mib(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) // 1024


def counted(server: Running, name: str) -> float:
    match = re.search(rf"^pegaref_grpc_{name} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    assert match, name
    return float(match[1])


PIECES: dict[str, Callable[[int], bytes]] = {
    "resets": http2.reset_call,
    "opens": lambda stream: frame(http2.HEADERS, http2.END_HEADERS, stream, header_block(http2.CHECK)),
    "watches": lambda stream: http2.call(stream, http2.WATCH),
    "unknown methods": lambda stream: http2.call(stream, b"/no/%d" % stream),
    "broken messages": lambda stream: http2.call(stream, http2.REGISTER, b"\0\0\0\0\4\x0a\2\xff\xfe"),
    "pings": lambda stream: frame(http2.PING, 0, 0, b"12345678"),
    "empty data": lambda stream: (
        (frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(http2.CHECK)) if stream == 1 else b"")
        + frame(http2.DATA, 0, 1)
    ),
}


@pytest.mark.promise("grpc-shares")
@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES.keys())
def test_a_flood_leaves_the_probes_lit_and_memory_bounded(
    server: Running, piece: Callable[[int], bytes]
) -> None:
    before = resident_mib(server.pid)
    with http2.flood(server.grpc, piece):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert_lit(server)
        assert resident_mib(server.pid) < before + MOST_MIB
    assert "Traceback" not in server.log()


@pytest.mark.promise("parts-watched")
def test_a_path_that_is_no_utf8_is_answered_and_ends_nothing(server: Running) -> None:
    with http2.begin(server.grpc) as connection:
        connection.sendall(http2.call(1, b"/\xff\xfe"))
        assert b"no such method" in http2.received(connection, 1.0)
    assert_lit(server)
    assert server.ready()["ready"]


@pytest.mark.promise("grpc-shares")
def test_streams_over_the_bound_are_refused_and_counted(server: Running) -> None:
    before = counted(server, "streams_refused_total")
    with http2.begin(server.grpc) as connection:
        for stream in range(1, 2401, 2):
            connection.sendall(http2.call(stream, http2.WATCH))
        refused = frame(http2.RST_STREAM, 0, 2399, b"\0\0\0\x0b")  # ENHANCE_YOUR_CALM
        eventually(lambda: refused in connection.recv(2**20, socket.MSG_PEEK), what="the last is refused")
    assert counted(server, "streams_refused_total") == before + 100


def test_what_is_no_http2_is_closed_and_counted(server: Running) -> None:
    before = counted(server, "connections_refused_total")
    with crowd(server.grpc, 1, b"GET / HTTP/1.1\r\n\r\n") as (connection,):
        assert connection.recv(100) == b""
    assert counted(server, "connections_refused_total") == before + 1


@pytest.mark.promise("refused-is-freed")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x42\0" * 2_000_000, "fields"),  # layer_names
        (b"\x52\x80\x80\x80\x01" + b"\1" * 2**21, "bytes"),  # num_blocks
        (b"\x0a\2\xff\xfe", "are no RegisterContextRequest"),
        (b"\x0b" * 20_000, "are no RegisterContextRequest"),
    ],
    ids=["many", "long", "no UTF-8", "deep"],
)
def test_a_refused_message_says_why_and_keeps_no_memory(server: Running, body: bytes, words: str) -> None:
    before = resident_mib(server.pid)
    with grpc.insecure_channel(server.grpc) as channel:
        register = channel.unary_unary("/pegaflow.Engine/RegisterContextBatch", bytes, bytes)
        for _ in range(10):
            with pytest.raises(grpc.RpcError) as caught:
                register(body, timeout=DEADLINE_S)
            error: grpc.Call = caught.value  # type: ignore[assignment]
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in (error.details() or "")
    assert resident_mib(server.pid) < before + 32
    assert "Traceback" not in server.log()


@pytest.mark.promise("descriptor-reserve")
def test_with_few_descriptors_idle_grpc_connections_leave_the_probes_lit(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[0] < 2500:
        pytest.skip(f"this process may open only {limits[0]} files, too few for 2,000 connections")
    with running(tmp_path, ready=False, open_files=400) as server:
        with crowd(server.grpc, 2000):
            eventually(lambda: counted(server, "connections_evicted_total") > 0, what="some give way")
            assert_lit(server)
        assert_lit(server)


@pytest.mark.promise("parts-watched")
@pytest.mark.parametrize(
    "part", ["task that takes up gRPC calls", "HTTP listener", "task of the HTTP listener", "gRPC listener"]
)
async def test_a_part_that_dies_is_noticed_and_ends_the_server(part: str) -> None:
    config = ServerConfig(http=Address("127.0.0.1", 0), grpc=Address("127.0.0.1", 0), shutdown_grace_s=0.1)
    async with listening(config) as server:
        assert server.parts.lost() == ""
        await _kill(part, server)
        assert not server.health.ready
        assert server.health.status("readiness") == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.health.report(tracebacks=False)["lost"] in part
        with pytest.raises(PartLost, match=server.parts.lost()):
            await server.wait_stopped()


def test_a_thread_that_dies_is_noticed() -> None:
    parts = Parts()
    leave = threading.Event()
    worker = threading.Thread(target=leave.wait, name="worker-of-this-test")
    worker.start()
    parts.check()
    leave.set()
    worker.join()
    with pytest.raises(PartLost, match="worker-of-this-test"):
        parts.check()


@pytest.mark.promise("parts-watched")
def test_a_part_that_dies_ends_the_process_with_an_error() -> None:
    program = (
        "import asyncio; from grpc._cython import cygrpc\n"
        "class Dies(cygrpc.AioServer):\n"
        "    async def _server_main_loop(self, started):\n"
        "        started.set_result(True); await asyncio.sleep(0.2); raise ValueError\n"
        "cygrpc.AioServer = Dies\n"
        "from pegaref.cli import main\n"
        "main(['serve', '--http-addr=127.0.0.1:0', '--addr=127.0.0.1:0', '--shutdown-grace=0.1'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert ended.returncode == 1
    assert "the task that takes up gRPC calls has died" in ended.stderr


async def _kill(part: str, server: Server) -> None:
    if part == "gRPC listener":
        assert server.relay._server is not None
        server.relay._server.close()
    elif part == "HTTP listener":
        assert server.http is not None
        server.http.servers[0].close()
    else:
        name = "Server.serve" if part.endswith("HTTP listener") else "_server_main_loop"
        (task,) = (task for task in asyncio.all_tasks() if name in repr(task.get_coro()))
        task.cancel()
        await asyncio.wait([task])
