"""The parts that the server lives on and that nobody awaits: if one ends, the server says so and ends too.

A listener, a task or a thread that has died serves nobody, and the rest would go on as if nothing had
happened. What started the server starts it anew: no part of a broken process can do that as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class PartLost(Exception):
    """Raised when a part of the server has died; the message says which."""


class Parts:
    """What has to live until the server stops."""

    THREADS = (
        "worker-",
        "actor-",
    )  # how the names begin of those that placements start, and that must not end

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], bool]] = {}
        self._threads: set[threading.Thread] = set()

    def watch(self, name: str, lives: Callable[[], bool]) -> None:
        """Watch a part from now on, which `lives` looks at; it is asked often, and has to be quick."""
        self._parts[name] = lives

    def lost(self) -> str:
        """The name of a part that has died; '' as long as all live."""
        for name, lives in self._parts.items():
            if not lives():
                return name
        return next((f"thread {thread.name}" for thread in self._threads if not thread.is_alive()), "")

    def check(self) -> None:
        """Note the threads that there are now. Raises PartLost if a part has died."""
        self._threads.update(
            thread for thread in threading.enumerate() if thread.name.startswith(self.THREADS)
        )
        if lost := self.lost():
            raise PartLost(f"the {lost} has died: start the server again")
