"""Processes that were not started for an agent."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from faults import Controller, Launched
from faults.attach import NotPython, attach
from tests.faults.bench import DEADLINE_S, PROGRAM, LaunchedTarget


@asynccontextmanager
async def unaware(controller: Controller, python: str = sys.executable) -> AsyncIterator[LaunchedTarget]:
    """A workbench without an agent."""
    process = await controller.launch(
        [python, str(PROGRAM)],
        env=dict(os.environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    target = LaunchedTarget(process)
    try:
        await target.ready()
        yield target
    finally:
        await process.close()
        await target.ended()


async def running(controller: Controller, code: str) -> Launched:
    """A Python program without an agent, its streams piped; ended with the controller. It says a line once it
    runs.
    """
    process = await controller.launch(
        [sys.executable, "-u", "-c", code],
        env=dict(os.environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stdout.readline()
    return process


async def attach_as_soon_as_it_runs(controller: Controller, pid: int) -> None:
    """Attach to a process that has only just been started."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await attach(controller, pid)
                return
            except NotPython:
                await asyncio.sleep(0.02)


def tracer(pid: int) -> int:
    """The process that traces `pid`; 0 when none does."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid"))


def threads(pid: int) -> int:
    """How many threads the process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def descriptors(pid: int) -> int:
    """How many descriptors the process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
