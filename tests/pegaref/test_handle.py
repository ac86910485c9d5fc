"""Commands from call to outcome, on a simulated actor and a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from pegaref.errors import (
    ActorRefused,
    AlreadyExists,
    CleanupPending,
    DeadlineExpired,
    DeviceLost,
    DeviceUnavailable,
    DeviceWedged,
    InvalidCommand,
    MailboxFull,
    OutcomeUnknown,
    ShuttingDown,
    Superseded,
)
from pegaref.messages import Dropped, Ready, Refused, Registered, Reply
from pegaref.registry.settings import RegistrySettings
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


async def test_dropping_an_instance_leaves_the_one_whose_name_it_starts() -> None:
    async with bench() as b:
        for name in ("a", "a:b", "aa"):
            await b.handle.register(register_of(key(name)), deadline_s=1)
        dropped = await b.handle.drop_instance("a", generation=None, deadline_s=1)
        assert dropped == Dropped(("a",), 1, 1, LAYER_BYTES)
        assert {context.key.instance_id for context in b.handle.contexts()} == {"a:b", "aa"}


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
        assert b.handle.contexts() == ()
        assert b.handle.snapshot().devices[0].rolled_back == 1


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
        assert b.handle.contexts() == ()


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


async def test_a_full_mailbox_refuses_at_once() -> None:
    async with bench(auto=False, settings=RegistrySettings(mailbox_commands=2)) as b:
        calls = [
            asyncio.create_task(b.handle.register(register_of(key(str(n))), deadline_s=1)) for n in range(3)
        ]
        await settle()
        with pytest.raises(MailboxFull) as refusal:
            await b.handle.register(register_of(key("x")), deadline_s=1)
        assert refusal.value.retry_after_s is not None
        assert b.handle.snapshot().devices[0].rejected == 1
        b.actor.auto = True
        b.actor.work()
        await asyncio.gather(*calls)


async def test_a_mailbox_is_full_by_bytes_too() -> None:
    async with bench(auto=False, settings=RegistrySettings(mailbox_bytes=10_000)) as b:
        calls = [
            asyncio.create_task(
                b.handle.register(register_of(key(str(n)), wrapper=b"x" * 4000), deadline_s=1)
            )
            for n in range(3)
        ]
        await settle()
        with pytest.raises(MailboxFull):
            await b.handle.register(register_of(key("x"), wrapper=b"x" * 4000), deadline_s=1)
        assert b.handle.snapshot().devices[0].mailbox_bytes <= 10_000
        small = asyncio.create_task(b.handle.register(register_of(key("small")), deadline_s=1))
        await settle()
        b.actor.auto = True
        b.actor.work()
        await asyncio.gather(small, *calls)
        assert b.handle.snapshot().devices[0].mailbox_bytes == 0


async def test_a_cleanup_is_taken_by_a_full_mailbox() -> None:
    async with bench(settings=RegistrySettings(mailbox_commands=1)) as b:
        await b.handle.register(register_of(key("a")), deadline_s=1)
        b.actor.auto = False
        stuck = [
            asyncio.create_task(b.handle.register(register_of(key(str(n))), deadline_s=1)) for n in range(2)
        ]
        await settle()
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=1))
        await settle()
        b.actor.auto = True
        b.actor.work()
        assert (await drop).contexts == 1
        await asyncio.gather(*stuck)


async def test_cleanups_of_one_instance_are_one_command() -> None:
    async with bench(auto=False) as b:
        calls = [
            asyncio.create_task(b.handle.register(register_of(key(generation=n)), deadline_s=9))
            for n in range(4)
        ]
        await settle()
        for _ in calls:
            b.actor.work()
        await asyncio.gather(*calls)
        blocker = asyncio.create_task(b.handle.register(register_of(key("z")), deadline_s=9))
        await settle()
        drops = [
            asyncio.create_task(b.handle.drop_instance("a", generation=n, deadline_s=9))
            for n in (0, 1, 0, 1, 2)
        ]
        await settle()
        assert b.handle.snapshot().devices[0].cleanup_depth == 1
        b.actor.work()
        await blocker
        b.actor.work()
        assert all(dropped.contexts == 3 for dropped in await asyncio.gather(*drops))
        assert [
            context.key.generation for context in b.handle.contexts() if context.key.instance_id == "a"
        ] == [3]


async def test_a_drop_refuses_the_registers_of_its_instance_that_wait() -> None:
    async with bench(auto=False) as b:
        running = asyncio.create_task(b.handle.register(register_of(key("a", tp=0)), deadline_s=9))
        waiting = asyncio.create_task(b.handle.register(register_of(key("a", tp=1)), deadline_s=9))
        other = asyncio.create_task(b.handle.register(register_of(key("b")), deadline_s=9))
        await settle()
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=9))
        await settle()
        with pytest.raises(Superseded):
            await waiting
        b.actor.auto = True
        b.actor.work()
        await running
        assert (await drop).contexts == 1
        await other
        assert list(b.actor.held) == [key("b")]


async def test_a_cleanup_that_waited_never_touches_a_register_that_came_after_it() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key("a", 1)), deadline_s=9)
        b.actor.auto = False
        blocker = asyncio.create_task(b.handle.register(register_of(key("z")), deadline_s=9))
        await settle()
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=1))
        await b.clock.advance(1)
        with pytest.raises(CleanupPending):
            await drop
        newer = asyncio.create_task(b.handle.register(register_of(key("a", 2)), deadline_s=5))
        await settle()
        b.actor.auto = True
        b.actor.work()
        await asyncio.gather(blocker, newer)
        assert sorted(b.actor.held) == [key("a", 2), key("z")]


async def test_a_cleanup_that_outlasts_its_caller_can_be_asked_for() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=1)
        b.actor.auto = False
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=1))
        await b.clock.advance(1)
        with pytest.raises(CleanupPending) as pending:
            await drop
        operation = b.handle.operation(pending.value.operation_id)
        assert operation is not None
        assert not operation.done
        b.actor.work()
        operation = b.handle.operation(pending.value.operation_id)
        assert operation is not None
        assert operation.devices == {0: Dropped(("a",), 1, 1, LAYER_BYTES)}
        assert operation.done
        assert b.handle.operation("unheard-of") is None


async def test_asking_again_for_a_cleanup_that_waits_gives_the_same_operation() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=1)
        b.actor.auto = False
        ids = set()
        for _ in range(3):
            drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=1))
            await b.clock.advance(1)
            with pytest.raises(CleanupPending) as pending:
                await drop
            ids.add(pending.value.operation_id)
        assert len(ids) == 1
        assert len(b.actor.inbox) == 1


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
        assert b.handle.contexts() == ()


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
        assert b.handle.contexts() == ()


async def test_a_refused_cleanup_is_tried_again_ever_more_slowly() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key()), deadline_s=5)
        b.actor.auto = False
        drop = asyncio.create_task(b.handle.drop_instance("a", generation=None, deadline_s=60))
        await settle()
        for _ in range(8):
            b.actor.work(answer=Refused("INTERNAL", "no"))
            await b.clock.advance(2)
        b.actor.work()
        assert (await drop).contexts == 1


async def test_what_the_actor_refuses_arrives_with_code_and_field() -> None:
    async with bench(auto=False) as b:
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        b.actor.work(answer=Refused("FAILED_PRECONDITION", "no GPU here", "wrapper_bytes"))
        with pytest.raises(ActorRefused) as refusal:
            await call
        assert (refusal.value.code, refusal.value.field) == ("FAILED_PRECONDITION", "wrapper_bytes")
        assert b.handle.contexts() == ()


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


@pytest.mark.parametrize("serial", [0, 2, 99])
async def test_an_answer_that_was_not_asked_for_ends_the_actor(serial: int) -> None:
    async with bench(auto=False) as b:
        actor = b.actor
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        actor.events.on_reply(Reply(serial, Registered(1, 1)))
        assert actor.ended is True
        await settle()
        with pytest.raises(OutcomeUnknown):
            await call


async def test_an_answer_of_the_wrong_kind_ends_the_actor() -> None:
    async with bench(auto=False) as b:
        actor = b.actor
        call = asyncio.create_task(b.handle.register(register_of(key()), deadline_s=5))
        await settle()
        actor.work(answer=Dropped())
        assert actor.ended is True
        with pytest.raises(OutcomeUnknown):
            await call


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
        b.actor.events.on_ready(Ready("simulated"))
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


async def test_a_deadline_that_has_passed_is_refused_before_anything_is_sent() -> None:
    async with bench() as b:
        with pytest.raises(DeadlineExpired):
            await b.handle.register(register_of(key()), deadline_s=0)
        assert not b.actor.held


async def test_an_unknown_device_is_refused_by_name() -> None:
    async with bench() as b:
        with pytest.raises(InvalidCommand) as refusal:
            await b.handle.register(register_of(key(device=7)), deadline_s=1)
        assert refusal.value.field == "device_id"
