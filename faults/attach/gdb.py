"""Load the agent with gdb: for Python before 3.14, which cannot be asked to run a script.

gdb stops the process, has one of its threads make three short calls, and lets it go. None of the calls can
wait for the GIL. Two things decide how:

- A thread that waits in the kernel (found before gdb comes, and found again by its stack pointer when it is
  there) holds no lock of the C library, so in its name a new thread is started, which waits for the GIL by
  itself (`trampoline`).
- If every thread is busy, as in a program that only computes, or has moved on each time that gdb came, the
  string is queued with Py_AddPendingCall, which needs no GIL and no memory; the main thread runs it at its
  next safe point.

Stopping a process makes some of its system calls return EINTR (signal(7), "Interruption of system calls and
library functions by stop signals"). Python repeats them (PEP 475); a C program has to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from faults.attach import commands, seats, trampoline
from faults.attach.refusals import NeverLoaded, NoProcess, NotAllowed, NotAttachable, NotPython, ToolMissing
from faults.attach.target import Target

log = logging.getLogger(__name__)

_TRIES = 3
_GDB_WITHIN_S = 15.0
_GDB_STOPS_WITHIN_S = 5.0
_SAYS = re.compile(r"^wedge: (\w+)", re.MULTILINE)


async def load(target: Target, source: str) -> None:
    """Have the process run `source`, soon; it may not have when this returns. The process is let go in any
    case.

    Raises ToolMissing, NotAllowed, NotPython, NoProcess, NeverLoaded.
    """
    gdb = shutil.which("gdb")
    if gdb is None:
        raise ToolMissing(
            target.pid,
            "its Python cannot be asked to load a script (that takes 3.14), and gdb is not installed",
            "install it (`apt-get install gdb`), or start the target with `wedge exec`",
        )
    for tries_left in reversed(range(_TRIES)):
        waiting = await seats.find(target.pid) if tries_left and trampoline.supported() else []
        said, output = await _run(gdb, target, commands.write(target, source, waiting))
        if said == "loaded":
            return
        if said != "moved" or not tries_left:
            raise _refusal(target, said, output)


async def _run(gdb: str, target: Target, script: str) -> tuple[str, str]:
    """What gdb said last, and all it printed. The script goes through a descriptor, so nothing is left on
    disk.
    """
    fd = os.memfd_create("wedge-gdb")
    try:
        os.write(fd, script.encode())
        process = await asyncio.create_subprocess_exec(
            gdb, "-nx", "-q", "-batch", "-x", f"/proc/self/fd/{fd}", pass_fds=(fd,), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    finally:
        os.close(fd)
    reading = asyncio.ensure_future(process.communicate())
    try:
        output = (await asyncio.wait_for(asyncio.shield(reading), _GDB_WITHIN_S))[0].decode(errors="replace")
    except (TimeoutError, asyncio.CancelledError) as interruption:
        await asyncio.shield(_stop(process, reading))
        if isinstance(interruption, TimeoutError):
            raise NeverLoaded(
                target.pid,
                f"gdb was not done with it within {_GDB_WITHIN_S:g} s and was told to let it go",
                "see whether it is in an uninterruptible wait (state D)",
            ) from None
        raise
    log.debug("gdb on process %d: %s", target.pid, output)
    said = _SAYS.findall(output)
    return (said[-1] if said else ""), output


async def _stop(process: asyncio.subprocess.Process, reading: asyncio.Future[tuple[bytes, bytes]]) -> None:
    """End gdb so that it puts back what it changed and lets the process go: it does on SIGINT and SIGTERM.

    SIGKILL comes last, and lets the process go too, only not as it was.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), _GDB_STOPS_WITHIN_S)
            return


def _refusal(target: Target, said: str, output: str) -> NotAttachable:
    pid = target.pid
    if said == "uninitialised":
        return NotPython(pid, "its Python interpreter has not been started, or is shut down")
    if said == "full":
        return NeverLoaded(pid, "its queue of pending calls is full", "try once more")
    if said in ("nopage", "nothread"):
        what = "page of memory" if said == "nopage" else "thread"
        return NotAttachable(pid, f"it can have no other {what}", "raise its limits (`prlimit`)")
    if "No such process" in output or not Path(f"/proc/{pid}").exists():
        return NoProcess(pid, "it ended while gdb attached to it")
    if "Operation not permitted" in output or "Permission denied" in output:
        return NotAllowed(
            pid,
            "the kernel does not let gdb trace it (a container without SYS_PTRACE, or its own wish)",
            "give the container SYS_PTRACE, run as root, or start the target with `wedge exec`",
        )
    last = output.strip().splitlines()[-1:] or ["nothing"]
    return NotAttachable(pid, f"gdb failed, its last word was {last[0]!r}", "report this with gdb's version")
