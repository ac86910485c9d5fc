"""The actor on one dedicated thread: the fix as PegaFlow made it, which in Python a held GIL defeats."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from pegaref.placement.dispatch import DirectDispatch, Dispatch
from pegaref.placement.local import LocalLink
from pegaref.registry.link import ActorEvents, Link


class ThreadPlacement:
    """Has a thread per device, which ends with the placement; a stuck one ends with the process."""

    name = "thread"

    def __init__(self) -> None:
        self.dispatch: Dispatch = DirectDispatch()
        self._queues: list[queue.SimpleQueue[Callable[[], None] | None]] = []

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Make an actor with a thread of its own."""
        works: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._queues.append(works)
        threading.Thread(target=_work, args=(works,), name=f"actor-{device_id}", daemon=True).start()
        return LocalLink(device_id, events, asyncio.get_running_loop(), works.put)

    def close(self) -> None:
        """Let the threads end when they have done what they do."""
        for works in self._queues:
            works.put(None)


def _work(works: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := works.get()) is not None:
        work()
