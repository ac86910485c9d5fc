"""Loads: that each is really there, counted by the server and the kernel, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from scenarios.errors import CouldNotRun
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.messages import Batch, Began, HttpSeries
from scenarios.server.resources import alive
from scenarios.server.server import Server, serving
from scenarios.spec import target_file
from scenarios.spec.loads import Clients, Idle, Load, Scrape, SlowLoris, Storm
from scenarios.traffic.load.facts import LoadFacts
from scenarios.traffic.load.running import loading
from tests.scenarios.conftest import SERVERS

_WITHIN_S = 90.0


@asynccontextmanager
async def counting(*flags: str) -> AsyncIterator[Server]:
    """The counting server, started as any target is."""
    loaded = target_file.load(SERVERS / "counting.toml")
    start = loaded.start
    start = msgspec.structs.replace(start, command=(*start.command, *flags))
    target = msgspec.structs.replace(loaded.spec, start=start)
    async with asyncio.timeout(_WITHIN_S), serving(dataclasses.replace(loaded, spec=target)) as server:
        yield server


async def counts(server: Server) -> dict[str, Any]:
    """What the server has counted; its connection for this one is not in `open`."""
    async with httpx.AsyncClient(trust_env=False) as http:
        told = (await http.get(f"http://{server.names['http']}/counts", timeout=_WITHIN_S)).json()
    told["open"] -= 1
    return dict(told)


async def until(server: Server, there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask the server for its counts until they are so."""
    while True:
        if there(told := await counts(server)):
            return told
        await asyncio.sleep(0.02)


def sockets(server: Server) -> list[str]:
    """The states of all sockets of the server's port that the kernel still has, the listener's left out."""
    port = f":{int(server.names['http'].rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return [row[3] for row in rows if port in (row[1][-5:], row[2][-5:]) and row[3] != "0A"]


async def one(server: Server, load: Load, *, for_s: float = 0.5) -> LoadFacts:
    """The facts of a load that was there for a moment."""
    async with loading((load,), server) as running:
        await running.open_window()
        await asyncio.sleep(for_s)
        await running.stop()
        await running.clean_up()
        (facts,) = running.facts()
    return facts


async def test_idle_connections_are_there_and_never_send_a_byte() -> None:
    async with counting() as server:
        async with loading((Idle("http /health", 300),), server) as running:
            await running.open_window()
            told = await counts(server)
            await running.stop()
            (facts,) = running.facts()
        assert told["open"] == 300
        assert "/health" not in told["requests"]
        assert facts.sustained, facts.detail
        assert (facts.started, facts.answered, facts.open, facts.closed) == (300, 300, 300, 0)
        assert "300 established, of which the server has accepted 300" in facts.detail


async def test_of_a_load_no_socket_process_or_descriptor_is_left() -> None:
    ours = psutil.Process()
    loads = (
        Idle("http /health", 200),
        SlowLoris("http /health", 50),
        Scrape("http /health"),
        Storm("work", rate_hz=10),
    )
    async with counting() as server:
        before = {child.pid for child in ours.children(recursive=True)}
        fds = ours.num_fds()
        async with loading(loads, server) as running:
            await running.open_window()
            assert {child.pid for child in ours.children(recursive=True)} > before
            await running.stop()
            told = await until(server, lambda told: told["open"] == 0)
            assert told["accepted"] >= 271
            await running.clean_up()
            assert {child.pid for child in ours.children(recursive=True)} == before
            assert all(facts.sustained for facts in running.facts()), [
                facts.detail for facts in running.facts()
            ]
        assert ours.num_fds() <= fds
        # Not even one that waits in the kernel for its end, but those of `counts` itself.
        assert len([state for state in sockets(server) if state == "01"]) == 0


async def test_two_thousand_connections_fit_under_a_low_soft_limit() -> None:
    script = (
        "import asyncio, resource, tests.scenarios.test_loads as t; "
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); "
        "asyncio.run(t.two_thousand())"
    )
    ended = await _python(script)
    assert (ended.returncode, ended.stdout.strip()) == (0, "2000 True"), ended


async def two_thousand() -> None:
    """Two thousand idle connections, in a process whose soft limit is lower."""
    async with counting() as server:
        async with loading((Idle("http /health", 2000),), server) as running:
            await running.open_window()
            told = await counts(server)
            await running.stop()
            (facts,) = running.facts()
    print(told["open"], facts.sustained)  # noqa: T201


async def test_a_hard_limit_that_is_too_low_is_told_with_the_remedy() -> None:
    script = (
        "import asyncio, resource, tests.scenarios.test_loads as t; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
        "asyncio.run(t.two_thousand())"
    )
    ended = await _python(script)
    assert ended.stderr.splitlines()[-1] == (
        "scenarios.errors.CouldNotRun: the loads need 2064 open files and 256 are allowed: "
        "raise the limit with `ulimit -n 2064`, or lower the loads' counts"
    )


async def test_connections_that_the_server_closes_are_counted_and_opened_again() -> None:
    async with counting("--most", "100") as server:
        whole = await one(server, Idle("http /health", 150))
        part = await one(server, Idle("http /health", 150, held=90))
    assert not whole.sustained
    assert "of 150 were open: the server let no more stay (`held = " in whole.detail
    assert part.sustained, part.detail
    assert part.closed >= 50
    assert part.started > 150


async def test_where_no_connection_can_be_made_no_load_was_there() -> None:
    async with counting() as server:
        server.names["http"] = "127.0.0.1:1"
        facts = await one(server, Idle("http /health", 5))
    assert not facts.sustained
    assert "only 0 connections could be made" in facts.detail
    assert "Connect call failed" in facts.detail


async def test_slow_connections_send_a_byte_now_and_then_and_never_a_whole_head() -> None:
    async with counting() as server:
        async with loading((SlowLoris("http /health", 40, every_s=0.05),), server) as running:
            first = await until(server, lambda told: told["received_bytes"] > 100)
            await running.open_window()
            later = await until(
                server, lambda told: told["received_bytes"] > first["received_bytes"] + 10 * 40
            )
            await running.stop()
            (facts,) = running.facts()
        assert "/health" not in later["requests"]
        assert facts.sustained, facts.detail
        assert "bytes sent in the window" in facts.detail


async def test_scrapes_ask_again_as_they_are_answered_at_a_bounded_rate() -> None:
    async with counting() as server:
        began_s = time.monotonic()
        async with loading((Scrape("http /health", 10, rate_hz=200),), server) as running:
            await running.open_window()
            told = await until(server, lambda told: told["requests"].get("/health", 0) >= 50)
            await running.stop()
            (facts,) = running.facts()
        took_s = time.monotonic() - began_s
        after = await counts(server)
    assert told["open"] == 10
    assert facts.sustained, facts.detail
    assert 50 <= facts.answered <= after["requests"]["/health"] <= 200 * took_s + 10


async def test_scrapes_that_are_not_answered_wait_and_count_as_there() -> None:
    async with counting() as server:
        async with loading((Scrape("http /never", 10),), server) as running:
            await until(server, lambda told: told["waiting"] == 10)
            await running.open_window()
            await asyncio.sleep(0.2)
            await running.stop()
            (facts,) = running.facts()
    assert facts.sustained, facts.detail
    assert (facts.started, facts.answered) == (10, 0)


async def test_a_server_that_keeps_no_connection_alive_cannot_be_scraped_so() -> None:
    async with counting("--no-keep-alive") as server:
        facts = await one(server, Scrape("http /health", 20))
    assert not facts.sustained
    assert "too few connections" in facts.detail


async def test_a_storm_calls_on_schedule_and_every_call_arrives() -> None:
    async with counting() as server:
        async with loading((Storm("work", rate_hz=20),), server) as running:
            await running.open_window()
            await until(server, lambda told: told["requests"].get("/work", 0) >= 10)
            await running.stop()
            (facts,) = running.facts()
        told = await counts(server)
    assert facts.sustained, facts.detail
    assert 5 <= facts.answered <= told["requests"]["/work"]


async def test_a_storm_on_a_server_that_does_not_answer_stays_within_its_bound() -> None:
    async with counting() as server:
        async with loading((Storm("never", rate_hz=200, at_most=20),), server) as running:
            await running.open_window()
            await until(server, lambda told: told["waiting"] == 20)
            await asyncio.sleep(0.3)
            await running.stop()
            (facts,) = running.facts()
            await until(server, lambda told: told["open"] == 0)
            told = await counts(server)
    assert facts.sustained, facts.detail
    assert (facts.started, facts.open, told["most_waiting"]) == (20, 20, 20)


async def test_what_a_storm_kept_is_taken_back() -> None:
    async with counting() as server:
        async with loading((Storm("keep", rate_hz=20),), server) as running:
            await running.open_window()
            await until(server, lambda told: told["requests"].get("/drop", 0) >= 3)
            await running.stop()
            await running.clean_up()
            (facts,) = running.facts()
        told = await counts(server)
    assert facts.sustained, facts.detail
    assert told["keys"] == []


async def test_what_a_storm_may_have_kept_is_taken_back_after_the_fault() -> None:
    async with counting() as server:
        async with loading((Storm("keep-silently", rate_hz=200, at_most=40),), server) as running:
            await running.open_window()
            await until(server, lambda told: len(told["keys"]) == 40)
            await running.stop()
            assert len((await counts(server))["keys"]) == 40
            await running.clean_up()
            (facts,) = running.facts()
        told = await counts(server)
    assert facts.sustained, facts.detail
    assert (told["keys"], facts.left) == ([], ())


async def test_a_storm_whose_every_call_fails_was_not_there() -> None:
    async with counting() as server:
        facts = await one(server, Storm("refused"))
    assert not facts.sustained
    assert "not one call was answered" in facts.detail
    assert "HTTP 200: ok" in facts.detail


async def test_a_load_whose_process_dies_was_not_there_and_is_no_error() -> None:
    async with counting() as server:
        before = set(psutil.Process().children())
        async with loading((Idle("http /health", 20),), server) as running:
            await running.open_window()
            (process,) = set(psutil.Process().children()) - before
            process.kill()
            await running.stop()
            await running.clean_up()
            (facts,) = running.facts()
        assert (facts.sustained, facts.detail) == (False, "the load's process ended (exit code -9)")
        await until(server, lambda told: told["open"] == 0)


async def test_a_load_speaks_tls_where_the_probe_does(tmp_path: Path) -> None:
    await _openssl(tmp_path)
    async with counting("--tls", str(tmp_path)) as server:
        target = server.target.spec
        probe = msgspec.structs.replace(target.probe[0], url="https://{http}/health")
        server.target = dataclasses.replace(
            server.target, spec=msgspec.structs.replace(target, probe=(probe, *target.probe[1:]))
        )
        loads = (Idle("http /health", 20), SlowLoris("http /health", 20), Scrape("http /health", 5))
        async with loading(loads, server) as running:
            await running.open_window()
            await asyncio.sleep(0.3)
            await running.stop()
            idle, slow, scrape = running.facts()
    assert (idle.sustained, slow.sustained, scrape.sustained) == (True, True, True), running.facts()
    assert scrape.answered > 5


async def test_a_load_ends_with_a_runner_that_is_killed() -> None:
    script = (
        "import asyncio, os, signal, tests.scenarios.test_loads as t\n"
        "async def main():\n"
        "    async with t.counting() as server:\n"
        "        async with t.loading((t.Idle('http /health', 5),), server) as running:\n"
        "            print(running._process.pid, flush=True)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    ended = await _python(script)
    process = int(ended.stdout)
    async with asyncio.timeout(_WITHIN_S):
        while True:
            if not alive(process):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (Idle("http /helth"), r"no probe named 'http /helth'; did you mean http /health"),
        (Storm("wrok"), r"no call named 'wrok'; did you mean work"),
        (Storm("work", hold_s=1), r"call 'work' is answered by its end"),
        (Clients("ovner"), r"no client named 'ovner'; did you mean owner"),
        (Clients("owner"), r"starts with the server: give it `when = \"scenario\"`"),
        (Idle("http /health", 5, held=6), r"held = 6 is more than count = 5"),
    ],
)
async def test_a_load_that_does_not_fit_the_target_is_refused(load: Load, says: str) -> None:
    async with counting() as server:
        with pytest.raises(CouldNotRun, match=says):
            async with loading((load,), server):
                raise AssertionError("it must not get here")


async def test_no_load_costs_no_process() -> None:
    async with counting() as server:
        before = psutil.Process().children()
        async with loading((), server) as running:
            await running.open_window()
            assert psutil.Process().children() == before
            await running.stop()
            await running.clean_up()
            assert running.facts() == ()


async def test_a_load_makes_neither_the_prober_nor_the_runner_late() -> None:
    loads = (Idle("http /health", 1000), Scrape("http /health", rate_hz=200), Storm("work", rate_hz=20))
    async with counting() as server, ProberHandle() as prober:
        lane = HttpSeries(f"http://{server.names['http']}/health", False, 0.05, 0.0, 3.0)
        alone = await late(prober, lane, ())
        async with loading(loads, server) as running:
            await running.open_window()
            loaded = await late(prober, lane, loads)
            await running.stop()
            assert all(facts.sustained for facts in running.facts()), [
                facts.detail for facts in running.facts()
            ]
    # What the judge allows: half of the smallest budget. In the prober's own process it would be seconds.
    assert max(loaded) < 1.0, (max(alone), max(loaded))


async def late(prober: ProberHandle, lane: HttpSeries, loads: Sequence[Load]) -> list[float]:
    """How late the prober took up its probes, and how late this loop did what was due, each the worst."""
    began: list[Began] = []
    prober.on_batch = lambda batch: began.extend(batch.began) if isinstance(batch, Batch) else None
    await prober.watch((lane,), soon())
    runner_s = 0.0
    while len(began) < 40:
        due_s = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        runner_s = max(runner_s, time.monotonic() - due_s)
    await prober.pause()
    return [max(one.taken_up_s - one.at_s for one in began), runner_s]


async def _openssl(folder: Path) -> None:
    """A certificate that nobody knows, and its key."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-keyout key.pem -out cert.pem -subj /CN=127.0.0.1"
    )
    await asyncio.to_thread(
        subprocess.run, command.split(), cwd=folder, check=True, capture_output=True, timeout=_WITHIN_S
    )


async def _python(script: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=_WITHIN_S,
    )
