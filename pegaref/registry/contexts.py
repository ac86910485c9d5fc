"""The contexts that an actor holds. They are known exactly, because it carries out one command at a time."""

from __future__ import annotations

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


class ContextTable:
    """The contexts of one device: settled (confirmed by the actor) or pending (its register was sent)."""

    def __init__(self) -> None:
        self._contexts: dict[ContextKey, ContextSummary] = {}
        self._by_instance: dict[str, set[ContextKey]] = {}
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
        return True

    def settle(self, key: ContextKey, registered: Registered) -> None:
        """Mark the context as confirmed by the actor, with its numbers of tensors and bytes."""
        self._pop(key)
        self.add_pending(key)
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

    def contexts(self) -> tuple[ContextSummary, ...]:
        """Every context, settled or pending."""
        return tuple(self._contexts.values())

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
