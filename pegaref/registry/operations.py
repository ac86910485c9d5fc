"""Waiting for cleanups up to a deadline. A cleanup that outlasts it becomes an operation that can be looked
up."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pegaref.clock import Clock
from pegaref.errors import RegistryError
from pegaref.messages import Dropped
from pegaref.registry.commands import Cleanup

FINISHED_KEPT = 1024

CleanupPart = Cleanup | Dropped  # of one device: a cleanup, or an outcome that was known at once
_Identity = tuple[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One cleanup. `devices` has the outcome for each device that it concerns; None: still to come."""

    operation_id: str
    target: str  # 'clear', 'instance NAME', …
    devices: Mapping[int, Dropped | RegistryError | None]

    @property
    def done(self) -> bool:
        """Whether every device has an outcome."""
        return all(outcome is not None for outcome in self.devices.values())


@dataclass(slots=True)
class _OpenOperation:
    target: str
    parts: Mapping[int, CleanupPart]
    identity: _Identity


class Operations:
    """Keeps all open operations and the last FINISHED_KEPT that finished.

    A second request for a cleanup that already waits returns the same operation, so there are never more open
    operations than waiting cleanups.
    """

    def __init__(self) -> None:
        self._open: dict[str, _OpenOperation] = {}
        self._by_identity: dict[_Identity, str] = {}
        self._finished: OrderedDict[str, Operation] = OrderedDict()

    def track(self, target: str, parts: Mapping[int, CleanupPart]) -> str:
        """The id of the operation for these parts, of which at least one still waits."""
        # A part lives as long as its operation is open, so its id() identifies it.
        identity = (
            target,
            tuple((device_id, id(part)) for device_id, part in parts.items() if outcome_of(part) is None),
        )
        known = self._by_identity.get(identity)
        if known is not None:
            return known
        operation_id = secrets.token_hex(8)
        self._open[operation_id] = _OpenOperation(target, dict(parts), identity)
        self._by_identity[identity] = operation_id
        for part in parts.values():
            if isinstance(part, Cleanup) and part.outcome is None:
                part.on_done[id(identity)] = lambda: self._close_if_done(operation_id)
        return operation_id

    def get(self, operation_id: str) -> Operation | None:
        """The operation's state so far; None if the id is unknown or forgotten."""
        opened = self._open.get(operation_id)
        if opened is None:
            return self._finished.get(operation_id)
        outcomes = {device_id: outcome_of(part) for device_id, part in opened.parts.items()}
        return Operation(operation_id, opened.target, outcomes)

    def _close_if_done(self, operation_id: str) -> None:
        operation = self.get(operation_id)
        if operation is None or not operation.done:
            return
        opened = self._open.pop(operation_id)
        del self._by_identity[opened.identity]
        self._finished[operation_id] = operation
        if len(self._finished) > FINISHED_KEPT:
            self._finished.popitem(last=False)


def outcome_of(part: CleanupPart) -> Dropped | RegistryError | None:
    """The part's outcome; None while it is still to come."""
    return part.outcome if isinstance(part, Cleanup) else part


async def wait_for_cleanups(cleanups: Sequence[Cleanup], *, within_s: float, clock: Clock) -> bool:
    """Wait until all cleanups have an outcome; False if the time ran out first."""
    waiter = _CleanupWaiter(len(cleanups))
    for cleanup in cleanups:
        cleanup.on_done[id(waiter)] = waiter.count_done
    timer = clock.call_at(clock.now() + within_s, waiter.stop)
    try:
        await waiter.future
    finally:
        timer.cancel()
        for cleanup in cleanups:
            cleanup.on_done.pop(id(waiter), None)
    return not waiter.left


class _CleanupWaiter:
    """A future that is done once the given number of cleanups are, or `stop` is called."""

    __slots__ = ("future", "left")

    def __init__(self, count: int) -> None:
        self.left = count
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count_done(self) -> None:
        self.left -= 1
        if not self.left:
            self.stop()

    def stop(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
