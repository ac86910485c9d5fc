"""Rounds: a call, with what it needs before and what takes it back after, once for each number."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from scenarios.errors import SetupFailed
from scenarios.spec import Call
from scenarios.traffic.caller import Caller, CallFailed

_RETRY_S = 0.05
_AGAIN_AT_MOST = 64
"""So many keys of a large pile are tried again: from the first to the last, evenly spread."""


class Rounds:
    """Makes `call` for these numbers, all at once. Raises `SetupFailed` when one had to succeed and did
    not.
    """

    def __init__(self, caller: Caller, call: Call, numbers: Sequence[int]) -> None:
        self._caller, self._call, self._numbers = caller, call, numbers
        self._chain = caller.chain(call)

    async def whole(self) -> None:
        """Set up, call, take back; for the first few numbers, since one round is like the next."""
        first = self._numbers[:_AGAIN_AT_MOST]
        await _each(self._perform, first)
        await _each(self._take_back, first)

    async def set_up(self) -> None:
        """Only what the calls need before them."""
        if self._chain:
            await _each(self._needed, self._numbers)

    async def take_back(self, answered: Collection[int]) -> None:
        """Undo what was set up, and the calls that were answered. What ended in an error is not: it must have
        left nothing behind."""
        await _each(self._take_back, [n for n in self._numbers if self._chain or n in answered])

    async def again(self, within_s: float) -> int:
        """Whole rounds with the same keys, after `take_back`; how many. A server that just came back may
        refuse for a while, at most `within_s`.
        """
        step = -(-len(self._numbers) // _AGAIN_AT_MOST)
        chosen = self._numbers[::step] if step else ()

        async def once_more(n: int) -> None:
            await self._retried(n, within_s)
            await self._take_back(n)

        await _each(once_more, chosen)
        return len(chosen)

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


async def _each(action: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """All of them to their end, then the first failure."""
    for result in await asyncio.gather(*(action(n) for n in numbers), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
