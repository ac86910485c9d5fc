"""An actor in the control process itself: what inline, pool and thread have in common.

Only here does the control process import torch, and only in those three placements.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from pegaref.actor.heartbeat import Heartbeat, PulsePage
from pegaref.actor.loop import ActorLoop
from pegaref.messages import Ready, Reply, Request
from pegaref.registry.link import ActorEvents, Pulse, Vitals

logger = logging.getLogger(__name__)

Told = TypeVar("Told")
RunOne = Callable[[Callable[[], None]], None]


class LocalVitals:
    """How an actor is that shares its process with whoever asks: if the GIL is held, nobody asks."""

    def __init__(self, page: PulsePage) -> None:
        self._page = page
        self._text = ""
        self.thread: int | None = None  # that works on a request now

    def pulse(self) -> Pulse:
        """Read the counters."""
        return self._page.read()

    def states(self) -> str:
        """It has no process of its own."""
        return ""

    def traceback(self, *, ask: bool) -> str:
        """The stack of the thread that works on the request."""
        if ask:
            frame = None if self.thread is None else sys._current_frames().get(self.thread)
            self._text = "" if frame is None else "".join(traceback.format_stack(frame))
        return self._text


class LocalLink:
    """One actor of this process; `run` decides which thread does the work."""

    def __init__(
        self, device_id: int, events: ActorEvents, loop: asyncio.AbstractEventLoop, run: RunOne
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
        threading.Thread(target=self._load, args=(device_id,), name=f"load-{device_id}", daemon=True).start()

    @property
    def vitals(self) -> Vitals:
        """How it is."""
        return self._vitals

    @property
    def pid(self) -> int | None:
        """It has no process of its own."""
        return None

    def send(self, request: Request) -> None:
        """Have the request worked on."""
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
            self._tell(self._leave, "it was closed")
        return idle

    def _work(self, request: Request) -> None:
        self._vitals.thread = threading.get_ident()
        assert self._actor is not None
        try:
            self._actor.handle(request)
        finally:
            self._vitals.thread = None
            if self._ended:
                self._tell(self._leave, "it was closed")

    def _load(self, device_id: int) -> None:
        """Import torch on a thread of its own: the event loop goes on meanwhile."""
        try:
            import torch

            from pegaref.actor.tensors import CudaTensorRegistry

            registry = CudaTensorRegistry(device_id, self._page.step)
        except Exception as error:
            logger.exception("device %d: the actor cannot be loaded", device_id)
            self._tell(self._leave, f"it cannot be loaded: {error}")
            return
        gc.collect()
        gc.freeze()  # as in pegaref.actor.child
        self._actor = ActorLoop(registry, self._page, self._post)
        self._tell(self._loaded, Ready(str(torch.__version__)))

    def _loaded(self, ready: Ready) -> None:
        if not self._ended:
            self._events.on_ready(ready)

    def _post(self, reply: Reply) -> None:
        self._tell(self._events.on_reply, reply)

    def _leave(self, reason: str) -> None:
        if not self._gone:
            self._gone = self._ended = True
            self._heartbeat.stop()
            self._actor = None  # and with it the tensors
            self._events.on_gone(reason)

    def _tell(self, callback: Callable[[Told], None], what: Told) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, what)
        except RuntimeError:
            logger.debug("the event loop was closed before the actor had ended")
