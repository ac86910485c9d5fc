"""Commands from call to outcome on a simulated actor, in virtual time: keys, deadlines, callers that go."""

from __future__ import annotations

import asyncio

import pytest

from pegaref.errors import (
    AlreadyExists,
    DeadlineExpired,
    OutcomeUnknown,
)
from pegaref.messages import Dropped, Registered
from tests.pegaref.simulation import LAYER_BYTES, bench, key, register_of, settle


async def test_a_register_answers_what_the_actor_mapped() -> None:
    async with bench() as b:
        assert await b.handle.register(register_of(key(), layers=3), deadline_s=1) == Registered(
            3, 3 * LAYER_BYTES
        )
        (context,) = b.handle.contexts()
        assert (context.key, context.tensors, context.settled) == (key(), 3, True)


async def test_a_key_can_be_registered_once_until_it_is_dropped() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=1)
        with pytest.raises(AlreadyExists):
            await b.handle.register(register_of(key()), deadline_s=1)
        assert b.handle.snapshot().devices[0].contexts == 1
        await b.handle.drop_instance("a", generation=None, deadline_s=1)
        await b.handle.register(register_of(key()), deadline_s=1)


@pytest.mark.promise("exact-keys")
async def test_dropping_an_instance_leaves_the_one_whose_name_it_starts() -> None:
    async with bench() as b:
        for name in ("a", "a:b", "aa"):
            await b.handle.register(register_of(key(name)), deadline_s=1)
        dropped = await b.handle.drop_instance("a", generation=None, deadline_s=1)
        assert dropped == Dropped(("a",), 1, 1, LAYER_BYTES)
        assert {context.key.instance_id for context in b.handle.contexts()} == {"a:b", "aa"}


@pytest.mark.promise("generations")
async def test_dropping_one_generation_leaves_the_next() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key(generation=1)), deadline_s=1)
        await b.handle.register(register_of(key(generation=2)), deadline_s=1)
        assert (await b.handle.drop_instance("a", generation=1, deadline_s=1)).contexts == 1
        assert [context.key.generation for context in b.handle.contexts()] == [2]


async def test_dropping_what_nobody_registered_is_answered_without_the_actor() -> None:
    async with bench(auto=False) as b:
        assert await b.handle.drop_instance("a", generation=None, deadline_s=1) == Dropped()
        assert b.actor.inbox == []


async def test_dropping_what_nobody_registered_waits_for_no_clear_that_runs() -> None:
    async with bench(auto=False) as b:
        clearing = asyncio.create_task(b.handle.clear(deadline_s=60))
        await settle()
        assert await b.handle.drop_instance("a", generation=None, deadline_s=1) == Dropped()
        b.actor.work()
        await clearing


async def test_one_context_is_dropped_by_its_key() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key(tp=0)), deadline_s=1)
        await b.handle.register(register_of(key(tp=1)), deadline_s=1)
        assert (await b.handle.drop_context(key(tp=1), deadline_s=1)).contexts == 1
        assert [context.key.tp_rank for context in b.handle.contexts()] == [0]


async def test_the_answer_comes_a_little_before_the_deadline() -> None:
    async with bench(auto=False) as b:
        running = asyncio.create_task(b.handle.register(register_of(key("a")), deadline_s=10))
        waiting = asyncio.create_task(b.handle.register(register_of(key("b")), deadline_s=0.5))
        await b.clock.advance(0.44)
        assert not waiting.done()
        await b.clock.advance(0.02)
        with pytest.raises(DeadlineExpired):
            await waiting
        await b.clock.advance(9.43)
        assert not running.done()
        await b.clock.advance(0.02)
        with pytest.raises(OutcomeUnknown):
            await running


async def test_a_register_that_expired_in_the_queue_never_runs() -> None:
    async with bench(auto=False) as b:
        first = asyncio.create_task(b.handle.register(register_of(key("a")), deadline_s=10))
        second = asyncio.create_task(b.handle.register(register_of(key("b")), deadline_s=1))
        await b.clock.advance(1)
        with pytest.raises(DeadlineExpired):
            await second
        b.actor.work()
        await first
        assert b.actor.inbox == []
        assert b.handle.snapshot().devices[0].finished == {
            ("register", "expired"): 1,
            ("register", "done"): 1,
        }


async def test_a_register_that_ran_past_its_deadline_is_rolled_back() -> None:
    async with bench(auto=False) as b:
        late = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=1))
        await b.clock.advance(1)
        with pytest.raises(OutcomeUnknown):
            await late
        b.actor.work()
        assert list(b.actor.held) == [key()]
        b.actor.work()
        assert not b.actor.held
        assert b.handle.context_count == 0
        assert b.handle.snapshot().devices[0].rolled_back == 1


@pytest.mark.promise("unknown-outcome")
async def test_a_retry_waits_for_the_rollback_and_succeeds() -> None:
    async with bench(auto=False) as b:
        late = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=1))
        await b.clock.advance(1)
        with pytest.raises(OutcomeUnknown):
            await late
        retry = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=1))
        await settle()
        b.actor.auto = True
        b.actor.work()
        assert (await retry).tensors == 1
        assert list(b.actor.held) == [key()]


@pytest.mark.promise("no-orphans")
async def test_a_caller_that_goes_before_its_turn_leaves_nothing() -> None:
    async with bench(auto=False) as b:
        first = asyncio.create_task(b.handle.register(register_of(key("a")), deadline_s=1))
        gone = asyncio.create_task(b.handle.register(register_of(key("b")), deadline_s=1))
        await settle()
        gone.cancel()
        await settle()
        b.actor.work()
        await first
        assert b.actor.inbox == []
        assert b.handle.snapshot().devices[0].finished[("register", "cancelled")] == 1


@pytest.mark.promise("no-orphans")
async def test_a_caller_that_goes_while_its_register_runs_leaves_nothing() -> None:
    async with bench(auto=False) as b:
        gone = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=1))
        await settle()
        gone.cancel()
        await settle()
        b.actor.auto = True
        b.actor.work()
        await settle()
        assert not b.actor.held
        assert b.handle.context_count == 0


@pytest.mark.promise("no-orphans")
async def test_a_caller_that_goes_in_the_moment_of_the_answer_leaves_nothing() -> None:
    async with bench(auto=False) as b:
        gone = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=1))
        await settle()
        b.actor.auto = True
        b.actor.work()  # the answer is set, and its caller has not run yet
        gone.cancel()
        await settle()
        assert gone.cancelled()
        assert not b.actor.held


async def test_a_deadline_that_has_passed_is_refused_before_anything_is_sent() -> None:
    async with bench() as b:
        with pytest.raises(DeadlineExpired):
            await b.handle.register(register_of(key()), deadline_s=0)
        assert not b.actor.held
