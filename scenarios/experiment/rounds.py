"""Rounds: the scenario's call, with what it needs before and what takes it back after, once for each
number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from scenarios.errors import SetupFailed
from scenarios.target import Call
from scenarios.traffic.caller import Caller, CallFailed

_RETRY_S = 0.05


class Rounds:
    """Makes `call` for the numbers 1 to `count`, all at once. Raises `SetupFailed` when one had to
    succeed and did not.
    """

    def __init__(self, caller: Caller, call: Call, count: int) -> None:
        self._caller, self._call, self._count = caller, call, count
        self._chain = caller.chain(call)

    async def whole(self) -> None:
        """Set up, call, take back."""
        await self._each(self._perform)
        await self._each(self._take_back)

    async def set_up(self) -> None:
        """Only what the calls need before them."""
        if self._chain:
            await self._each(self._needed)

    async def again(self, answered: Collection[int], within_s: float) -> None:
        """Whole rounds with the same keys, after calls under a fault of which those in `answered` succeeded.

        What had been set up, and what was answered, is taken back first. What ended in an error is not:
        it must have left nothing behind. A server that just came back may refuse for a while, at most
        `within_s`.
        """

        async def once_more(n: int) -> None:
            if self._chain or n in answered:
                await self._take_back(n)
            await self._retried(n, within_s)
            await self._take_back(n)

        await self._each(once_more)

    async def _retried(self, n: int, within_s: float) -> None:
        give_up_s = time.monotonic() + within_s
        while True:
            try:
                return await self._perform(n)
            except SetupFailed:
                if time.monotonic() > give_up_s:
                    raise
            if self._chain:  # it may have come as far as that
                await self._take_back(n)
            await asyncio.sleep(_RETRY_S)

    async def _perform(self, n: int) -> None:
        await self._needed(n)
        await self._succeed(self._call, n)

    async def _needed(self, n: int) -> None:
        for call in self._chain:
            await self._succeed(call, n)

    async def _succeed(self, call: Call, n: int) -> None:
        try:
            await self._caller.make(call, n)
        except CallFailed as error:
            raise SetupFailed(f"call {call.name} number {n} had to succeed: {error}") from error

    async def _take_back(self, n: int) -> None:
        await self._caller.undo(self._call, n, self._call.deadline_s)

    async def _each(self, action: Callable[[int], Awaitable[None]]) -> None:
        """All of them to their end, then the first failure."""
        numbers = range(1, self._count + 1)
        for result in await asyncio.gather(*(action(n) for n in numbers), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
