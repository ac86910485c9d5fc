"""Liveness and readiness, over HTTP and grpc.health.v1: what they say, and that a wedge changes only one."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from pegaref.registry import RegistrySnapshot
from pegaref.serving.health import NOT_SERVING, SERVING, Health
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running, eventually
from tests.pegaref.simulation import VirtualClock, settle

Status = health_pb2.HealthCheckResponse

needs_torch = pytest.mark.torch


@contextmanager
def health_stub(server: Running) -> Iterator[HealthStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield HealthStub(channel)


def check(server: Running, service: str) -> int:
    with health_stub(server) as stub:
        request = health_pb2.HealthCheckRequest(service=service)
        status: int = stub.Check(request, timeout=DEADLINE_S).status
        return status


class Watched:
    """The statuses that a Watch brings, as they come."""

    def __init__(self, stub: HealthStub, service: str) -> None:
        self._call = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        self._statuses: queue.Queue[int] = queue.Queue()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        try:
            for response in self._call:
                self._statuses.put(response.status)
        except grpc.RpcError:
            return

    def next(self) -> int:
        return self._statuses.get(timeout=DEADLINE_S)

    def nothing_more(self) -> bool:
        return self._statuses.empty()

    def cancel(self) -> None:
        self._call.cancel()


@pytest.mark.promise("grpc-health")
@needs_torch
@pytest.mark.parametrize("service", ["", "liveness", "readiness", "startup", "pegaflow.Engine"])
def test_every_service_of_a_ready_server_is_serving(server: Running, service: str) -> None:
    assert check(server, service) == Status.SERVING


@pytest.mark.promise("grpc-health")
@needs_torch
def test_an_unknown_service_is_not_found(server: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        check(server, "nothing")
    error: grpc.Call = caught.value  # type: ignore[assignment]  # grpc raises the call itself
    assert error.code() is grpc.StatusCode.NOT_FOUND


@needs_torch
def test_list_names_every_service(server: Running) -> None:
    with health_stub(server) as stub:
        statuses = stub.List(health_pb2.HealthListRequest(), timeout=DEADLINE_S).statuses
    assert sorted(statuses) == ["", "liveness", "pegaflow.Engine", "readiness", "startup"]


@pytest.mark.promise("readiness")
@needs_torch
def test_a_wedge_ends_readiness_and_not_liveness_and_says_why(server: Running) -> None:
    with server.actor_stopped(device=1) as pid:
        eventually(lambda: server.get("/ready").status_code == 503, what="not ready")
        device = server.ready()["devices"]["1"]
        assert (device["ready"], device["phase"]) in ((False, "wedged"), (False, "starting"))
        assert (device["hang"], device["pid"]) == ("stopped", pid)
        assert device["reason"]
        assert server.ready()["devices"]["0"]["ready"] is True
        assert server.get("/health").status_code == 200
        assert server.get("/startupz").json()["started"] is True  # it has been ready, and that is for good
        for service in ("", "liveness", "startup"):
            assert check(server, service) == SERVING, service
        assert check(server, "readiness") == NOT_SERVING
    server.wait_ready()


@pytest.mark.promise("grpc-health")
@needs_torch
def test_watch_tells_the_status_and_then_each_change(server: Running) -> None:
    with health_stub(server) as stub:
        watched = Watched(stub, "readiness")
        alive = Watched(stub, "liveness")
        assert (watched.next(), alive.next()) == (SERVING, SERVING)
        with server.actor_stopped():
            assert watched.next() == NOT_SERVING
        assert watched.next() == SERVING
        assert watched.nothing_more()
        assert alive.nothing_more()
        watched.cancel()
        alive.cancel()


@needs_torch
def test_watching_an_unknown_service_is_service_unknown(server: Running) -> None:
    with health_stub(server) as stub:
        watched = Watched(stub, "nothing")
        assert watched.next() == Status.SERVICE_UNKNOWN
        watched.cancel()


@pytest.mark.promise("health-asks-nobody")
@pytest.mark.promise("startup")
@pytest.mark.promise("liveness")
@needs_torch
def test_liveness_comes_long_before_torch_is_loaded_and_stays_while_it_is(serve: Serve) -> None:
    began = time.monotonic()
    server = serve(ready=False)
    assert server.get("/health").status_code == 200
    first_answer_s = time.monotonic() - began
    report, startup = server.ready(), server.get("/startupz")
    assert (report["ready"], report["devices"]["0"]["phase"]) == (False, "starting")
    assert report["devices"]["0"]["reason"]
    assert (startup.status_code, startup.json()["started"]) == (503, False)
    assert "loading torch" in startup.json()["devices"]["0"]["reason"]
    with health_stub(server) as stub:
        watched = Watched(stub, "startup")
        slowest_s = 0.0
        while server.get("/ready").status_code != 200:
            asked = time.monotonic()
            assert server.get("/health").text == "ok"
            slowest_s = max(slowest_s, time.monotonic() - asked)
            time.sleep(0.02)
        assert (watched.next(), watched.next()) == (NOT_SERVING, SERVING)
        watched.cancel()
    assert slowest_s < 1.0
    assert first_answer_s < (time.monotonic() - began) * 0.8
    assert server.get("/startupz").json() == {"started": True, "devices": {"0": {"started": True}}}
    assert server.ready()["devices"]["0"]["type"] == "cpu"


@pytest.mark.promise("device-type")
@needs_torch
def test_a_gpu_that_is_not_there_is_never_served_by_host_memory(serve: Serve) -> None:
    server = serve("--devices=7", "--device-type=cuda", ready=False)
    assert server.line.endswith("devices=7 device_types=cuda\n")
    with health_stub(server) as stub:
        watched = Watched(stub, "startup")
        assert watched.next() == NOT_SERVING
        eventually(lambda: "--device-type cpu" in server.ready()["devices"]["7"]["reason"], what="why")
        # and it still says why at the next try
        eventually(lambda: server.ready()["devices"]["7"]["epoch"] >= 2, what="another try")
        startup = server.get("/startupz")
        assert startup.status_code == 503
        assert "there is no device 7 on this host: CUDA has" in startup.json()["devices"]["7"]["reason"]
        assert "type" not in server.ready()["devices"]["7"]
        assert (check(server, "startup"), check(server, "readiness")) == (NOT_SERVING, NOT_SERVING)
        assert server.get("/health").status_code == 200
        watched.cancel()


class Registry:
    """A snapshot that a test sets."""

    def __init__(self) -> None:
        self.ready = True

    def snapshot(self) -> RegistrySnapshot:
        return ReadySnapshot() if self.ready else RegistrySnapshot()


class ReadySnapshot(RegistrySnapshot):
    """One that is ready without devices."""

    @property
    def ready(self) -> bool:
        return True


async def test_stopping_ends_readiness_for_good_and_tells_watchers_at_once() -> None:
    health = Health(Registry().snapshot, VirtualClock())
    watch = health.watch("readiness")
    assert await anext(watch) == SERVING
    later = asyncio.ensure_future(anext(watch))
    await settle()
    health.stop()
    await settle()
    assert later.result() == NOT_SERVING
    assert not health.ready
    assert health.status("liveness") == SERVING
    assert health.report(tracebacks=False)["stage"] == "stopping"


async def test_a_watcher_hears_of_a_change_within_a_tenth_of_a_second() -> None:
    registry, clock = Registry(), VirtualClock()
    watch = Health(registry.snapshot, clock).watch("readiness")
    assert await anext(watch) == SERVING
    later = asyncio.ensure_future(anext(watch))
    await clock.advance(10)
    assert not later.done()
    registry.ready = False
    await clock.advance(0.1)
    assert later.result() == NOT_SERVING


async def test_a_watcher_misses_no_change_that_comes_while_it_is_busy() -> None:
    registry = Registry()
    watch = Health(registry.snapshot, VirtualClock()).watch("readiness")
    assert await anext(watch) == SERVING
    registry.ready = False  # it is busy writing: it does not wait for a change yet
    assert await anext(watch) == NOT_SERVING


async def test_no_timer_runs_once_nobody_watches() -> None:
    clock = VirtualClock()
    watch = Health(Registry().snapshot, clock).watch("readiness")
    assert await anext(watch) == SERVING
    waiting = asyncio.ensure_future(anext(watch))
    await clock.advance(1)
    assert clock.pending == 1
    waiting.cancel()
    await clock.advance(1)
    assert clock.pending == 0
