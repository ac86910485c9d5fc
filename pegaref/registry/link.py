"""The line between the control process and one actor, as the control side sees it.

A placement makes links; a test or a simulation may make its own. Nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pegaref.messages import Ready, Reply, Request


@dataclass(frozen=True, slots=True)
class Pulse:
    """Counters that the actor advances by itself. Only their change matters, never their value.

    `beat` moves with time as long as the actor's interpreter can run a thread; `progress` moves with every
    tensor that is mapped or released; `started` and `finished` are the serials of requests.
    """

    beat: int
    started: int
    finished: int
    progress: int


class Vitals(Protocol):
    """How an actor is, read without asking it."""

    def pulse(self) -> Pulse:
        """Read the counters from memory."""
        ...

    def states(self) -> str:
        """The kernel's state letters of the actor's threads ('' when it has no process of its own)."""
        ...

    def traceback(self, *, ask: bool) -> str:
        """What the actor was doing when last asked; with `ask`, ask anew. It shows at a later call."""
        ...


class ActorEvents(Protocol):
    """What a link tells its owner, always on the owner's event loop."""

    def on_ready(self, ready: Ready) -> None:
        """Torch is loaded."""
        ...

    def on_reply(self, reply: Reply) -> None:
        """An answer came."""
        ...

    def on_gone(self, reason: str) -> None:
        """The actor has ended and holds nothing any more. Comes once, and is the last event."""
        ...


class Link(Protocol):
    """One running actor."""

    @property
    def vitals(self) -> Vitals:
        """How it is."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process, None when it lives in the caller's."""
        ...

    def send(self, request: Request) -> None:
        """Hand over one request. Never waits, never raises: an actor that is gone says so by on_gone."""
        ...

    def end(self, *, force: bool) -> bool:
        """Ask it to end (force: kill it). False when it cannot be ended from outside. on_gone follows."""
        ...


class Launcher(Protocol):
    """Starts actors."""

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Start one and return before it is ready."""
        ...
