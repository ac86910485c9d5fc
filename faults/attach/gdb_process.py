"""One run of gdb, and the meaning of its output."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from faults.attach.refusals import NeverLoaded, NoProcess, NotAllowed, NotAttachable, NotPython

log = logging.getLogger(__name__)

WITHIN_S = 15.0
_STOPS_WITHIN_S = 5.0
_SAYS = re.compile(r"^wedge: (\w+)", re.MULTILINE)
_REGISTERS = re.compile(r"^.*\b(?:extended state|registers?)\b.*$", re.MULTILINE | re.IGNORECASE)
_COMPLAINT = re.compile(
    r"^(?!warning:|.*: Error in sourced command file:).*"
    r"\b(?:can't|cannot|couldn't|could not|failed|error|no such|denied|not permitted)\b.*$",
    re.MULTILINE | re.IGNORECASE,
)


async def run(gdb: str, script: str) -> tuple[str, str]:
    """What gdb said last, and all it printed. The script goes through a descriptor, so nothing is left on
    disk. Raises TimeoutError when it took too long and was told to let go.
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
        output = (await asyncio.wait_for(asyncio.shield(reading), WITHIN_S))[0].decode(errors="replace")
    except (TimeoutError, asyncio.CancelledError):
        await asyncio.shield(_stop(process, reading))
        raise
    log.debug("gdb: %s", output)
    said = _SAYS.findall(output)
    return (said[-1] if said else ""), output


async def _stop(process: asyncio.subprocess.Process, reading: asyncio.Future[tuple[bytes, bytes]]) -> None:
    """End gdb with SIGINT, then SIGTERM, on which it restores the process and lets it go.

    SIGKILL comes last; it lets the process go too, but not restored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), _STOPS_WITHIN_S)
            return


def complaint(output: str) -> str:
    """The line of gdb's output that tells why it failed.

    Later lines are consequences: once registers cannot be written, every further step fails too, and the last
    line only says that gdb lets the process go.
    """
    found = _REGISTERS.search(output) or _COMPLAINT.search(output)
    return found[0].strip() if found else (output.strip().splitlines() or ["nothing"])[-1]


def refusal(pid: int, said: str, output: str) -> NotAttachable:
    """The refusal for a gdb that did not load the agent into process `pid`."""
    if said == "uninitialised":
        return NotPython(pid, "its Python interpreter has not been started, or is shut down")
    if said == "full":
        return NeverLoaded(pid, "its queue of pending calls is full", "try once more")
    if said in ("nopage", "nothread"):
        what = "page of memory" if said == "nopage" else "thread"
        return NotAttachable(pid, f"it can have no other {what}", "raise its limits (`prlimit`)")
    cause = complaint(output)
    if "No such process" in cause or not (Path(f"/proc/{pid}").exists() or _REGISTERS.search(output)):
        return NoProcess(pid, "it ended while gdb attached to it")
    if "Operation not permitted" in output or "Permission denied" in output:
        return NotAllowed(
            pid,
            "the kernel does not let gdb trace it (a container without SYS_PTRACE, or its own wish)",
            "give the container SYS_PTRACE, run as root, or start the target with `wedge exec`",
        )
    return NotAttachable(pid, f"gdb failed: {cause!r}", "report this with gdb's version")
