"""Any order of calls, cancellations, answers, losses and deaths, against a plain model of who owns what."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pegaref.config import RegistrySettings
from pegaref.errors import CleanupPending, RegistryError
from pegaref.messages import ContextKey, Refused, Registered
from pegaref.serving.exposition import Exposition
from pegaref.serving.metrics import Metrics
from tests.pegaref.simulation import Bench, bench, key, register_of, settle

LONGEST_DEADLINE_S = 8.0
instances = st.sampled_from(["a", "a:b"])
generations = st.sampled_from([0, 1])
deadlines = st.sampled_from([0.2, 2.0, LONGEST_DEADLINE_S])

steps = st.one_of(
    st.tuples(st.just("register"), instances, generations, st.sampled_from([0, 1]), deadlines),
    st.tuples(st.just("drop"), instances, st.none() | generations, deadlines),
    st.tuples(st.just("drop_context"), instances, generations, deadlines),
    st.tuples(st.just("clear"), deadlines),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("work")),
    st.tuples(st.just("work")),
    st.tuples(st.just("lose")),
    st.tuples(st.just("fail")),
    st.tuples(st.just("work_and_cancel"), st.integers(0, 30)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 6.0])),
    st.tuples(st.just("die")),
)


@dataclass
class Call:
    """One register, as its caller sees it."""

    where: ContextKey
    submitted: int
    task: asyncio.Task[Registered]
    done: int | None = None


@dataclass
class Model:
    """Who owns what: a drop takes what was submitted before it, a death what had been answered before it."""

    bench: Bench
    now: int = 0
    calls: list[Call] = field(default_factory=list)
    cleanups: list[asyncio.Task[object]] = field(default_factory=list)
    drops: list[tuple[int, str | None, int | None, ContextKey | None]] = field(default_factory=list)
    deaths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.bench.handle.devices, lambda: 0)
        self.exposition = Exposition(self.metrics)  # which uses again what has not changed

    async def step(self, name: str, *arguments: object) -> None:
        self.now += 1
        getattr(self, name)(*arguments)
        await settle()
        await self.note()

    async def note(self) -> None:
        """Note which calls have ended. What is shown of the device is of now, and in order."""
        if all(device.mark() is not None for device in self.metrics.devices()):  # else nothing is used again
            assert self.exposition.text() == Exposition(self.metrics).text()
        shown = [context.key for context in self.bench.handle.contexts()]
        assert (shown, len(set(shown))) == (sorted(shown), self.bench.handle.context_count)
        for call in self.calls:
            if call.done is None and call.task.done():
                call.done = self.now

    def register(self, instance: str, generation: int, tp: int, deadline_s: float) -> None:
        where = key(instance, generation, tp=tp)
        task = asyncio.create_task(self.bench.handle.register(register_of(where), deadline_s=deadline_s))
        self.calls.append(Call(where, self.now, task))

    def drop(self, instance: str, generation: int | None, deadline_s: float) -> None:
        self.drops.append((self.now, instance, generation, None))
        self.cleanups.append(
            asyncio.create_task(
                self.bench.handle.drop_instance(instance, generation=generation, deadline_s=deadline_s)
            )
        )

    def drop_context(self, instance: str, generation: int, deadline_s: float) -> None:
        where = key(instance, generation)
        self.drops.append((self.now, None, None, where))
        self.cleanups.append(
            asyncio.create_task(self.bench.handle.drop_context(where, deadline_s=deadline_s))
        )

    def clear(self, deadline_s: float) -> None:
        self.drops.append((self.now, None, None, None))
        self.cleanups.append(asyncio.create_task(self.bench.handle.clear(deadline_s=deadline_s)))

    def cancel(self, which: int) -> None:
        if self.calls:
            self.calls[which % len(self.calls)].task.cancel()

    def work(self) -> None:
        if self.bench.actor.inbox:
            self.bench.actor.work()

    def work_and_cancel(self, which: int) -> None:
        self.work()
        self.cancel(which)

    def lose(self) -> None:
        if self.bench.actor.inbox:
            self.bench.actor.work(lose_reply=True)

    def fail(self) -> None:
        if self.bench.actor.inbox:
            self.bench.actor.work(answer=Refused("INTERNAL", "it broke"))

    def die(self) -> None:
        self.deaths.append(self.now)
        self.bench.actor.die()

    def owned(self) -> set[ContextKey]:
        return {call.where for call in self.calls if self.succeeded(call) and not self.was_taken(call)}

    def succeeded(self, call: Call) -> bool:
        return call.task.done() and not call.task.cancelled() and call.task.exception() is None

    def was_taken(self, call: Call) -> bool:
        assert call.done is not None
        if any(death >= call.done for death in self.deaths):
            return True
        for when, instance, generation, where in self.drops:
            if when > call.submitted and (
                (instance is None and where is None)
                or where == call.where
                or (instance == call.where.instance_id and generation in (None, call.where.generation))
            ):
                return True
        return False


async def play(script: list[tuple[object, ...]], drain_first: bool) -> None:
    async with bench(auto=False, settings=RegistrySettings(mailbox_commands=4)) as b:
        model = Model(b)
        for name, *arguments in script:
            if name == "advance":
                model.now += 1
                await b.clock.advance(float(str(arguments[0])))
                await model.note()
            else:
                await model.step(str(name), *arguments)
        if drain_first:
            b.placement.auto = b.actor.auto = True
            model.work()
            await b.clock.advance(0)
            await model.note()
        # Everybody has an answer by the longest deadline, however the actor is.
        await b.clock.advance(LONGEST_DEADLINE_S)
        assert all(call.task.done() for call in model.calls), "a register was not answered by its deadline"
        assert all(cleanup.done() for cleanup in model.cleanups), "a cleanup was not answered by its deadline"
        # The actor is well again: what is left is what is owned, and the book says so.
        b.placement.auto = b.actor.auto = True
        while b.actor.inbox:
            b.actor.work()
        await b.clock.advance(60)
        await model.note()
        for call in model.calls:
            if not call.task.cancelled():
                assert isinstance(call.task.exception(), RegistryError | None)
        for cleanup in model.cleanups:
            assert isinstance(cleanup.exception(), CleanupPending | None)
        assert set(b.actor.held) == model.owned()
        assert {context.key for context in b.handle.contexts()} == model.owned()
        assert all(context.settled for context in b.handle.contexts())
        device = b.handle.snapshot().devices[0]
        assert device.ready
        assert (device.mailbox_depth, device.mailbox_bytes, device.cleanup_depth) == (0, 0, 0)
        assert dict(device.in_flight) == {}


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40), st.booleans())
def test_no_tensor_without_an_owner_and_no_owner_without_its_tensors(
    script: list[tuple[object, ...]], drain_first: bool
) -> None:
    asyncio.run(play(script, drain_first))
