"""An actor in the control process itself, on the event loop or on a thread of its own.

`inline` is the bug, at its plainest. `thread` is the fix as PegaFlow made it, which in Python a held GIL
defeats. What both share with `pool` is here as well.

Only here does the control process import torch, and only in those three placements.
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
    """The vitals of an actor that shares its reader's process: while the GIL is held, nobody reads them."""

    def __init__(self, page: PulsePage) -> None:
        self._page = page
        self._text = ""
        self.thread: int | None = None  # the one that works on a request now

    def pulse(self) -> Pulse:
        """Read the counters."""
        return self._page.read()

    def states(self) -> str:
        """Always '': the actor has no process of its own."""
        return ""

    def request_traceback(self) -> None:
        """Take the stack of the thread that works on the request."""
        frame = None if self.thread is None else sys._current_frames().get(self.thread)
        self._text = "" if frame is None else "".join(traceback.format_stack(frame))

    def read_traceback(self) -> str:
        """The stack that was taken last; '' when nothing was being worked on."""
        return self._text


class LocalLink:
    """One actor of this process; `run` has the work done on whichever thread it likes."""

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
        """What can be told about the actor without its help."""
        return self._vitals

    @property
    def pid(self) -> int | None:
        """Always None: the actor has no process of its own."""
        return None

    def send(self, request: Request) -> None:
        """Have the request carried out, on the thread that `run` chooses."""
        if not self._ended:
            self._sent = request.serial
            self._run(lambda: self._work(request))

    def end(self, *, force: bool) -> bool:
        """Take no more requests. What is being worked on cannot be ended, so force does nothing to it."""
        idle = self._page.read().finished == self._sent
        if not force or idle:
            self._ended = True
            self._heartbeat.stop()
        if self._page.read().finished == self._sent:  # again: it may have ended before it saw `_ended`
            self._call_soon(self._leave, "it was closed")
        return idle

    def send_reply(self, reply: Reply) -> None:
        """Hand an answer to the owner of the link, on its event loop. Called on the actor's thread."""
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
    """Carries out each request between two other callbacks of the event loop."""

    name = "inline"

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.dispatch: Dispatch = DirectDispatch()

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Make an actor; torch is imported on a thread, the work is done on the loop."""
        loop = asyncio.get_running_loop()
        return LocalLink(device_id, self.device_type, events, loop, loop.call_soon)

    def close(self) -> None:
        """Does nothing: the placement itself holds nothing."""


class ThreadPlacement:
    """Has a thread per device, which ends with the placement; a stuck one ends with the process."""

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
        """Have each thread end when it has done what is queued."""
        for works in self._queues:
            works.put(None)


def serve_queue(works: queue.SimpleQueue[Work | None]) -> None:
    """Do what is put into the queue, one after the other, until a None is."""
    while (work := works.get()) is not None:
        work()
