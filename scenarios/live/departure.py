"""How a live command ends: by a key, by a signal, with its terminal, or because its work is done."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

Leave = Callable[[int], None]
"""Ends the command with this exit code; the first call counts."""

HUNG_UP = 128 + signal.SIGHUP
_CODES = {signal.SIGINT: 0, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGHUP: HUNG_UP}


class TerminalGone(Exception):
    """Nobody reads what is written any more."""


async def until_left(work: Callable[[Leave], Coroutine[Any, Any, None]]) -> int:
    """Do the work until it is done or left, its contexts closed in order; the exit code.

    SIGINT (Ctrl-C) is a way to leave, with 0; SIGTERM and SIGHUP are 143 and 129. A second signal does not
    cut the tidying up short.
    """
    loop = asyncio.get_running_loop()
    left: asyncio.Future[int] = loop.create_future()

    def leave(code: int) -> None:
        if not left.done():
            left.set_result(code)

    for number, code in _CODES.items():
        loop.add_signal_handler(number, leave, code)
    task = asyncio.ensure_future(work(leave))
    either: set[asyncio.Future[Any]] = {task, left}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not left.done():
            raise
    except TerminalGone:
        leave(0 if not sys.stdout.isatty() else HUNG_UP)
    return left.result() if left.done() else 0


def forget_stdout() -> None:
    """What could not be written is not tried again when the interpreter ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
