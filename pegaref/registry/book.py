"""What an actor holds, as the control process knows it: exact, since an actor does one command at a time."""

from __future__ import annotations

from pegaref.messages import Clear, ContextKey, DropContext, DropInstance, Dropped, Registered
from pegaref.registry.entry import concerns
from pegaref.registry.snapshot import ContextSummary

NOTHING = Dropped()


class Book:
    """The contexts of one device, settled (the actor said so) or expected (a register was sent)."""

    def __init__(self) -> None:
        self._contexts: dict[ContextKey, ContextSummary] = {}
        self._by_instance: dict[str, set[ContextKey]] = {}
        self.tensors = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._contexts)

    def expect(self, key: ContextKey) -> bool:
        """A register is being sent: the context may exist from now on. False when it existed before."""
        if key in self._contexts:
            return False
        self._contexts[key] = ContextSummary(key, 0, 0, settled=False)
        self._by_instance.setdefault(key.instance_id, set()).add(key)
        return True

    def settle(self, key: ContextKey, registered: Registered) -> None:
        """The actor said that the context exists."""
        self._remove(key)
        self.expect(key)
        self._contexts[key] = ContextSummary(key, registered.tensors, registered.bytes, settled=True)
        self.tensors += registered.tensors
        self.bytes += registered.bytes

    def forget(self, command: DropInstance | DropContext | Clear) -> Dropped:
        """The contexts that the cleanup concerns are gone; what they were."""
        if not self._contexts or not (doomed := self._concerned(command)):
            return NOTHING
        removed = [self._remove(key) for key in doomed]
        return Dropped(
            instances=tuple(sorted({summary.key.instance_id for summary in removed})),
            contexts=len(removed),
            tensors=sum(summary.tensors for summary in removed),
            bytes=sum(summary.bytes for summary in removed),
        )

    def has(self, command: DropInstance | DropContext | Clear) -> bool:
        """Whether there may be anything for the cleanup to do."""
        return bool(self._concerned(command))

    def contexts(self) -> tuple[ContextSummary, ...]:
        """All of them."""
        return tuple(self._contexts.values())

    def settled_generations(self) -> frozenset[tuple[str, int]]:
        """The (instance, generation) pairs that the actor said it has."""
        return frozenset(
            (key.instance_id, key.generation) for key, summary in self._contexts.items() if summary.settled
        )

    def _concerned(self, command: DropInstance | DropContext | Clear) -> list[ContextKey]:
        if isinstance(command, Clear):
            return list(self._contexts)
        if isinstance(command, DropContext):
            return [command.key] if command.key in self._contexts else []
        return [key for key in self._by_instance.get(command.instance_id, ()) if concerns(command, key)]

    def _remove(self, key: ContextKey) -> ContextSummary:
        summary = self._contexts.pop(key)
        keys = self._by_instance[key.instance_id]
        keys.discard(key)
        if not keys:
            del self._by_instance[key.instance_id]
        self.tensors -= summary.tensors
        self.bytes -= summary.bytes
        return summary
