"""What has happened on one device so far: numbers that only grow, also over respawns."""

from __future__ import annotations

from collections import Counter

from pegaref.registry.entry import OPERATION_NAMES, Cleanup, Entry


class Tally:
    """Counts commands by how they ended, and what went wrong besides."""

    __slots__ = ("finished", "lost_replies", "rejected", "rolled_back")

    def __init__(self) -> None:
        self.finished: Counter[tuple[str, str]] = Counter()  # (operation, outcome) -> commands
        self.rejected = 0
        self.rolled_back = 0
        self.lost_replies = 0

    def ended(self, command: Entry | Cleanup, outcome: str) -> None:
        """A command ended."""
        self.finished[OPERATION_NAMES[type(command.command)], outcome] += 1
