"""Things to break: every kind of callable that a site can name."""

from __future__ import annotations

import threading
from typing import Any

made: list[str] = []


def work(value: Any = 0) -> Any:
    """Return what came in."""
    made.append(f"work {value}")
    return value


def device_work(device: int, name: str = "none") -> str:
    """Something with arguments worth matching."""
    made.append(f"device_work {device}")
    return f"{name} on {device}"


async def work_async(value: Any = 0) -> Any:
    """Return what came in, as a task."""
    made.append(f"work_async {value}")
    return value


def fail() -> None:
    """Raise."""
    raise KeyError("as ever")


class Machine:
    """Methods of every kind."""

    size = 3

    def __init__(self, name: str = "machine") -> None:
        self.name = name

    def run(self, value: Any = 0) -> str:
        """An ordinary method."""
        return f"{self.name} {value}"

    async def run_async(self, value: Any = 0) -> str:
        """A coroutine method."""
        return f"{self.name} {value}"

    @staticmethod
    def measure(value: Any = 0) -> Any:
        """A static method."""
        return value

    @classmethod
    def build(cls, name: str) -> Machine:
        """A class method."""
        return cls(name)


class BigMachine(Machine):
    """Inherits `run`."""


def calling_loop_runs_on(call: Any) -> bool:
    """Whether an event loop does other work while it awaits `call()`; used from the tests' commands."""
    import asyncio

    async def main() -> bool:
        beats = 0
        task = asyncio.ensure_future(call())
        while not task.done() and beats < 50:
            await asyncio.sleep(0.01)
            beats += 1
        await task
        return beats > 5

    return asyncio.run(main())


lock = threading.Lock()
