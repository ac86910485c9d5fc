"""The control process's side of its link to one actor.

Placements make links; tests and simulations may make their own. Nothing here waits.
"""

from __future__ import annotations

from typing import Protocol

from pegaref.messages import Pulse, Ready, Reply, Request


class Vitals(Protocol):
    """What can be seen of an actor from outside, without its help."""

    def pulse(self) -> Pulse:
        """Read the counters from memory."""
        ...

    def states(self) -> str:
        """The kernel's state letters of the actor's threads; '' if it has no process of its own."""
        ...

    def request_traceback(self) -> None:
        """Request the actor's traceback, which `read_traceback` returns a little later. Never waits."""
        ...

    def read_traceback(self) -> str:
        """The traceback that was requested last; '' until it has been written."""
        ...


class ActorEvents(Protocol):
    """What a link reports to its owner, always on the owner's event loop."""

    def on_ready(self, ready: Ready) -> None:
        """Called once torch is loaded and requests may be sent."""
        ...

    def on_reply(self, reply: Reply) -> None:
        """Called with each answer."""
        ...

    def on_gone(self, reason: str) -> None:
        """Called once, as the last event, when the actor has ended and holds nothing."""
        ...


class Link(Protocol):
    """One running actor."""

    @property
    def vitals(self) -> Vitals:
        """What can be seen of the actor from outside."""
        ...

    @property
    def pid(self) -> int | None:
        """The actor's process id; None if it runs in the caller's process."""
        ...

    def send(self, request: Request) -> None:
        """Send one request. Never waits and never raises; a lost actor is reported by on_gone."""
        ...

    def end(self, *, force: bool) -> bool:
        """Ask the actor to end, or kill it with `force`; on_gone follows. False if it cannot be ended from
        outside."""
        ...


class Launcher(Protocol):
    """Starts actors."""

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Start an actor; returns before it is ready."""
        ...
