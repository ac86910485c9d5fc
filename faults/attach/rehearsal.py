"""Tests, on a process of our own, whether gdb can enter a process on this machine without breaking it.

gdb 13.1 (Debian 12) cannot write the extended registers of processors that have AMX (Intel's from Sapphire
Rapids on): the kernel takes no state that is shorter than the processor's (EFAULT). After the first function
that gdb has called, the registers cannot be put back, and the system call that the process was in is not
resumed: it fails with `Unknown error 512`, and the process dies of it. So the load is rehearsed in a process
that waits in a system call and has to go on in it. That takes about 0.2 s, once for each gdb.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import suppress
from pathlib import Path

from faults.attach import commands, gdb_process, seats, trampoline
from faults.attach.refusals import NotAllowed, NotAttachable, ToolUnfit
from faults.attach.target import look

log = logging.getLogger(__name__)

_STARTS_WITHIN_S = _ANSWERS_WITHIN_S = 10.0
_STAND_IN = "import os; os.write(1, b'?'); os.write(1, os.read(0, 1)); os._exit(0)"

_found: dict[tuple[str, int], str | None] = {}
"""What stands against each gdb that has been tried, None if nothing; by its path and when it was modified."""


async def check(gdb: str, pid: int) -> None:
    """Return if `gdb` is safe to use. `pid`, the process that it is wanted for, is not touched.

    Raises ToolUnfit, NotAllowed.
    """
    this = gdb, Path(gdb).stat().st_mtime_ns
    if this not in _found:
        begun = time.monotonic()
        _found[this] = await _try(gdb, pid)
        log.info(
            "tried %s in %.0f ms: %s", gdb, (time.monotonic() - begun) * 1e3, _found[this] or "it is fit"
        )
    if (obstacle := _found[this]) is not None:
        raise ToolUnfit(pid, obstacle)


async def _try(gdb: str, pid: int) -> str | None:
    """What gdb does wrong; None if nothing. Raises ToolUnfit or NotAllowed if gdb could not run at all, which
    may be different another time.
    """
    stand_in = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _STAND_IN, start_new_session=True,  # out of reach of Ctrl-C
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        said, output = await _load_nothing(gdb, stand_in)
        well = await _goes_on(stand_in)
    except (TimeoutError, EOFError):
        raise ToolUnfit(pid, "gdb could not be tried on another process in time") from None
    except NotAttachable as error:
        raise ToolUnfit(pid, f"gdb could not be tried on another process: {error.reason}") from None
    finally:
        await asyncio.shield(_end(stand_in))
    if not well:
        return f"gdb broke another process that it was tried on: {gdb_process.complaint(output)!r}"
    if said == "loaded":
        return None
    refusal = gdb_process.refusal(pid, said, output)
    if isinstance(refusal, NotAllowed):
        raise refusal
    raise ToolUnfit(pid, f"gdb failed on another process: {gdb_process.complaint(output)!r}")


async def _load_nothing(gdb: str, process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Run the steps of a load on the process; returns gdb's last word and everything that it printed."""
    assert process.stdout is not None
    async with asyncio.timeout(_STARTS_WITHIN_S):
        await process.stdout.readexactly(1)
    waiting = await seats.find(process.pid) if trampoline.supported() else []
    return await gdb_process.run(gdb, commands.write(look(process.pid), "pass", waiting))


async def _goes_on(process: asyncio.subprocess.Process) -> bool:
    """Whether the process still waits for a byte, answers it, and exits normally."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"!")
    with suppress(TimeoutError):
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            return await process.stdout.read() == b"!" and await process.wait() == 0
    return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process if it still runs, and close its pipes."""
    assert process.stdin is not None
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    process.stdin.close()
    await process.communicate()
