"""`wedge exec` and `wedge attach`: get the agent into processes, and hold the session open for them."""

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
from faults.cli.errors import report_errors, seconds
from faults.control_server import control_server
from faults.controller import Controller

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_S = 5.0


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option(
    "--grace", "grace_s", type=seconds, default=_GRACE_S, help="How long it may take to end on Ctrl-C."
)
@click.option("--quiet", is_flag=True, help="Do not say how to reach it.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@report_errors
def exec_command(command: tuple[str, ...], grace_s: float, quiet: bool) -> None:
    """Start COMMAND so that its Python processes can be broken; print on standard error how to reach it.

    Exits with COMMAND's exit code, or 128 plus the signal's number if a signal ended it. Ctrl-C ends COMMAND
    and everything that is armed, and leaves nothing behind.
    """
    sys.exit(asyncio.run(_execute(command, grace_s, quiet)))


async def _execute(command: tuple[str, ...], grace_s: float, quiet: bool) -> int:
    interrupted = _catch_interrupts()
    async with Controller() as controller, control_server(controller) as session:
        launched = await controller.launch(command, env=controller.environment(os.environ), stdin=None)
        if not quiet:
            click.echo(
                f"wedge: session {session}, process {launched.pid}; `wedge arm gil.hold` breaks it, "
                "`wedge release --all` gives it back, `wedge status` shows it",
                err=True,
            )
        ended = asyncio.create_task(launched.wait())
        if await _wait_first(ended, interrupted) is not ended:
            await controller.release_all()
            await launched.terminate(grace_s)
            await ended
            return 128 + interrupted.result()
        code = ended.result()
    return 1 if code is None else 128 - code if code < 0 else code


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
@report_errors
def attach_command(pids: tuple[int, ...], within_s: float, from_outside: bool, quiet: bool) -> None:
    """Load the agent into running Python processes so that they can be broken; print how on standard error.

    Ctrl-C releases everything that is armed and leaves the processes running. Exits when they have all ended.
    """
    sys.exit(asyncio.run(_attach(pids, within_s, from_outside, quiet)))


async def _attach(pids: Sequence[int], within_s: float, from_outside: bool, quiet: bool) -> int:
    interrupted = _catch_interrupts()
    async with (
        Controller() as controller,
        control_server(controller) as session,
        AsyncExitStack() as taken_in,
    ):
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
        ended = asyncio.gather(*(_wait_ended(pid) for pid in pids))
        if await _wait_first(ended, interrupted) is not ended:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
    return 0


async def _wait_ended(pid: int) -> None:
    """Wait until the process has ended, even if its number is reused (pidfd_open(2))."""
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


def _catch_interrupts() -> asyncio.Future[signal.Signals]:
    """A future for the first signal that asks this process to end, which then no longer ends it."""
    loop = asyncio.get_running_loop()
    interrupted: asyncio.Future[signal.Signals] = loop.create_future()

    def interrupt(number: signal.Signals) -> None:
        if not interrupted.done():
            interrupted.set_result(number)

    for number in _INTERRUPTS:
        loop.add_signal_handler(number, interrupt, number)
    return interrupted


async def _wait_first(*futures: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Wait until one of them is done; of several that are, the first that was given."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    return next(future for future in futures if future.done())
