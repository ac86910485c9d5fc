"""An actor in the control process itself, on the event loop or on a thread of its own.

`inline` is the bug in its plainest form. `thread` is the fix as PegaFlow made it; in Python a held GIL
defeats it. The code that both share with `pool` is here as well.

Only in these three placements does the control process import torch.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from pegaref.actor import ActorLoop, Heartbeat, PulsePage, load_actor
from pegaref.messages import Pulse, Ready, Reply, Request
from pegaref.placement.dispatch import DirectDispatch, Dispatch
from pegaref.registry import ActorEvents, Link, Vitals

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], None]


class LocalVitals:
    """The vitals of an actor in this process. While the GIL is held, nobody can read them."""

    def __init__(self, page: PulsePage) -> None:
        self._page = page
        self._text = ""
        self.thread: int | None = None  # the thread that works on a request now

    def pulse(self) -> Pulse:
        """Read the counters."""
        return self._page.read()

    def states(self) -> str:
        """Always '': the actor has no process of its own."""
        return ""

    def request_traceback(self) -> None:
        """Record the stack of the thread that works on the request."""
        frame = None if self.thread is None else sys._current_frames().get(self.thread)
        self._text = "" if frame is None else "".join(traceback.format_stack(frame))

    def read_traceback(self) -> str:
        """The stack recorded last; '' if no request was being worked on."""
        return self._text


class LocalLink:
    """One actor in this process; `run` chooses the thread that does the work."""

    def __init__(
        self,
        device_id: int,
        device_type: str,
        events: ActorEvents,
        loop: asyncio.AbstractEventLoop,
        run: Callable[[Work], object],
    ) -> None:
        self._events = events
        self._loop = loop
        self._run = run
        self._page = PulsePage()
        self._heartbeat = Heartbeat(self._page, f"heartbeat-{device_id}")
        self._vitals = LocalVitals(self._page)
        self._actor: ActorLoop | None = None
        self._sent = 0
        self._ended = False
        self._gone = False
        self._heartbeat.start()
        threading.Thread(
            target=self._load, args=(device_id, device_type), name=f"load-{device_id}", daemon=True
        ).start()

    @property
    def vitals(self) -> Vitals:
        """What can be seen of the actor without its help."""
        return self._vitals

    @property
    def pid(self) -> int | None:
        """Always None: the actor has no process of its own."""
        return None

    def send(self, request: Request) -> None:
        """Carry out the request on the thread that `run` chooses."""
        if not self._ended:
            self._sent = request.serial
            self._run(lambda: self._work(request))

    def end(self, *, force: bool) -> bool:
        """Take no more requests. `force` has no effect: a command that runs here cannot be ended."""
        idle = self._page.read().finished == self._sent
        if not force or idle:
            self._ended = True
            self._heartbeat.stop()
        # again: the request may have ended before it saw `_ended`
        if self._page.read().finished == self._sent:
            self._call_soon(self._leave, "it was closed")
        return idle

    def send_reply(self, reply: Reply) -> None:
        """Pass an answer to the link's owner, on the owner's event loop. Called on the actor's thread."""
        self._call_soon(self._events.on_reply, reply)

    def _work(self, request: Request) -> None:
        self._vitals.thread = threading.get_ident()
        assert self._actor is not None
        try:
            self._actor.handle(request)
        finally:
            self._vitals.thread = None
            if self._ended:
                self._call_soon(self._leave, "it was closed")

    def _load(self, device_id: int, device_type: str) -> None:
        """Import torch on a thread of its own: the event loop goes on meanwhile."""
        try:
            self._actor, ready = load_actor(device_id, device_type, self._page, self)
        except Exception as error:
            logger.exception("device %d: the actor cannot start", device_id)
            self._call_soon(self._leave, f"it cannot start: {error}")
            return
        self._call_soon(self._loaded, ready)

    def _loaded(self, ready: Ready) -> None:
        if not self._ended:
            self._events.on_ready(ready)

    def _leave(self, reason: str) -> None:
        if not self._gone:
            self._gone = self._ended = True
            self._heartbeat.stop()
            self._actor = None  # and with it the tensors
            self._events.on_gone(reason)

    def _call_soon(self, callback: Callable[[T], None], argument: T) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:
            logger.debug("the event loop was closed before the actor had ended")


class InlinePlacement:
    """Carries out each request in a callback of the event loop."""

    name = "inline"

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.dispatch: Dispatch = DirectDispatch()

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Make an actor. torch is imported on a thread; the work is done on the event loop."""
        loop = asyncio.get_running_loop()
        return LocalLink(device_id, self.device_type, events, loop, loop.call_soon)

    def close(self) -> None:
        """Does nothing: the placement itself holds nothing."""


class ThreadPlacement:
    """Has one thread per device. It ends with the placement, or with the process if it is stuck."""

    name = "thread"

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.dispatch: Dispatch = DirectDispatch()
        self._queues: list[queue.SimpleQueue[Work | None]] = []

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Make an actor with a thread of its own."""
        works: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._queues.append(works)
        threading.Thread(target=serve_queue, args=(works,), name=f"actor-{device_id}", daemon=True).start()
        return LocalLink(device_id, self.device_type, events, asyncio.get_running_loop(), works.put)

    def close(self) -> None:
        """Tell each thread to end once it has done what is queued."""
        for works in self._queues:
            works.put(None)


def serve_queue(works: queue.SimpleQueue[Work | None]) -> None:
    """Do the queued work in order, until a None comes."""
    while (work := works.get()) is not None:
        work()
