"""A helper process of the runner: it exchanges JSON lines, and ends when its stdin is closed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys

_LINE_LIMIT_BYTES = 1 << 24
_END_WITHIN_S = 2.0
_PR_SET_PDEATHSIG = 1


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


def tie_to_runner(by: signal.Signals = signal.SIGKILL) -> None:
    """In such a process, before anything else: the kernel ends it (`by` this signal) when the runner dies
    without closing its stdin, and Ctrl-C, which reaches the whole group, is left to the runner. Exits where
    the runner has died already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by)
    if len(sys.argv) > 1 and os.getppid() != int(sys.argv[1]):
        sys.exit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


async def read_stdin() -> asyncio.StreamReader:
    """The runner's commands."""
    reader = asyncio.StreamReader(limit=_LINE_LIMIT_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader
