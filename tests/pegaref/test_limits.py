"""A client that sends too much, too slowly, or nothing at all cannot keep out others."""

from __future__ import annotations

import contextlib
import itertools
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from pegaref.wire import engine_pb2
from tests.pegaref.conftest import Serve
from tests.pegaref.crowds import closed, connect, crowd
from tests.pegaref.running import DEADLINE_S, Running, eventually

pytestmark = pytest.mark.torch

BUDGET_S = 2.0  # of a probe, on a machine that may be busy


def assert_lit(server: Running) -> None:
    """Every fresh probe on every wire is answered within a probe's budget."""
    for _ in range(5):
        for path in (b"/health", b"/metrics"):
            began = time.monotonic()
            with connect(server.http) as connection:
                connection.sendall(b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n" % path)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - began < BUDGET_S, path
        began = time.monotonic()
        with grpc.insecure_channel(server.grpc) as channel:
            assert HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S).status == 1
        assert time.monotonic() - began < BUDGET_S, "grpc health"


BIG = b"GET /health HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 20_000


@pytest.mark.promise("message-limits")
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["whole", "endless"])
@pytest.mark.parametrize("piece", [len(BIG) + 4, 1000], ids=["in one piece", "in pieces"])
def test_a_request_head_that_is_too_large_is_431(server: Running, piece: int, end: bytes) -> None:
    head = BIG + end
    with connect(server.http) as connection:
        for start in range(0, len(head), piece):
            try:
                connection.sendall(head[start : start + piece])
            except OSError:  # it was refused before all of it had been sent
                break
            time.sleep(0.001)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")
    assert_lit(server)


def test_the_twin_that_just_fits_is_answered(server: Running) -> None:
    answer = server.get("/health", headers={"x": "y" * 15_000})
    assert answer.status_code == 200


@pytest.mark.promise("message-limits")
def test_a_grpc_message_that_is_too_large_is_refused(server: Running) -> None:
    request = engine_pb2.RegisterContextRequest(wrapper_bytes=[b"x" * 5_000_000])
    with server.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.RegisterContextBatch(request, timeout=DEADLINE_S)
    error: grpc.Call = caught.value  # type: ignore[assignment]
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.promise("message-limits")
def test_grpc_metadata_that_is_too_large_is_refused(server: Running) -> None:
    with server.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Health(engine_pb2.HealthRequest(), timeout=DEADLINE_S, metadata=[("x", "y" * 20_000)])
    error: grpc.Call = caught.value  # type: ignore[assignment]
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_lit(server)


@pytest.mark.promise("idle-connections")
def test_at_the_limit_the_longest_idle_connection_gives_way(serve: Serve) -> None:
    server = serve("--max-connections=20", "--header-timeout=600", loads=False)
    with crowd(server.http, 60) as idle:
        assert_lit(server)
        eventually(lambda: sum(map(closed, idle)) >= 40, what="all above the limit were closed")
        assert closed(idle[0])
    eventually(lambda: "gave way to new ones" in server.log(), what="the log says so")


def test_half_a_request_is_closed_in_time_and_keeps_nobody_out(serve: Serve) -> None:
    server = serve("--max-connections=20", "--header-timeout=1", loads=False)
    with crowd(server.http, 15, b"GET /health HTTP/1.1\r\nhost: a\r\n") as loris:
        assert_lit(server)
        for connection in loris:  # one more byte of a header now and then does not help
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        eventually(lambda: all(map(closed, loris)), within_s=8, what="all were closed")
    assert_lit(server)


def test_the_twin_that_waits_between_whole_requests_is_kept(serve: Serve) -> None:
    server = serve("--header-timeout=1", loads=False)
    request = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
    with connect(server.http) as patient, connect(server.http) as silent:
        patient.sendall(request)
        assert patient.recv(4096).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: closed(silent), what="the silent one was closed, so the time is up")
        time.sleep(0.5)
        patient.sendall(request)
        assert patient.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.promise("idle-connections")
@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_two_thousand_idle_connections_leave_the_probes_lit(serve: Serve, wire: str) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2500:
        pytest.skip(f"this process may open only {soft} files, too few to open 2,000 connections")
    server = serve(loads=False)
    with crowd(getattr(server, wire), 2000):
        assert_lit(server)


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_without_file_descriptors_an_open_connection_stays_lit_and_new_ones_come_back_by_themselves(
    serve: Serve, wire: str
) -> None:
    server = serve()
    with httpx.Client(base_url=server.url(""), timeout=DEADLINE_S) as kept:
        kept.get("/health")
        used = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 4, limits[1]))
        with crowd(getattr(server, wire), 40):
            for _ in range(5):
                assert kept.get("/health").text == "ok"
    eventually(lambda: _answers(server), what="fresh connections are answered again")
    assert server.get("/ready").status_code == 200
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    assert_lit(server)


@contextlib.contextmanager
def no_descriptor_left(server: Running) -> Iterator[None]:
    """The server has as many files open as it may."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    taken = {int(entry.name) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}
    first_free = next(number for number in itertools.count() if number not in taken)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (first_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.promise("descriptor-reserve")
def test_without_file_descriptors_probes_that_come_anew_are_answered_out_of_a_reserve(serve: Serve) -> None:
    server = serve()
    with no_descriptor_left(server):
        assert_lit(server)  # from the first connection on
        assert "no file descriptor is left" in server.log()
        with crowd(server.http, 100):  # whose connections give way
            eventually(lambda: _answers(server), what="fresh connections are answered in the crowd")
            eventually(lambda: "gave way to new ones" in server.log(), what="the crowd gives way")
            eventually(lambda: _answers(server), what="fresh connections are answered again")
    eventually(lambda: "there are file descriptors again" in server.log(), what="the reserve is taken back")
    assert_lit(server)


def _answers(server: Running) -> bool:
    try:
        return server.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
