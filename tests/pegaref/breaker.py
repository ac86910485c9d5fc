"""The fault layer for synchronous tests: its controller, on an event loop in a thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from faults import Controller, Fault, Selector

Result = TypeVar("Result")

LEASE_S = 120.0
WITHIN_S = 15.0

#: The faults by the name that a failing sequence shows.
FAULTS: dict[str, tuple[str, dict[str, str]]] = {
    "gil.hold": ("gil.hold", {}),
    "call.stall": ("call.stall", {"site": "torch.cuda:empty_cache"}),
    "call.stall gil=held": ("call.stall", {"site": "torch.cuda:empty_cache", "gil": "held"}),
}


class Breaker:
    """Breaks processes that were started with its environment, inside its block; releases all at its end."""

    def __init__(self) -> None:
        self._controller = Controller()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="breaker")
        self._thread.start()
        self._run(self._controller.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._controller.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WITHIN_S)
            self._loop.close()

    def environment(self) -> dict[str, str]:
        """The environment that a process must be started with."""
        return self._controller.environment(os.environ)

    def break_process(self, pid: int, fault: str) -> Fault:
        """Arm one of FAULTS in the process; a held GIL is held when this returns."""
        return self._run(self._armed(pid, *FAULTS[fault]))

    async def _armed(self, pid: int, name: str, params: dict[str, str]) -> Fault:
        fault = self._controller.arm(name, process=Selector(pid=pid), lease_s=LEASE_S, params=params)
        await fault.arm()
        if name == "gil.hold":
            await fault.wait_biting(timeout_s=WITHIN_S / 2)
        return fault

    def release(self, fault: Fault) -> None:
        """Release one fault."""
        self._run(fault.release())

    def release_all(self) -> None:
        """Release every fault."""
        self._run(self._controller.release_all())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_S)
