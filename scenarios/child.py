"""A helper process of the runner: it exchanges JSON lines, and ends when its stdin is closed."""

from __future__ import annotations

import asyncio
import os
import sys

_LINE_LIMIT_BYTES = 1 << 24
_END_WITHIN_S = 2.0


async def start_process(module: str) -> asyncio.subprocess.Process:
    """Start `python -m module PID`; PID is this process's id, with which the child ends."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT_BYTES,
    )


async def end_process(process: asyncio.subprocess.Process) -> None:
    """End the process, with SIGKILL if it takes too long."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
