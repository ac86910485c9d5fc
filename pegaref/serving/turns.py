"""How much of the event loop the work of HTTP connections may take at a time, however much they send.

What one connection sends is worked off in pieces of one request at most, and each connection has one piece
a turn. All of them together have half of the loop's time: what is over waits for its turn, first come,
first served, and the loop sees to everything else in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

WINDOW_S: Final = 0.001
SHARE_S: Final = WINDOW_S / 2

# Routing a request to its endpoint, which happens in a task of its own that nobody times.
ENDPOINT_S: Final = 0.0003


class Turns:
    """The connections' share of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._slow: deque[asyncio.Future[None]] = deque()
        self._window_began_s = 0.0
        self._spent_s = 0.0  # of the window
        self._due = False

    def run(self, work: Callable[[], None]) -> None:
        """Do the work now, or in a later turn if the share is used up."""
        began_s = perf_counter()
        if began_s - self._window_began_s > WINDOW_S:
            self._window_began_s, self._spent_s = began_s, 0.0
        if self._waiting or self._spent_s > SHARE_S:
            self.run_later(work)
            return
        work()
        self._spent_s += perf_counter() - began_s

    def run_later(self, work: Callable[[], None]) -> None:
        """Do the work in a later turn."""
        self._waiting.append(work)
        self._plan_turn()

    def charge(self, seconds: float) -> None:
        """Count time that will be spent on a connection's behalf elsewhere."""
        self._spent_s += seconds

    async def wait_slow(self) -> None:
        """Return in a turn in which this is all that takes long. For what may take milliseconds."""
        granted = asyncio.get_running_loop().create_future()
        self._slow.append(granted)
        self._plan_turn()
        await granted

    def _turn(self) -> None:
        self._due = False
        now_s = self._window_began_s = perf_counter()
        self._spent_s = 0.0
        for _ in range(len(self._waiting)):  # what comes meanwhile has the next turn
            if self._spent_s > SHARE_S:
                break
            began_s = now_s
            self._waiting.popleft()()
            now_s = perf_counter()
            self._spent_s += now_s - began_s
        while self._slow:
            granted = self._slow.popleft()
            if not granted.done():
                granted.set_result(None)
                break
        if self._waiting or self._slow:
            self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn)
