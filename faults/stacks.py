"""Where a process stands while a fault bites, from its agent if that can answer, else read by py-spy.

py-spy reads the memory of the process and does not stop it; it is used if it is installed (beside this Python
or on the PATH) and this user may read that memory (ptrace(2), "Ptrace access mode checking").
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from faults.agent.wedge_agent.protocol import ReadStacks, Refused, Stacks
from faults.errors import NotAnswered, ProcessGone
from faults.injection import Injection
from faults.model import Frame, Thread, ThreadStack

_ASK_WITHIN_S = 0.5
_READ_WITHIN_S = 10.0


async def stacks(injection: Injection, inside: Set[int]) -> list[ThreadStack]:
    """The threads of an injection: those in the fault, where the agent answers; else all of its processes.

    `inside` are those of its threads that are in the fault, as the kernel numbers them.
    """
    found = await _from_agent(injection) if injection.link.info in injection.processes else []
    if found:
        return found
    return [thread for process in injection.processes for thread in await _from_outside(process.pid, inside)]


async def process_stacks(pids: Sequence[int]) -> dict[int, str]:
    """Where all threads of these processes stand now, read from outside, in the form of a Python traceback,
    the main thread first. No entry for a process that runs no Python, has ended, or cannot be read.
    """
    found = await asyncio.gather(*(_from_outside(pid, frozenset()) for pid in pids))
    texts = {
        pid: "\n".join(map(_format_stack, sorted(threads, key=lambda one: one.thread.tid != pid)))
        for pid, threads in zip(pids, found, strict=True)
    }
    return {pid: text for pid, text in texts.items() if text}


def format_stacks(threads: Sequence[ThreadStack]) -> tuple[str, ...]:
    """The stacks in the form of a Python traceback (innermost call last), one text for each process."""
    pids = dict.fromkeys(found.thread.pid for found in threads)
    return tuple(
        "\n".join(_format_stack(found) for found in threads if found.thread.pid == pid) for pid in pids
    )


def _format_stack(found: ThreadStack) -> str:
    name = f" {found.name!r}" if found.name else ""
    where = ", in the fault" if found.inside else ""
    lines = [f"thread {found.thread.tid}{name} of process {found.thread.pid}{where}:"]
    for frame in reversed(found.frames):
        lines.append(f'  File "{frame.file}", line {frame.line}, in {frame.function}')
        if frame.text:
            lines.append(f"    {frame.text}")
    return "\n".join(lines) + "\n"


async def _from_agent(injection: Injection) -> list[ThreadStack]:
    try:
        answer = await injection.link.ask(ReadStacks(), Stacks, within_s=_ASK_WITHIN_S)
    except (NotAnswered, ProcessGone, Refused):
        return []
    pid = injection.link.info.pid
    return [
        ThreadStack(
            Thread(pid, tid), tuple(Frame(*frame) for frame in frames), True, "MainThread" * (tid == pid)
        )
        for tid, frames in answer.threads
    ]


async def _from_outside(pid: int, inside: Set[int]) -> list[ThreadStack]:
    """The stacks that py-spy reads; empty if it is not installed or cannot read the process in time."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        return []
    reader = await asyncio.create_subprocess_exec(
        program, "dump", "--nonblocking", "--json", "--pid", str(pid),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_READ_WITHIN_S):
            printed, _ = await reader.communicate()
    except TimeoutError:
        return []
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()
    return [_spied(pid, found, inside) for found in json.loads(printed)] if reader.returncode == 0 else []


def _spied(pid: int, found: dict[str, Any], inside: Set[int]) -> ThreadStack:
    tid = found["os_thread_id"] or 0
    frames = tuple(Frame(frame["name"], frame["filename"], frame["line"]) for frame in found["frames"])
    name = "MainThread" if tid == pid else found["thread_name"] or ""
    return ThreadStack(Thread(pid, tid), frames, tid in inside, name)
