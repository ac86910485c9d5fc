"""`wedge attach`: load the agent into processes that run already, and hold the session open for them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click

from faults.attach import LOAD_WITHIN_S, attach, outside
from faults.cli.told import seconds, told
from faults.console import console
from faults.controller import Controller

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("attach")
@click.option(
    "--within", "within_s", type=seconds, default=LOAD_WITHIN_S, help="How long it may take to get in."
)
@click.option(
    "--outside",
    "from_outside",
    is_flag=True,
    help="Load nothing: only process.stop, process.kill and process.starve will work, on any program.",
)
@click.option("--quiet", is_flag=True, help="Do not say how to reach it.")
@click.argument("pids", nargs=-1, required=True, type=int, metavar="PID …")
@told
def attach_command(pids: tuple[int, ...], within_s: float, from_outside: bool, quiet: bool) -> None:
    """Load the agent into running Python processes so that they can be broken; say on standard error how.

    Ctrl-C gives back whatever is armed and leaves the processes running. Ends by itself when they have ended.
    """
    sys.exit(asyncio.run(_attach(pids, within_s, from_outside, quiet)))


async def _attach(pids: Sequence[int], within_s: float, from_outside: bool, quiet: bool) -> int:
    interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def interrupt() -> None:
        if not interrupted.done():
            interrupted.set_result(None)

    for number in _INTERRUPTS:
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    async with Controller() as controller, console(controller) as session, AsyncExitStack() as taken_in:
        for pid in pids:
            if from_outside:
                await taken_in.enter_async_context(outside(controller, pid))
            else:
                await attach(controller, pid, within_s=within_s)
        if not quiet:
            which, fault = ", ".join(map(str, pids)), "process.stop" if from_outside else "gil.hold"
            click.echo(
                f"wedge: session {session}, attached to {which}; `wedge arm {fault} --process {pids[0]}` "
                "breaks it, `wedge release --all` gives it back, Ctrl-C lets go",
                err=True,
            )
        ended = asyncio.gather(*(_ended(pid) for pid in pids))
        first: list[asyncio.Future[Any]] = [ended, interrupted]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
    return 0


async def _ended(pid: int) -> None:
    """Wait until the process has ended, its number notwithstanding (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
