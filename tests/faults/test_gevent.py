"""In a program of greenlets every fault bites, and what is the agent's is told from what is the program's."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faults import AGENT_THREAD_NAME, Controller, Launched, Selector
from tests.faults.bench import DEADLINE_S

PROGRAM = Path(__file__).parent / "program" / "greenlets.py"
SITE = {"site": "__main__:work"}
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "noop": {},
    "gil.hold": {},
    "gil.contend": {"threads": 2},
    "call.stall": SITE,
    "call.delay": {**SITE, "delay": 0.01},
    "call.raise": SITE,
    "call.drop": SITE,
    "call.corrupt": {**SITE, "value": 2},
    "call.count": SITE,
    "call.repeat": SITE,
    "object.finalizer_stall": {"site": "__main__:Dying"},
    "loop.block": {},
    "fd.exhaust": {},
    "memory.pressure": {"size": "16M"},
    "process.stop": {},
}
WAIT = ("call.stall", "call.delay", "object.finalizer_stall")


class Greenlets:
    """The program, running."""

    def __init__(self, launched: Launched) -> None:
        assert launched.stdin is not None
        assert launched.stdout is not None
        self._stdin, self._stdout, self.pid = launched.stdin, launched.stdout, 0

    async def says(self, key: str) -> dict[str, Any]:
        """The next line that has that key."""
        async with asyncio.timeout(DEADLINE_S):
            while key not in (said := json.loads(await self._stdout.readline())):
                continue
        found: dict[str, Any] = said
        return found

    async def goes_on(self) -> None:
        """Wait for work that was done after this call."""
        now = time.monotonic_ns()
        while (await self.says("work"))["work"] <= now:
            continue

    async def holds(self, own: tuple[int, ...]) -> dict[str, Any]:
        """What it holds, by itself and by the kernel, without the agent's."""
        self._stdin.write(b"x")
        process = Path(f"/proc/{self.pid}")
        fds = {fd.name: str(fd.readlink()) for fd in (process / "fd").iterdir() if int(fd.name) not in own}
        names = [(task / "comm").read_text().strip() for task in (process / "task").iterdir()]
        return {
            **await self.says("hubs"),
            "fds": fds,
            "tasks": sorted(name for name in names if name != AGENT_THREAD_NAME),
            "agents": names.count(AGENT_THREAD_NAME),
        }


@asynccontextmanager
async def greenlets(controller: Controller) -> AsyncIterator[Greenlets]:
    pipe = asyncio.subprocess.PIPE
    launched = await controller.launch([sys.executable, str(PROGRAM)], stdin=pipe, stdout=pipe)
    program = Greenlets(launched)
    try:
        program.pid = (await program.says("pid"))["pid"]
        yield program
    finally:
        await launched.close()


async def test_every_fault_bites_a_program_of_greenlets_and_nothing_of_it_stays(
    controller: Controller,
) -> None:
    pytest.importorskip("gevent")
    async with greenlets(controller) as program:
        info = await controller.wait_process(Selector(pid=program.pid))
        await program.holds(info.agent_fds)  # gevent starts a thread for its first read
        before = await program.holds(info.agent_fds)
        for name, params in FAULTS.items():
            async with controller.arm(name, process=program.pid, params=params) as fault:
                status = await fault.wait_biting(timeout_s=DEADLINE_S)
                assert any("stops its hub" in said for said in status.evidence) == (name in WAIT), name
            await program.goes_on()
        assert await program.holds(info.agent_fds) == before
    assert before["hubs"] == 1
    assert len(info.agent_fds) == 3
    assert len(before["threads"]) == before["agents"] == 1
