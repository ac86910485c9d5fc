"""Loads and clients against pegaref itself: what its own counters say of them, and what is left in it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio

from scenarios.server.server import Server, serving
from scenarios.spec import target_file
from scenarios.spec.loads import Clients, Idle, Scrape, SlowLoris, Storm
from scenarios.traffic.load.running import loading

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

_WITHIN_S = 120.0
_RELEASED_WITHIN_S = 15.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pegaref() -> AsyncIterator[Server]:
    """pegaref in placement process, as its shipped target starts it, for all tests of the file."""
    async with serving(target_file.load(target_file.find("pegaref-process"))) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def server(pegaref: Server) -> AsyncIterator[Server]:
    """The server; each test gives it back with no session, nothing registered and the same processes."""
    pids = pegaref.pids()
    async with asyncio.timeout(_WITHIN_S):
        yield pegaref
    async with asyncio.timeout(_RELEASED_WITHIN_S):
        await until(pegaref, "pegaref_sessions", lambda sessions: sessions == 0.0)
        await until(pegaref, 'pegaref_device_ready{device="0"}', lambda ready: ready == 1.0)
        await until(pegaref, 'pegaref_tensors{device="0"}', lambda tensors: tensors == 0.0)
    assert pegaref.pids() == pids


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server's HTTP side."""
    url = f"http://{server.names['http']}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=_WITHIN_S) as http:
        yield http


async def figure(server: Server, name: str) -> float:
    """A figure of the server's metrics, 0 where it is not told."""
    async with asking(server) as http:
        text = (await http.get("/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def until(server: Server, name: str, there: Callable[[float], bool]) -> None:
    """Wait until a figure is so."""
    while True:
        if there(await figure(server, name)):
            return
        await asyncio.sleep(0.05)


def actor(server: Server) -> int:
    """The process that owns the registry: it is the one that maps the owner's memory after a register."""
    main = server.launched.pid
    (pid,) = (
        pid
        for pid in server.pids()
        if pid != main and "pegaref.actor" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    )
    return pid


def holding() -> int:
    """How many `pegaref.client hold` run below this process, whatever guards them."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += process.cmdline()[1:4] == ["-m", "pegaref.client", "hold"]
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process is stopped by a signal inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_two_thousand_idle_connections_meet_the_limit_and_health_is_answered(server: Server) -> None:
    async with loading((Idle("http /health", 2000, held=500),), server) as running:
        await running.open_window()
        async with asking(server) as http:
            assert (await http.get("/health")).text.startswith("ok")
        await running.stop()
        (facts,) = running.facts()
    assert facts.sustained, facts.detail
    assert facts.answered >= 2000
    assert 500 <= facts.open <= 668  # some may wait in the backlog, to take the place of others
    assert facts.closed >= 2000 - 568


async def test_slow_connections_keep_neither_http_nor_grpc_from_others(server: Server) -> None:
    loads = (SlowLoris("http /health", 100, every_s=0.05), SlowLoris("grpc health", 20, every_s=0.05))
    async with loading(loads, server) as running:
        await running.open_window()
        await until(server, "pegaref_sessions", lambda sessions: sessions == 0.0)
        assert await server.caller.make(server.target.spec.call[0], 1)
        async with asking(server) as http:
            assert (await http.post("/instances/cleanup")).json()["removed_tensors"] > 0
        await running.stop()
        assert all(facts.sustained for facts in running.facts()), [facts.detail for facts in running.facts()]


async def test_a_session_storm_is_there_as_the_server_counts_it_and_ends_with_the_window(
    server: Server,
) -> None:
    opened = 'pegaref_grpc_request_duration_seconds_count{method="pegaflow.Engine/Session"}'
    before = await figure(server, opened)
    async with loading((Storm("session", rate_hz=50),), server) as running:
        await running.open_window()
        await until(server, opened, lambda sessions: sessions >= before + 30)
        await running.stop()
        (facts,) = running.facts()
        await until(server, "pegaref_sessions", lambda sessions: sessions == 0.0)
    assert facts.sustained, facts.detail
    assert facts.answered >= 20


async def test_sessions_of_a_storm_that_are_held_are_open_at_once(server: Server) -> None:
    async with loading((Storm("session", rate_hz=100, at_most=60, hold_s=60),), server) as running:
        await running.open_window()
        await until(server, "pegaref_sessions", lambda sessions: sessions == 60.0)
        await running.stop()
        (facts,) = running.facts()
    await until(server, "pegaref_sessions", lambda sessions: sessions == 0.0)
    assert facts.sustained, facts.detail
    assert (facts.started, facts.open) == (60, 60)


async def test_a_scrape_storm_is_answered_by_the_metrics(server: Server) -> None:
    answered = 'pegaref_http_requests_total{route="/metrics",status="200"}'
    before = await figure(server, answered)
    async with loading((Scrape("http /metrics", 20, rate_hz=300),), server) as running:
        await running.open_window()
        await until(server, answered, lambda scrapes: scrapes >= before + 100)
        await running.stop()
        (facts,) = running.facts()
    assert facts.sustained, facts.detail
    assert facts.answered >= 50


async def test_a_client_killed_with_an_open_session_leaves_no_memory_behind(server: Server) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with loading((Clients("holder", 2, start="before", for_s=0.1),), server) as running:
        assert await figure(server, "pegaref_sessions") == 2.0
        await running.open_window()
        await running.wait_done()
        await until(server, "pegaref_sessions", lambda sessions: sessions == 0.0)
        await running.stop()
        await running.clean_up()
        (facts,) = running.facts()
    assert set(psutil.Process().children(recursive=True)) == before
    assert facts.sustained, facts.detail
    assert (facts.started, facts.answered, facts.closed, facts.left) == (2, 2, 2, ())
    assert facts.left_detail.startswith("2 shared memories of killed clients")


async def test_memory_that_a_killed_client_leaves_in_the_server_is_told(server: Server) -> None:
    load = Clients("holder", start="before", for_s=0.0, released_within_s=0.5)
    pid = actor(server)
    async with loading((load,), server) as running:
        with stopped(pid):
            await running.open_window()
            await running.wait_done()
            await running.stop()
            await running.clean_up()
        (facts,) = running.facts()
    assert facts.sustained, facts.detail
    (left,) = facts.left
    assert re.fullmatch(r"/dev/shm/\S+ of holder 1 is still in the server's memory 0\.5 s later", left)


async def test_a_client_is_killed_in_the_middle_of_a_register_and_nothing_is_left_of_it(
    server: Server,
) -> None:
    registering = 'pegaref_commands_in_flight{device="0",operation="register"}'
    load = Clients("registering", stuck=True)
    with stopped(actor(server)):
        async with loading((load,), server) as running:
            await running.open_window()
            await until(server, registering, lambda commands: commands == 1.0)
            assert holding() == 1
            await running.wait_done()
            assert holding() == 0
            await running.stop()
            (facts,) = running.facts()
    await running.clean_up()
    async with asking(server) as http:
        assert (await http.get("/instances")).json()["instances"] == []
    assert facts.sustained, facts.detail
    assert facts.closed == 1
    assert running.facts()[0].left == ()


async def test_a_client_that_came_to_its_end_was_not_killed_in_the_middle(server: Server) -> None:
    async with loading((Clients("registering", stuck=True, for_s=2.0),), server) as running:
        await running.open_window()
        await running.wait_done()
        await running.stop()
        (facts,) = running.facts()
    assert not facts.sustained
    assert "it was not stuck" in facts.detail


async def test_clients_that_are_not_to_be_killed_live_until_the_window_closes(server: Server) -> None:
    async with loading((Clients("holder", 2, kill=False),), server) as running:
        await running.open_window()
        await running.wait_done()
        assert await figure(server, "pegaref_sessions") == 2.0
        await running.stop()
        (facts,) = running.facts()
    await until(server, "pegaref_sessions", lambda sessions: sessions == 0.0)
    assert facts.sustained, facts.detail
    assert (facts.open, facts.closed) == (2, 0)


async def test_a_client_that_cannot_start_was_not_there_and_says_why(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(server.names, "grpc", "127.0.0.1:1")
    async with loading((Clients("holder", start="before"),), server) as running:
        await running.open_window()
        await running.stop()
        (facts,) = running.facts()
    assert not facts.sustained
    assert "UNAVAILABLE" in facts.detail
