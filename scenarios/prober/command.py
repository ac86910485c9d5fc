"""Probes by a command, as a kubelet's `exec`: status 0 in time is good.

The command runs in a process group of its own, which is killed before the command is reaped: so neither it
nor its children outlive the probe, and no other process can have got the group's number. What made itself a
daemon is left to the prober, its subreaper (prctl(2)), which kills it at the end of the watch. What a command
prints goes nowhere, so it cannot be held up by that, nor hold up the prober.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress

import psutil

from scenarios.prober.messages import CommandSeries, Outcome, Probed

_DEAD_WITHIN_S = 1.0
_SAID_BYTES = 200


class CommandProber:
    """Probes one series. Commands that take longer than the period run side by side."""

    def __init__(self, number: int, series: CommandSeries) -> None:
        self._number, self._series = number, series

    async def probe(self, at_s: float) -> Probed:
        """Probe once; the status is the command's, or 128 and its signal as a shell has it. Never raises but
        for cancellation."""
        sent_s = time.monotonic()
        outcome: Outcome
        try:
            process = subprocess.Popen(
                self._series.command,
                cwd=self._series.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return Probed(self._number, at_s, sent_s, time.monotonic(), "error", 0)
        try:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, 0)  # the prober's own may be better
            async with asyncio.timeout_at(at_s + self._series.give_up_s):
                await _ended(process.pid)
            outcome = "ok"
        except TimeoutError:
            outcome = "timeout"
        finally:
            ended_s = time.monotonic()
            code = await _killed(process)
        if outcome == "timeout":
            return Probed(self._number, at_s, sent_s, ended_s, outcome, 0)
        status = code if code >= 0 else 128 - code
        return Probed(self._number, at_s, sent_s, ended_s, "wrong" if status else "ok", status)

    async def close(self) -> None:
        """Nothing is held between two probes."""


async def said_by(series: CommandSeries) -> str:
    """What the command does and prints, run once more for a person to read: the beginning of it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *series.command,
            cwd=series.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"it cannot be started: {error.strerror}: {error.filename}"
    assert process.stdout is not None
    said, ended = b"", f"has not ended within {series.give_up_s:g} s"
    try:
        async with asyncio.timeout(series.give_up_s):
            said = await process.stdout.read(_SAID_BYTES)
            ended = f"ended with status {await process.wait()}"
    except TimeoutError:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return f"it {ended}: {' '.join(said.decode(errors='replace').split())}".rstrip(": ")


def end_strays() -> None:
    """Kill whatever is below this process, and reap what it was left: when no command runs, what commands
    have left behind."""
    for stray in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            stray.kill()
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _killed(process: subprocess.Popen[bytes]) -> int:
    """Kill the command's group and reap the command: its exit code. One that cannot be killed (it waits in
    the kernel) is left, with that of SIGKILL."""
    os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_DEAD_WITHIN_S):
            await _ended(process.pid)
    code = process.poll()
    return -signal.SIGKILL if code is None else code


async def _ended(pid: int) -> None:
    """Wait until the child has ended; it is not reaped."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
