"""The actor on the event loop: the bug, at its plainest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pegaref.placement.dispatch import DirectDispatch, Dispatch
from pegaref.placement.local import LocalLink
from pegaref.registry.link import ActorEvents, Link


class InlinePlacement:
    """Works on each request between two other callbacks of the event loop."""

    name = "inline"

    def __init__(self) -> None:
        self.dispatch: Dispatch = DirectDispatch()

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Make an actor; torch is imported on a thread, the work is done on the loop."""
        loop = asyncio.get_running_loop()

        def run(work: Callable[[], None]) -> None:
            loop.call_soon(work)

        return LocalLink(device_id, events, loop, run)

    def close(self) -> None:
        """There is nothing to let go of."""
