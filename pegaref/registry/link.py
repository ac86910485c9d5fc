"""The link between the control process and one actor, as the control process sees it.

A placement makes links; a test or a simulation may make its own. Nothing here waits.
"""

from __future__ import annotations

from typing import Protocol

from pegaref.messages import Pulse, Ready, Reply, Request


class Vitals(Protocol):
    """What can be told about an actor from outside, without the actor's help."""

    def pulse(self) -> Pulse:
        """Read the counters from memory."""
        ...

    def states(self) -> str:
        """The kernel's state letters of the actor's threads ('' when it has no process of its own)."""
        ...

    def request_traceback(self) -> None:
        """Have the actor's traceback written; `read_traceback` has it a little later. Never waits."""
        ...

    def read_traceback(self) -> str:
        """What the actor was doing when a traceback was last requested; '' until it has been written."""
        ...


class ActorEvents(Protocol):
    """What a link tells its owner, always on the owner's event loop."""

    def on_ready(self, ready: Ready) -> None:
        """Called when torch is loaded and requests may be sent."""
        ...

    def on_reply(self, reply: Reply) -> None:
        """Called with each answer."""
        ...

    def on_gone(self, reason: str) -> None:
        """Called once, as the last event, when the actor has ended and holds nothing any more."""
        ...


class Link(Protocol):
    """One running actor."""

    @property
    def vitals(self) -> Vitals:
        """What can be told about the actor from outside."""
        ...

    @property
    def pid(self) -> int | None:
        """The actor's process; None when it lives in the caller's."""
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
