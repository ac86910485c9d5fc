"""`wedge exec`: start anything with the agent inside, and hold the session open for as long as it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import click

from faults.cli.told import seconds, told
from faults.console import console
from faults.controller import Controller

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_S = 5.0


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option(
    "--grace", "grace_s", type=seconds, default=_GRACE_S, help="How long it may take to end on Ctrl-C."
)
@click.option("--quiet", is_flag=True, help="Do not say how to reach it.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@told
def exec_command(command: tuple[str, ...], grace_s: float, quiet: bool) -> None:
    """Start COMMAND so that its Python processes can be broken; say on standard error how to reach it.

    Exits as COMMAND does, 128 and the signal's number when a signal ended it. Ctrl-C ends COMMAND, and
    whatever is armed, and leaves nothing behind.
    """
    sys.exit(asyncio.run(_execute(command, grace_s, quiet)))


async def _execute(command: tuple[str, ...], grace_s: float, quiet: bool) -> int:
    interrupted: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def interrupt(number: signal.Signals) -> None:
        if not interrupted.done():
            interrupted.set_result(number)

    for number in _INTERRUPTS:
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    async with Controller() as controller, console(controller) as session:
        launched = await controller.launch(command, env=controller.environment(os.environ), stdin=None)
        if not quiet:
            click.echo(
                f"wedge: session {session}, process {launched.pid}; `wedge arm gil.hold` breaks it, "
                "`wedge release --all` gives it back, `wedge status` shows it",
                err=True,
            )
        ended = asyncio.create_task(launched.wait())
        first: list[asyncio.Future[Any]] = [ended, interrupted]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await controller.release_all()
            await launched.terminate(grace_s)
            await ended
            return 128 + interrupted.result()
        code = ended.result()
    return 1 if code is None else 128 - code if code < 0 else code
