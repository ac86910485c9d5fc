"""Answers that are lost, late, refused or wrong, on a simulated actor in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from pegaref.errors import (
    ActorRefused,
    OutcomeUnknown,
)
from pegaref.messages import Dropped, Refused, Registered, Reply
from tests.pegaref.simulation import bench, key, register_of, settle

LOOK_EVERY_S = 1 / 64  # exact in binary, so that equal pauses are seen as equal


@pytest.mark.promise("unknown-outcome")
async def test_a_lost_answer_is_an_unknown_outcome_and_is_undone() -> None:
    async with bench(auto=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        b.actor.work(lose_reply=True)
        assert list(b.actor.held) == [key()]
        await b.clock.advance(1)
        with pytest.raises(OutcomeUnknown):
            await call
        b.actor.work()
        assert not b.actor.held
        assert b.handle.snapshot().devices[0].lost_replies == 1


async def test_an_answer_that_is_merely_slow_is_not_lost() -> None:
    async with bench(auto=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=9))
        await b.clock.advance(4)
        b.actor.work()
        await call
        assert b.handle.snapshot().devices[0].lost_replies == 0


async def test_a_lost_answer_to_a_duplicate_does_not_undo_the_original() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=5)
        b.actor.auto = False
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        b.actor.work(lose_reply=True)
        await b.clock.advance(1)
        with pytest.raises(OutcomeUnknown):
            await call
        assert b.actor.inbox == []
        assert list(b.actor.held) == [key()]


async def test_a_lost_answer_that_comes_late_means_nothing() -> None:
    async with bench(auto=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        request = b.actor.inbox[0]
        b.actor.work(lose_reply=True)
        await b.clock.advance(1)
        with pytest.raises(OutcomeUnknown):
            await call
        b.actor.events.on_reply(Reply(request.serial, Registered(1, 1)))
        assert b.actor.ended is None
        b.actor.work()
        assert b.handle.context_count == 0


async def test_a_cleanup_whose_answer_is_lost_is_done_again() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=5)
        b.actor.auto = False
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=9))
        await settle()
        b.actor.work(lose_reply=True)
        await b.clock.advance(1)
        assert not drop.done()
        b.actor.work()
        assert await drop == Dropped()
        assert b.handle.context_count == 0


async def test_a_refused_cleanup_is_tried_again_ever_more_slowly() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=5)
        b.actor.auto = False
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=60))
        await settle()
        tried_s = []
        for _ in range(int(30 / LOOK_EVERY_S)):
            if b.actor.inbox:
                tried_s.append(b.clock.now())
                b.actor.work(answer=Refused("INTERNAL", "no"))
            await b.clock.advance(LOOK_EVERY_S)
        pauses_s = [after - before for before, after in pairwise(tried_s)]
        assert pauses_s == sorted(pauses_s)
        assert 4 * pauses_s[0] < pauses_s[-1] < 5
        assert 6 <= len(tried_s) <= 30, "neither given up nor hot"
        await b.clock.advance(5)
        b.actor.work()
        assert (await drop).contexts == 1


@pytest.mark.promise("errors-as-data")
async def test_what_the_actor_refuses_arrives_with_code_and_field() -> None:
    async with bench(auto=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        b.actor.work(answer=Refused("FAILED_PRECONDITION", "no GPU here", "wrapper_bytes"))
        with pytest.raises(ActorRefused) as refusal:
            await call
        assert (refusal.value.code, refusal.value.field) == ("FAILED_PRECONDITION", "wrapper_bytes")
        assert b.handle.context_count == 0


async def test_a_register_that_failed_inside_the_actor_is_undone() -> None:
    async with bench(auto=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        b.actor.held[key()] = Registered(1, 1)  # it failed half-way
        b.actor.work(answer=Refused("INTERNAL", "KeyError"))
        with pytest.raises(ActorRefused):
            await call
        b.actor.work()
        assert not b.actor.held


@pytest.mark.promise("reply-twice")
@pytest.mark.parametrize("serial", [0, 1, 3, 99])
async def test_an_answer_that_no_command_waits_for_is_counted_and_dropped(serial: int) -> None:
    async with bench(auto=False) as b:
        held = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        b.actor.work()
        assert (await held).tensors == 1
        b.actor.events.on_reply(Reply(serial, Registered(9, 9)))  # while nothing runs
        call = asyncio.create_task(b.handle.register(register_of(key("b")), deadline_s=5))
        await settle()
        b.actor.events.on_reply(Reply(serial, Registered(9, 9)))  # while request 2 runs
        await settle()
        assert not call.done()
        b.actor.work()
        assert (await call).tensors == 1
        device = b.handle.snapshot().devices[0]
        assert (device.unexpected_replies, device.contexts, device.epoch) == (2, 2, 1)
        assert b.actor.ended is None


async def test_an_answer_of_the_wrong_kind_ends_the_actor() -> None:
    async with bench(auto=False) as b:
        actor = b.actor
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        actor.work(answer=Dropped())
        assert actor.ended is True
        with pytest.raises(OutcomeUnknown):
            await call
