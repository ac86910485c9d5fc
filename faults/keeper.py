"""Start the keeper: the process that does, and undoes, what is done to the target from outside."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from pathlib import Path

log = logging.getLogger(__name__)

_END_WITHIN_S = 10.0
AGENT_DIRECTORY = Path(__file__).parent / "agent"

_CODE = "import sys; sys.path.insert(0, {path!r}); from wedge_agent.keeper import main; main(sys.argv[1:])"


async def start(directory: Path) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """The keeper and our end of its socket; it ends when that is closed, after undoing all it did."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _CODE.format(path=str(AGENT_DIRECTORY)),
            str(theirs.fileno()), str(directory),
            pass_fds=(theirs.fileno(),), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    return process, ours


async def ended(process: asyncio.subprocess.Process) -> None:
    """Wait for its end, which is its own once its socket is closed and it has undone what it did; kills it if
    that takes too long.
    """
    try:
        async with asyncio.timeout(_END_WITHIN_S):
            await process.wait()
    except TimeoutError:
        log.error("the keeper %d does not end, and is killed", process.pid)
        process.kill()
        await process.wait()
