"""The contexts that an actor holds. They are known exactly, because it carries out one command at a time."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Final

from pegaref.messages import (
    NOTHING_DROPPED,
    CleanupCommand,
    Clear,
    ContextKey,
    DropContext,
    Dropped,
    Registered,
    matches,
)
from pegaref.registry.snapshot import ContextSummary

_FEW: Final = 32  # keys are put in their places one by one; more are sorted with the rest
_STALE: Final = 1024  # keys of contexts that are gone may lie in the order, besides as many as there are


class ContextTable:
    """The contexts of one device: settled (confirmed by the actor) or pending (its register was sent)."""

    def __init__(self) -> None:
        self._contexts: dict[ContextKey, ContextSummary] = {}
        self._by_instance: dict[str, set[ContextKey]] = {}
        # The keys in order, kept lazily, since pages are rare: removed keys stay in it, a key that came
        # back is in it twice, and new ones wait until a page is asked for.
        self._order: list[ContextKey] = []
        self._new: list[ContextKey] = []
        self.tensors = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._contexts)

    def add_pending(self, key: ContextKey) -> bool:
        """Add the context of a register that is being sent. False if the context was known before."""
        if key in self._contexts:
            return False
        self._contexts[key] = ContextSummary(key, 0, 0, settled=False)
        self._by_instance.setdefault(key.instance_id, set()).add(key)
        self._new.append(key)
        if len(self._order) + len(self._new) > 2 * len(self._contexts) + _STALE:
            self._order, self._new = sorted(self._contexts), []
        return True

    def settle(self, key: ContextKey, registered: Registered) -> None:
        """Note that the actor has the context, with this many tensors and bytes."""
        if not self.add_pending(key):
            before = self._contexts[key]
            self.tensors -= before.tensors
            self.bytes -= before.bytes
        self._contexts[key] = ContextSummary(key, registered.tensors, registered.bytes, settled=True)
        self.tensors += registered.tensors
        self.bytes += registered.bytes

    def remove(self, command: CleanupCommand) -> Dropped:
        """Remove the contexts that the cleanup matches; returns what they held."""
        if not self._contexts or not (keys := self._matching(command)):
            return NOTHING_DROPPED
        removed = [self._pop(key) for key in keys]
        return Dropped(
            instances=tuple(sorted({summary.key.instance_id for summary in removed})),
            contexts=len(removed),
            tensors=sum(summary.tensors for summary in removed),
            bytes=sum(summary.bytes for summary in removed),
        )

    def has_match(self, command: CleanupCommand) -> bool:
        """Whether the cleanup matches any context, settled or pending."""
        return bool(self._matching(command))

    def contexts(self, after: ContextKey | None = None) -> Iterator[ContextSummary]:
        """The contexts, settled or pending, in the order of their keys: all, or those after a key."""
        if len(self._new) <= _FEW:
            for key in self._new:
                insort(self._order, key)
        else:
            self._order += self._new
            self._order.sort()
        self._new.clear()
        order, before = self._order, None
        for index in range(0 if after is None else bisect_right(order, after), len(order)):
            key = order[index]
            if key != before and (summary := self._contexts.get(key)) is not None:
                yield summary
            before = key

    def settled_generations(self) -> frozenset[tuple[str, int]]:
        """The (instance, generation) pairs of the settled contexts."""
        return frozenset(
            (key.instance_id, key.generation) for key, summary in self._contexts.items() if summary.settled
        )

    def _matching(self, command: CleanupCommand) -> list[ContextKey]:
        if isinstance(command, Clear):
            return list(self._contexts)
        if isinstance(command, DropContext):
            return [command.key] if command.key in self._contexts else []
        return [key for key in self._by_instance.get(command.instance_id, ()) if matches(command, key)]

    def _pop(self, key: ContextKey) -> ContextSummary:
        summary = self._contexts.pop(key)
        keys = self._by_instance[key.instance_id]
        keys.discard(key)
        if not keys:
            del self._by_instance[key.instance_id]
        self.tensors -= summary.tensors
        self.bytes -= summary.bytes
        return summary
