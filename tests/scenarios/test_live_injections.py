"""Which thread is stuck where: read from a real server that a real fault holds up."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scenarios.live.calls import ManualCalls
from scenarios.live.injections import FaultManager, StuckThread
from scenarios.live.processes import process_refs, read_processes
from scenarios.server.server import Server, serving
from scenarios.spec import target_file

PY_SPY = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
WITHIN_S = 20.0


@pytest.fixture
async def server(servers: Path) -> AsyncIterator[Server]:
    async with serving(target_file.load(servers / "tiny-thread.toml")) as running:
        yield running


async def held_up(faults: FaultManager) -> tuple[StuckThread, ...]:
    """Look until some thread is seen to be stuck."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            await faults.refresh()
            if found := [thread for active in faults.armed() for thread in active.stuck]:
                return tuple(found)
            await asyncio.sleep(0.02)


async def test_a_stalled_call_is_stuck_below_the_line_that_called_it(server: Server) -> None:
    faults = FaultManager(server.controller, 30.0)
    calls = ManualCalls(server.target.spec, server.caller)
    await faults.arm("call.stall", "registry", {"site": "gpu"})
    call = asyncio.create_task(calls.make("keep"))
    (thread,) = await held_up(faults)
    assert thread.in_fault
    assert re.match(r".*: synchronize gpu\.py:\d+ ← keep gpu\.py:\d+", str(thread))
    assert faults.armed()[0].proven
    (tally,) = calls.tallies()
    assert (tally.call, tally.pending, tally.answered) == ("keep", 1, 0)
    await faults.release_all()
    async with asyncio.timeout(WITHIN_S):
        await call
    (tally,) = calls.tallies()
    assert (tally.pending, tally.answered, tally.errors) == (0, 1, 0)
    assert faults.armed() == ()


@pytest.mark.skipif(PY_SPY is None, reason="py-spy is not installed, and the agent cannot answer")
async def test_a_held_gil_is_the_faults_own_thread_and_the_main_thread_is_shown_too(server: Server) -> None:
    faults = FaultManager(server.controller, 30.0)
    await faults.arm("gil.hold", "registry", {})
    own, main = await held_up(faults)
    assert str(own) == f"a thread of the fault itself in {server.launched.pid}"
    assert "tiny.py:" in str(main)
    await faults.release_all()


async def test_a_killed_process_takes_its_fault_with_it(server: Server) -> None:
    faults = FaultManager(server.controller, 30.0)
    await faults.arm("process.kill", "registry", {})
    async with asyncio.timeout(WITHIN_S):
        while faults.armed():
            await faults.refresh()
            await asyncio.sleep(0.02)
    (active,) = faults.over()
    assert active.gone


async def test_of_names_for_the_same_processes_only_the_last_can_be_chosen(server: Server) -> None:
    rows = await read_processes(server)
    assert [row.names for row in rows] == [("server", "registry")]
    assert process_refs(rows) == ("registry",)
