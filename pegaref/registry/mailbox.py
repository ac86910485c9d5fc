"""The commands that wait for one actor: registers, bounded by count and bytes, and cleanups in their own
queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from pegaref.errors import MailboxFull
from pegaref.messages import CleanupCommand, Clear, ContextKey, DropContext, DropInstance, matches
from pegaref.registry.commands import Cleanup, PendingRegister

CleanupTarget = str | ContextKey | None  # an instance, a context, or everything


class Mailbox:
    """First in, first out, but cleanups before registers.

    A cleanup may overtake registers because it removes those that it matches when it is put in: those that
    are left came later or do not concern it. Cleanups with the same target are merged, so their number is
    bounded by what there is to clean up, and they are never refused.
    """

    def __init__(self, most_commands: int, most_bytes: int) -> None:
        self._most_commands = most_commands
        self._most_bytes = most_bytes
        self._registers: OrderedDict[int, PendingRegister] = OrderedDict()
        self._by_instance: dict[str, dict[int, PendingRegister]] = {}
        self._cleanups: OrderedDict[CleanupTarget, Cleanup] = OrderedDict()
        self.register_bytes = 0

    @property
    def register_count(self) -> int:
        """How many registers wait."""
        return len(self._registers)

    @property
    def cleanup_count(self) -> int:
        """How many cleanups wait."""
        return len(self._cleanups)

    def put(self, register: PendingRegister) -> None:
        """Queue a register. Raises MailboxFull at once."""
        if len(self._registers) >= self._most_commands:
            raise MailboxFull(
                f"{self._most_commands} commands wait for this device already", retry_after_s=1.0
            )
        if self.register_bytes + register.size_bytes > self._most_bytes:
            raise MailboxFull(
                f"{self.register_bytes} bytes wait for this device already; {register.size_bytes} more would "
                f"pass the limit of {self._most_bytes}",
                retry_after_s=1.0,
            )
        self._registers[id(register)] = register
        self._by_instance.setdefault(register.command.key.instance_id, {})[id(register)] = register
        self.register_bytes += register.size_bytes

    def discard(self, register: PendingRegister) -> bool:
        """Remove a register; False if it does not wait here."""
        if self._registers.pop(id(register), None) is None:
            return False
        self._unindex(register)
        return True

    def put_cleanup(self, command: CleanupCommand, now_s: float) -> Cleanup:
        """Queue a cleanup, merged with one that already waits for the same target."""
        target = _target(command)
        waiting = self._cleanups.get(target)
        if waiting is None:
            waiting = self._cleanups[target] = Cleanup(command, now_s)
        elif isinstance(command, DropInstance):
            waiting.merge(command)
        return waiting

    def put_back(self, cleanup: Cleanup) -> None:
        """Put a cleanup that ran without an outcome back, as the next one."""
        target = _target(cleanup.command)
        if (newer := self._cleanups.get(target)) is not None:
            if isinstance(newer.command, DropInstance):
                cleanup.merge(newer.command)
            cleanup.on_done.update({id(newer): lambda: _finish_like(newer, cleanup)})
        self._cleanups[target] = cleanup
        self._cleanups.move_to_end(target, last=False)

    def take(self) -> PendingRegister | Cleanup | None:
        """Remove the next command: the oldest cleanup, else the oldest register. None if nothing waits."""
        if self._cleanups:
            return self._cleanups.popitem(last=False)[1]
        if self._registers:
            _, register = self._registers.popitem(last=False)
            self._unindex(register)
            return register
        return None

    def take_matching_registers(self, command: CleanupCommand) -> list[PendingRegister]:
        """Remove the registers that the cleanup matches."""
        if not self._registers:
            return []
        if isinstance(command, Clear):
            candidates = list(self._registers.values())
        else:
            instance = command.instance_id if isinstance(command, DropInstance) else command.key.instance_id
            candidates = list(self._by_instance.get(instance, {}).values())
        taken = [register for register in candidates if matches(command, register.command.key)]
        for register in taken:
            self.discard(register)
        return taken

    def take_all_registers(self) -> list[PendingRegister]:
        """Remove every register."""
        taken = list(self._registers.values())
        self._registers.clear()
        self._by_instance.clear()
        self.register_bytes = 0
        return taken

    def take_all_cleanups(self) -> list[Cleanup]:
        """Remove every cleanup."""
        taken = list(self._cleanups.values())
        self._cleanups.clear()
        return taken

    def oldest_s(self) -> float | None:
        """When the oldest waiting command was submitted; None if none waits."""
        oldest = [register.submitted_s for register in islice(self._registers.values(), 1)]
        oldest += [cleanup.submitted_s for cleanup in islice(self._cleanups.values(), 1)]
        return min(oldest, default=None)

    def cleanups(self) -> Iterator[Cleanup]:
        """The waiting cleanups, the next one first."""
        return iter(self._cleanups.values())

    def _unindex(self, register: PendingRegister) -> None:
        self.register_bytes -= register.size_bytes
        instance = register.command.key.instance_id
        siblings = self._by_instance[instance]
        del siblings[id(register)]
        if not siblings:
            del self._by_instance[instance]


def _target(command: CleanupCommand) -> CleanupTarget:
    if isinstance(command, DropInstance):
        return command.instance_id
    return command.key if isinstance(command, DropContext) else None


def _finish_like(follower: Cleanup, leader: Cleanup) -> None:
    assert leader.outcome is not None
    follower.finish(leader.outcome)
