"""A real process for the tests: they send it expressions and check whether it still ticks."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from faults import Controller, Launched

PROGRAM = Path(__file__).parent / "program" / "workbench.py"
DEADLINE_S = 15.0
QUIET_S = 0.3


class Target:
    """The running workbench program, controlled through its two streams."""

    def __init__(self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.pid = pid
        self._stdin, self._stdout = stdin, stdout
        self.last_tick_s = 0.0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._ticked = asyncio.Event()
        self._ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while line := await self._stdout.readline():
            message = json.loads(line)
            if "tick" in message:
                self.last_tick_s = message["tick"] / 1e9
                self._ticked.set()
            elif "ready" in message:
                self._ready.set()
            elif "error" in message:
                self._answers.pop(message["id"]).set_exception(TargetError(message["error"]))
            else:
                self._answers.pop(message["id"]).set_result(message["value"])

    async def ready(self) -> None:
        """Wait until it runs."""
        async with asyncio.timeout(DEADLINE_S):
            await self._ready.wait()

    def start(self, expression: str, *, main: bool = False, execute: bool = False) -> asyncio.Future[Any]:
        """Evaluate an expression in the program, in a new thread or in its main one; a future for the
        value."""
        self._number += 1
        future = self._answers[self._number] = asyncio.get_running_loop().create_future()
        order = {"id": self._number, "exec" if execute else "eval": expression, "main": main}
        self._stdin.write(json.dumps(order).encode() + b"\n")
        return future

    async def ask(self, expression: str, *, main: bool = False) -> Any:
        """The value of an expression in the program. Raises TargetError if it fails there."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.start(expression, main=main)

    async def do(self, statements: str) -> None:
        """Execute statements in the program."""
        async with asyncio.timeout(DEADLINE_S):
            await self.start(statements, execute=True)

    async def ticks(self) -> None:
        """Wait for a tick that was made after this call."""
        now = time.monotonic()
        async with asyncio.timeout(DEADLINE_S):
            while self.last_tick_s <= now:
                self._ticked.clear()
                await self._ticked.wait()

    async def is_silent(self, *, for_s: float = QUIET_S) -> bool:
        """Whether the program makes no tick for `for_s` seconds from now."""
        now = time.monotonic()
        await asyncio.sleep(for_s)
        return self.last_tick_s <= now

    async def ended(self) -> None:
        """Wait until its output has ended, and read all of it."""
        async with asyncio.timeout(DEADLINE_S):
            await self._reading


class LaunchedTarget(Target):
    """A workbench program that a controller launched."""

    def __init__(self, launched: Launched) -> None:
        assert launched.stdin is not None
        assert launched.stdout is not None
        super().__init__(launched.pid, launched.stdin, launched.stdout)
        self.launched = launched


class TargetError(Exception):
    """The evaluated expression raised in the program."""


@asynccontextmanager
async def launched(controller: Controller, *, python: str = sys.executable) -> AsyncIterator[LaunchedTarget]:
    """A workbench program with an agent."""
    process = await controller.launch(
        [python, str(PROGRAM)], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    target = LaunchedTarget(process)
    try:
        await target.ready()
        yield target
    finally:
        await process.close()
        await target.ended()


async def pending(future: asyncio.Future[Any], *, for_s: float = QUIET_S) -> bool:
    """Whether the future has no result for `for_s` seconds."""
    done, _ = await asyncio.wait([future], timeout=for_s)
    return not done


async def result(future: asyncio.Future[Any]) -> Any:
    """The future's result, within the tests' deadline."""
    async with asyncio.timeout(DEADLINE_S):
        return await future


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, by polling: it reads memory that another process writes without
    notice."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
