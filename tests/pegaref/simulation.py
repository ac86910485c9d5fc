"""A clock that moves only on request, and an actor that answers only on request."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pegaref.config import RegistrySettings
from pegaref.messages import (
    Answer,
    ContextKey,
    DropContext,
    DropInstance,
    Dropped,
    Layer,
    Pulse,
    Ready,
    Refused,
    Registered,
    RegisterLayers,
    Reply,
    Request,
)
from pegaref.registry import ActorEvents, Link, RegistryHandle, Vitals

LAYER_BYTES = 4096


def key(instance: str = "a", generation: int = 0, *, tp: int = 0, device: int = 0) -> ContextKey:
    """A context's key with few words."""
    return ContextKey(instance, generation, tp, 0, device)


def register_of(where: ContextKey, *, layers: int = 1, wrapper: bytes = b"w") -> RegisterLayers:
    """A register that passes validation."""
    made = tuple(Layer(f"layer.{number}", wrapper, 1, LAYER_BYTES, 0, 1) for number in range(layers))
    return RegisterLayers(where, made)


async def settle() -> None:
    """Let every callback run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass(order=True, slots=True)
class _Due:
    when_s: float
    order: int
    callback: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Time moves only by `advance`."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._due: list[_Due] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> _Due:
        due = _Due(when_s, next(self._order), callback)
        heapq.heappush(self._due, due)
        return due

    async def advance(self, seconds: float) -> None:
        """Let time pass, one timer after the other."""
        until_s = self._now_s + seconds
        await settle()
        while self._due and self._due[0].when_s <= until_s:
            due = heapq.heappop(self._due)
            self._now_s = max(self._now_s, due.when_s)
            if due.callback is not None:
                due.callback()
                await settle()
        self._now_s = until_s
        await settle()

    def postpone(self, seconds: float) -> list[Callable[[], None]]:
        """Let time pass without serving anybody; what came due meanwhile is handed back."""
        self._now_s += seconds
        late: list[Callable[[], None]] = []
        while self._due and self._due[0].when_s <= self._now_s:
            if (callback := heapq.heappop(self._due).callback) is not None:
                late.append(callback)
        return late

    @property
    def pending(self) -> int:
        """Timers that are still to come."""
        return sum(due.callback is not None for due in self._due)


class SimulatedActor:
    """A link to an actor without a process or tensors, which records what it holds.

    `auto` answers at once. Otherwise a request waits in `inbox` until `work` does it. Its heart beats by
    itself as long as `beating`, and `kernel_states` is what the kernel would say.
    """

    def __init__(self, events: ActorEvents, clock: VirtualClock, *, auto: bool) -> None:
        self.events = events
        self.auto = auto
        self.inbox: list[Request] = []
        self.held: dict[ContextKey, Registered] = {}
        self.beating = True
        self.killable = True
        self.kernel_states = "S"
        self.stack = ""
        self.asked = 0
        self.ended: bool | None = None
        self._clock = clock
        self._beats_s = 0.0
        self._started = self._finished = self._progress = 0
        self.gone = False

    @property
    def vitals(self) -> Vitals:
        return self

    @property
    def pid(self) -> int | None:
        return 4242

    def pulse(self) -> Pulse:
        if self.beating:
            self._beats_s = self._clock.now()
        return Pulse(int(self._beats_s * 10), self._started, self._finished, self._progress)

    def states(self) -> str:
        return self.kernel_states

    def request_traceback(self) -> None:
        self.asked += 1

    def read_traceback(self) -> str:
        return self.stack

    def send(self, request: Request) -> None:
        self.inbox.append(request)
        self._started = request.serial
        if self.auto:
            asyncio.get_running_loop().call_soon(self.work)

    def end(self, *, force: bool) -> bool:
        self.ended = force
        if self.killable:
            asyncio.get_running_loop().call_soon(self.die, "it was ended")
        return True

    def step(self) -> None:
        """Progress without an end."""
        self._progress += 1

    def work(self, *, answer: Answer | None = None, lose_reply: bool = False) -> None:
        """Do the first request in the inbox."""
        if self.gone:
            return
        request = self.inbox.pop(0)
        reply = Reply(request.serial, self._do(request) if answer is None else answer)
        self._finished = request.serial
        if not lose_reply:
            self.events.on_reply(reply)

    def die(self, reason: str = "it died") -> None:
        """End, with everything held."""
        if not self.gone:
            self.gone = True
            self.held.clear()
            self.events.on_gone(reason)

    def _do(self, request: Request) -> Answer:
        command = request.command
        if isinstance(command, RegisterLayers):
            if command.key in self.held:
                return Refused("ALREADY_EXISTS", "it is registered")
            made = Registered(len(command.layers), len(command.layers) * LAYER_BYTES)
            self.held[command.key] = made
            return made
        if isinstance(command, DropInstance):
            doomed = [
                held
                for held in self.held
                if held.instance_id == command.instance_id
                and (command.generations is None or held.generation in command.generations)
            ]
        else:
            doomed = [
                held for held in self.held if not isinstance(command, DropContext) or held == command.key
            ]
        removed = [self.held.pop(held) for held in doomed]
        return Dropped(
            tuple(sorted({held.instance_id for held in doomed})),
            len(removed),
            sum(made.tensors for made in removed),
            sum(made.bytes for made in removed),
        )


class SimulatedPlacement:
    """Launches simulated actors, and keeps them all."""

    def __init__(self, clock: VirtualClock, *, auto: bool = True, ready: bool = True) -> None:
        self.actors: list[SimulatedActor] = []
        self.by_device: dict[int, SimulatedActor] = {}
        self.auto = auto
        self.ready = ready
        self.failures = 0  # how many of the next launches fail
        self._clock = clock

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        if self.failures:
            self.failures -= 1
            raise OSError("no descriptors left")
        actor = SimulatedActor(events, self._clock, auto=self.auto)
        self.actors.append(actor)
        self.by_device[device_id] = actor
        if self.ready:
            asyncio.get_running_loop().call_soon(events.on_ready, Ready("simulated", "cpu"))
        return actor


@dataclass(slots=True)
class Bench:
    """A handle on a simulated actor."""

    handle: RegistryHandle
    placement: SimulatedPlacement
    clock: VirtualClock

    @property
    def actor(self) -> SimulatedActor:
        """The actor of device 0 now."""
        return self.placement.by_device[0]


@asynccontextmanager
async def bench(
    *,
    devices: tuple[int, ...] = (0,),
    auto: bool = True,
    ready: bool = True,
    settings: RegistrySettings | None = None,
) -> AsyncIterator[Bench]:
    """A started handle; after it no timer and no actor may be left."""
    clock = VirtualClock()
    placement = SimulatedPlacement(clock, auto=auto, ready=ready)
    handle = RegistryHandle(devices, placement, settings=settings or RegistrySettings(), clock=clock)
    await handle.start()
    await settle()
    made = Bench(handle, placement, clock)
    try:
        yield made
    finally:
        for actor in placement.actors:
            actor.killable = True
        await handle.close(grace_s=1.0)
    assert clock.pending == 0, "a timer outlived its handle"
    assert all(actor.gone for actor in placement.actors), "an actor outlived its handle"
