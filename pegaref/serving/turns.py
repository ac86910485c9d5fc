"""How much of the event loop the work of HTTP connections may take at a time, however much they send.

What one connection sends is worked off in pieces of one request at most, and each connection has one piece
a turn. All of them together have a part of it: what is over waits for its turn, first come,
first served, and the loop sees to everything else in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

# What comes is worked off at once as long as that took at most so much of the last while.
WINDOW_S: Final = 0.0025
AT_ONCE_S: Final = 0.002

# After that it waits, and has so much of each turn. Turns have to be short: uvloop takes up a few
# connections a turn, and a probe may stand behind hundreds.
TURN_S: Final = 0.0005

# Routing a request to its endpoint, which happens in a task of its own that nobody times.
ENDPOINT_S: Final = 0.0003


class Turns:
    """The connections' share of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._slow: deque[asyncio.Future[None]] = deque()
        self._window_began_s = 0.0
        self._spent_s = 0.0  # of the window
        self._scrapes: deque[Callable[[], None]] = deque()
        self._scraped = False  # in this turn
        self._due = False

    def run(self, work: Callable[[], None]) -> None:
        """Do the work now, or in a later turn if the share is used up."""
        began_s = perf_counter()
        if began_s - self._window_began_s > WINDOW_S:
            self._window_began_s, self._spent_s = began_s, 0.0
        if self._waiting or self._spent_s > AT_ONCE_S:
            self.run_later(work)
            return
        work()
        self._spent_s += perf_counter() - began_s

    def run_later(self, work: Callable[[], None]) -> None:
        """Do the work in a later turn."""
        self._waiting.append(work)
        self._plan_turn()

    def run_scrape(self, work: Callable[[], None]) -> None:
        """Do one of these a turn, so that a liveness probe never stands behind more than one of them."""
        if self._scraped:
            self._scrapes.append(work)
        else:
            self._scraped = True
            work()
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
        if self._scrapes:
            self._scrapes.popleft()()
        else:
            self._scraped = False
        now_s = self._window_began_s = perf_counter()
        self._spent_s = 0.0
        for _ in range(len(self._waiting)):  # what comes meanwhile has the next turn
            if self._spent_s > TURN_S:
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
        if self._waiting or self._slow or self._scraped:
            self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn)
