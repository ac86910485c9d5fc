"""The commands that wait for a device, on a simulated actor in virtual time: full mailboxes, queued
cleanups."""

from __future__ import annotations

import asyncio

import pytest

from pegaref.config import RegistrySettings
from pegaref.errors import (
    CleanupPending,
    MailboxFull,
    Superseded,
)
from pegaref.messages import Dropped
from tests.pegaref.simulation import LAYER_BYTES, bench, key, register_of, settle


@pytest.mark.promise("bounded-mailbox")
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


@pytest.mark.promise("bounded-mailbox")
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


@pytest.mark.promise("cleanups-taken")
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


@pytest.mark.promise("cleanups-merged")
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


@pytest.mark.promise("generations")
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
