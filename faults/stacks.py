"""Where a process stands while a fault bites: from its agent if that can answer, else read from outside by
py-spy.

py-spy reads the memory of the process and does not stop it; it is used if it is installed (beside this Python
or on the PATH) and this user may read that memory (ptrace(2), "Ptrace access mode checking").
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from faults.errors import NotAnswered, ProcessGone
from faults.evidence import Place

_ASK_WITHIN_S = 0.5
_READ_WITHIN_S = 10.0


async def stacks(place: Place) -> list[str]:
    """A text for each process of a place, the stacks of its threads in it; none where they cannot be had."""
    found = [await _from_agent(place)] if place.link.info in place.processes else []
    if any(found):
        return found
    read = [await _from_outside(process.pid) for process in place.processes]
    return [text for text in read if text]


async def _from_agent(place: Place) -> str:
    try:
        answer = await place.link.ask({"do": "stacks"}, within_s=_ASK_WITHIN_S)
    except (NotAnswered, ProcessGone):
        return ""
    threads = [
        f"thread {ident} of process {place.link.info.pid}:\n{''.join(lines)}"
        for ident, lines in answer["stacks"].items()
    ]
    return "\n".join(threads)


async def _from_outside(pid: int) -> str:
    """What py-spy prints; empty when it is not there, or cannot read the process in time."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        return ""
    reader = await asyncio.create_subprocess_exec(
        program, "dump", "--nonblocking", "--pid", str(pid),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_READ_WITHIN_S):
            printed, _ = await reader.communicate()
    except TimeoutError:
        return ""
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()
    return printed.decode(errors="replace") if reader.returncode == 0 else ""
