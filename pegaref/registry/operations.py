"""Cleanups that outlast their callers, by id, so that their outcome can be asked for later."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from pegaref.errors import RegistryError
from pegaref.messages import Dropped
from pegaref.registry.entry import Cleanup

FINISHED_KEPT = 1024

Parts = Mapping[int, Cleanup | Dropped | RegistryError]


@dataclass(frozen=True, slots=True)
class Operation:
    """One cleanup. `devices` has an outcome for each device concerned, None while it is still to come."""

    operation_id: str
    target: str  # 'clear', 'instance NAME', …
    devices: Mapping[int, Dropped | RegistryError | None]

    @property
    def done(self) -> bool:
        """True when every device has an outcome."""
        return all(outcome is not None for outcome in self.devices.values())


@dataclass(slots=True)
class _Open:
    target: str
    parts: Parts
    identity: tuple[str, tuple[tuple[int, int], ...]]


class Operations:
    """Open ones are all kept, and the last FINISHED_KEPT that finished.

    Asking twice for a cleanup that waits gives the same operation, so that there are never more open ones
    than cleanups that wait.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._by_identity: dict[tuple[str, tuple[tuple[int, int], ...]], str] = {}
        self._finished: OrderedDict[str, Operation] = OrderedDict()

    def open(self, target: str, parts: Parts) -> str:
        """The id under which the outcome of these parts can be asked for."""
        # A part stays alive as long as its operation is open, so its id() names it.
        identity = (target, tuple((device, id(part)) for device, part in parts.items() if _waits(part)))
        known = self._by_identity.get(identity)
        if known is not None:
            return known
        operation_id = secrets.token_hex(8)
        self._open[operation_id] = _Open(target, dict(parts), identity)
        self._by_identity[identity] = operation_id
        for part in parts.values():
            if isinstance(part, Cleanup) and part.outcome is None:
                part.on_done[id(identity)] = lambda: self._part_done(operation_id)
        return operation_id

    def get(self, operation_id: str) -> Operation | None:
        """How it is now; None when it is unknown or forgotten."""
        opened = self._open.get(operation_id)
        if opened is None:
            return self._finished.get(operation_id)
        return Operation(operation_id, opened.target, {d: outcome_of(p) for d, p in opened.parts.items()})

    def _part_done(self, operation_id: str) -> None:
        operation = self.get(operation_id)
        if operation is None or not operation.done:
            return
        opened = self._open.pop(operation_id)
        del self._by_identity[opened.identity]
        self._finished[operation_id] = operation
        if len(self._finished) > FINISHED_KEPT:
            self._finished.popitem(last=False)


def outcome_of(part: Cleanup | Dropped | RegistryError) -> Dropped | RegistryError | None:
    """The part's outcome, None while it is still to come."""
    return part.outcome if isinstance(part, Cleanup) else part


def _waits(part: Cleanup | Dropped | RegistryError) -> bool:
    return outcome_of(part) is None
