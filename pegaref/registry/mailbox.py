"""What waits for one actor: registers, bounded by count and by bytes, and cleanups in a lane of their own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from pegaref.errors import MailboxFull
from pegaref.messages import Clear, ContextKey, DropContext, DropInstance
from pegaref.registry.entry import Cleanup, Entry, concerns

Target = str | ContextKey | None


class Mailbox:
    """First in, first out, cleanups first.

    Cleanups may overtake registers because a cleanup takes the registers that it concerns out of the box
    when it comes in: whatever is left was sent later, or is not concerned. They are merged by what they
    name, and so are bounded by what there is to clean up; they are never refused.
    """

    def __init__(self, most_commands: int, most_bytes: int) -> None:
        self._most_commands = most_commands
        self._most_bytes = most_bytes
        self._registers: OrderedDict[int, Entry] = OrderedDict()
        self._by_instance: dict[str, dict[int, Entry]] = {}
        self._cleanups: OrderedDict[Target, Cleanup] = OrderedDict()
        self.register_bytes = 0

    @property
    def register_count(self) -> int:
        """Registers that wait."""
        return len(self._registers)

    @property
    def cleanup_count(self) -> int:
        """Cleanups that wait."""
        return len(self._cleanups)

    def put(self, entry: Entry) -> None:
        """Let a register wait. Raises MailboxFull, at once."""
        if len(self._registers) >= self._most_commands:
            raise MailboxFull(
                f"{self._most_commands} commands wait for this device already", retry_after_s=1.0
            )
        if self.register_bytes + entry.size_bytes > self._most_bytes:
            raise MailboxFull(
                f"{self.register_bytes} bytes wait for this device already; {entry.size_bytes} more would "
                f"pass the limit of {self._most_bytes}",
                retry_after_s=1.0,
            )
        self._registers[id(entry)] = entry
        self._by_instance.setdefault(entry.command.key.instance_id, {})[id(entry)] = entry
        self.register_bytes += entry.size_bytes

    def discard(self, entry: Entry) -> bool:
        """Take a register out; False when it does not wait here."""
        if self._registers.pop(id(entry), None) is None:
            return False
        self._forget(entry)
        return True

    def put_cleanup(self, command: DropInstance | DropContext | Clear, now_s: float) -> Cleanup:
        """Let a cleanup wait, merged with one that waits for the same target."""
        target = _target(command)
        waiting = self._cleanups.get(target)
        if waiting is None:
            waiting = self._cleanups[target] = Cleanup(command, now_s)
        elif isinstance(command, DropInstance):
            waiting.widen(command)
        return waiting

    def put_back(self, cleanup: Cleanup) -> None:
        """Let a cleanup that ran without an outcome be the next one again."""
        target = _target(cleanup.command)
        if (newer := self._cleanups.get(target)) is not None:
            if isinstance(newer.command, DropInstance):
                cleanup.widen(newer.command)
            cleanup.on_done.update({id(newer): lambda: _follow(newer, cleanup)})
        self._cleanups[target] = cleanup
        self._cleanups.move_to_end(target, last=False)

    def take(self) -> Entry | Cleanup | None:
        """The next one, which then waits no more."""
        if self._cleanups:
            return self._cleanups.popitem(last=False)[1]
        if self._registers:
            _, entry = self._registers.popitem(last=False)
            self._forget(entry)
            return entry
        return None

    def take_registers(self, command: DropInstance | DropContext | Clear) -> list[Entry]:
        """Take out the registers that the cleanup concerns."""
        if not self._registers:
            return []
        if isinstance(command, Clear):
            candidates = list(self._registers.values())
        else:
            instance = command.instance_id if isinstance(command, DropInstance) else command.key.instance_id
            candidates = list(self._by_instance.get(instance, {}).values())
        taken = [entry for entry in candidates if concerns(command, entry.command.key)]
        for entry in taken:
            self.discard(entry)
        return taken

    def take_all_registers(self) -> list[Entry]:
        """Take out every register."""
        taken = list(self._registers.values())
        self._registers.clear()
        self._by_instance.clear()
        self.register_bytes = 0
        return taken

    def take_all_cleanups(self) -> list[Cleanup]:
        """Take out every cleanup."""
        taken = list(self._cleanups.values())
        self._cleanups.clear()
        return taken

    def oldest_s(self) -> float | None:
        """When the command that waits longest was submitted."""
        oldest = [entry.submitted_s for entry in islice(self._registers.values(), 1)]
        oldest += [cleanup.submitted_s for cleanup in islice(self._cleanups.values(), 1)]
        return min(oldest, default=None)

    def cleanups(self) -> Iterator[Cleanup]:
        """Those that wait."""
        return iter(self._cleanups.values())

    def _forget(self, entry: Entry) -> None:
        self.register_bytes -= entry.size_bytes
        instance = entry.command.key.instance_id
        siblings = self._by_instance[instance]
        del siblings[id(entry)]
        if not siblings:
            del self._by_instance[instance]


def _target(command: DropInstance | DropContext | Clear) -> Target:
    if isinstance(command, DropInstance):
        return command.instance_id
    return command.key if isinstance(command, DropContext) else None


def _follow(follower: Cleanup, leader: Cleanup) -> None:
    assert leader.outcome is not None
    follower.finish(leader.outcome)
