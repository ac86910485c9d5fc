"""Actors that die, load, are wedged or close, on simulated actors in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from pegaref.errors import (
    CleanupPending,
    DeviceLost,
    DeviceUnavailable,
    DeviceWedged,
    OutcomeUnknown,
    ShuttingDown,
)
from pegaref.messages import Dropped, Pulse, Ready
from pegaref.registry import Phase
from tests.pegaref.simulation import LAYER_BYTES, bench, key, register_of, settle


async def test_the_death_of_an_actor_answers_everybody_and_the_next_one_works() -> None:
    async with bench(auto=False) as b:
        lost: list[frozenset[tuple[str, int]]] = []
        b.handle.on_lost = lost.append
        held = asyncio.create_task(b.handle.register(register_of(key("held", 7)), deadline_s=5))
        await settle()
        b.actor.work()
        await held
        running = asyncio.create_task(b.handle.register(register_of(key("running")), deadline_s=5))
        waiting = asyncio.create_task(b.handle.register(register_of(key("waiting")), deadline_s=5))
        drop = asyncio.create_task(b.handle.drop_instance("held", generation=7, deadline_s=5))
        await settle()
        b.actor.die()
        with pytest.raises(OutcomeUnknown):
            await running
        with pytest.raises(DeviceLost):
            await waiting
        assert (await drop).contexts == 1
        assert lost == []  # it had been dropped when the others heard of it
        b.placement.auto = True
        await b.clock.advance(0)
        assert (await b.handle.register(register_of(key("held", 8)), deadline_s=5)).tensors == 1
        device = b.handle.snapshot().devices[0]
        assert (device.epoch, device.respawns, device.contexts) == (2, 1, 1)


async def test_the_sessions_of_a_dead_actors_tensors_are_told() -> None:
    async with bench(devices=(0, 1)) as b:
        lost: list[frozenset[tuple[str, int]]] = []
        b.handle.on_lost = lost.append
        await b.handle.register(register_of(key("a", 3, device=0)), deadline_s=5)
        await b.handle.register(register_of(key("b", 4, device=1)), deadline_s=5)
        b.actor.die()
        assert lost == [frozenset({("a", 3)})]
        assert [context.key.instance_id for context in b.handle.contexts()] == ["b"]


async def test_a_failing_on_lost_does_not_stop_the_respawn() -> None:
    async with bench() as b:

        def fail(_: object) -> None:
            raise RuntimeError("a broken callback")

        b.handle.on_lost = fail
        await b.handle.register(register_of(key()), deadline_s=5)
        b.actor.die()
        await b.clock.advance(0)
        assert b.handle.snapshot().ready


async def test_commands_that_come_before_torch_is_loaded_wait_for_it() -> None:
    async with bench(ready=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await b.clock.advance(3)
        assert not call.done()
        assert not b.handle.snapshot().ready
        assert "torch" in b.handle.snapshot().devices[0].reason
        b.actor.events.on_ready(Ready("simulated", "cpu"))
        await call
        assert b.handle.snapshot().ready


async def test_clear_answers_for_each_device() -> None:
    async with bench(devices=(0, 1)) as b:
        await b.handle.register(register_of(key("a", device=0)), deadline_s=5)
        await b.handle.register(register_of(key("a", device=1)), deadline_s=5)
        b.actor.auto = False
        call = asyncio.create_task(b.handle.clear(deadline_s=1))
        await b.clock.advance(1)
        outcome = await call
        assert isinstance(outcome[0], CleanupPending)
        assert outcome[1] == Dropped(("a",), 1, 1, LAYER_BYTES)
        assert b.handle.operation(outcome[0].operation_id) is not None


@pytest.mark.promise("other-devices")
async def test_a_wedged_device_leaves_the_others_alone() -> None:
    async with bench(devices=(0, 1)) as b:
        for device in (0, 1):
            await b.handle.register(register_of(key("old", device=device)), deadline_s=5)
        b.actor.auto = False
        stuck = asyncio.create_task(b.handle.register(register_of(key("stuck")), deadline_s=60))
        await b.clock.advance(6)
        with pytest.raises(DeviceWedged):
            await b.handle.register(register_of(key("new", device=0)), deadline_s=5)
        await b.handle.register(register_of(key("new", device=1)), deadline_s=5)
        assert (await b.handle.drop_instance("new", generation=None, deadline_s=5)).contexts == 1
        outcome = await b.handle.clear(deadline_s=5)
        assert isinstance(outcome[0], CleanupPending)
        assert outcome[1] == Dropped(("old",), 1, 1, LAYER_BYTES)
        b.actor.auto = True
        b.actor.work()
        assert (await stuck).tensors == 1
        await settle()
        assert not b.actor.held


async def test_closing_answers_everybody_and_refuses_the_rest() -> None:
    async with bench(auto=False) as b:
        running = asyncio.create_task(b.handle.register(register_of(key("a")), deadline_s=5))
        waiting = asyncio.create_task(b.handle.register(register_of(key("b")), deadline_s=5))
        await settle()
        await b.handle.close(grace_s=1)
        with pytest.raises(OutcomeUnknown):
            await running
        with pytest.raises(ShuttingDown):
            await waiting
        with pytest.raises(ShuttingDown):
            await b.handle.register(register_of(key("c")), deadline_s=5)
        with pytest.raises(ShuttingDown):
            await b.handle.drop_instance("a", generation=None, deadline_s=5)


async def test_a_launch_that_fails_is_tried_again() -> None:
    async with bench() as b:
        b.placement.failures = 2
        b.actor.die()
        await b.clock.advance(0)
        assert not b.handle.snapshot().ready
        with pytest.raises(DeviceUnavailable):
            await b.handle.register(register_of(key()), deadline_s=5)
        await b.clock.advance(30)
        assert b.handle.snapshot().ready


async def test_an_actor_that_cannot_be_watched_is_not_ready_and_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable() -> Pulse:
        raise OSError("Input/output error")

    async with bench() as b:
        with monkeypatch.context() as patch:
            patch.setattr(b.actor, "pulse", unreadable)
            await b.clock.advance(1)
            device = b.handle.snapshot().devices[0]
            assert (device.ready, device.phase) == (False, Phase.READY)
            assert device.reason == "the actor cannot be watched: OSError: Input/output error"
        await b.clock.advance(1)
        assert b.handle.snapshot().ready
