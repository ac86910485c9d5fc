"""The runner's side of a process that makes load."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

import msgspec

from scenarios import child
from scenarios.errors import ScenariosError
from scenarios.traffic.load.messages import CannotLoad, Command, Report

R = TypeVar("R")


class LoadFailed(ScenariosError):
    """The load's process ended, or did not answer in time: the load counts as not there."""


class CannotBeHad(ScenariosError):
    """The load cannot be had on this machine; the message names the remedy."""


class LoadProcess:
    """One process. Commands are answered one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._decoder = msgspec.json.Decoder(Report)

    @classmethod
    async def started(cls) -> LoadProcess:
        """Start one."""
        return cls(await child.started("scenarios.traffic.load"))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, command: Command, answer: type[R], within_s: float) -> R:
        """Send a command and wait for the answer to it. Raises `LoadFailed`, `CannotBeHad`."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # its end is seen below
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            await self._process.stdin.drain()
        return await self.answer(answer, within_s)

    async def answer(self, answer: type[R], within_s: float) -> R:
        """Wait for one more answer to the last command. Raises as `ask` does."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
                if not line:
                    code = await self._process.wait()
                    raise LoadFailed(f"the load's process ended (exit code {code})")
        except TimeoutError:
            raise LoadFailed(f"the load's process did not answer within {within_s:g} s") from None
        report = self._decoder.decode(line)
        if isinstance(report, CannotLoad):
            raise CannotBeHad(report.problem)
        if not isinstance(report, answer):
            raise LoadFailed(f"the load's process answered {type(report).__name__}")
        return report

    async def end(self) -> None:
        """End it; the kernel closes what it has open."""
        await child.ended(self._process)
