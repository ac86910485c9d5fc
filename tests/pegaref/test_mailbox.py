"""The mailbox by itself: order, bounds and merging."""

from __future__ import annotations

import asyncio

import pytest

from pegaref.errors import MailboxFull
from pegaref.messages import Clear, DropContext, DropInstance, Dropped
from pegaref.registry.commands import Cleanup, PendingRegister
from pegaref.registry.mailbox import Mailbox
from tests.pegaref.simulation import key, register_of


async def register(instance: str, *, generation: int = 0, tp: int = 0, now_s: float = 1.0) -> PendingRegister:
    command = register_of(key(instance, generation, tp=tp))
    return PendingRegister(command, asyncio.get_running_loop().create_future(), now_s)


async def test_registers_leave_in_the_order_in_which_they_came() -> None:
    box = Mailbox(10, 10_000)
    entries = [await register(name) for name in "abc"]
    for each in entries:
        box.put(each)
    assert [box.take() for _ in range(4)] == [*entries, None]
    assert (box.register_count, box.register_bytes) == (0, 0)


async def test_cleanups_leave_first() -> None:
    box = Mailbox(10, 10_000)
    box.put(await register("a"))
    cleanup = box.put_cleanup(DropInstance("b"), 2.0)
    assert box.take() is cleanup


async def test_bounds_are_exact_and_come_back_with_what_leaves() -> None:
    entries = [await register(name) for name in "abc"]
    size = entries[0].size_bytes
    by_count, by_bytes = Mailbox(2, 10_000), Mailbox(10, 2 * size)
    for box in (by_count, by_bytes):
        box.put(entries[0])
        box.put(entries[1])
        with pytest.raises(MailboxFull):
            box.put(entries[2])
        assert box.discard(entries[0])
        assert not box.discard(entries[0])
        box.put(entries[2])
        assert box.take() is entries[1]


async def test_cleanups_of_one_instance_merge_and_those_of_others_do_not() -> None:
    box = Mailbox(1, 1)
    first = box.put_cleanup(DropInstance("a", (1,)), 1.0)
    assert box.put_cleanup(DropInstance("a", (2,)), 2.0) is first
    assert first.command == DropInstance("a", (1, 2))
    assert box.put_cleanup(DropInstance("a"), 3.0) is first
    assert first.command == DropInstance("a")
    assert box.put_cleanup(DropInstance("a:b"), 3.0) is not first
    assert box.put_cleanup(DropContext(key("a")), 3.0) is not first
    assert box.put_cleanup(Clear(), 3.0) is box.put_cleanup(Clear(), 4.0)
    assert box.cleanup_count == 4


async def test_a_cleanup_takes_the_registers_that_it_matches_and_no_other() -> None:
    box = Mailbox(10, 10_000)
    mine = [await register("a", tp=rank) for rank in range(2)]
    newer, other = await register("a", generation=1), await register("a:b")
    for each in (*mine, newer, other):
        box.put(each)
    assert box.take_matching_registers(DropContext(mine[0].command.key)) == mine[:1]
    assert box.take_matching_registers(DropInstance("a", (0,))) == mine[1:]
    assert box.take_matching_registers(DropInstance("nobody")) == []
    assert box.take_matching_registers(Clear()) == [newer, other]
    assert box.register_bytes == 0


async def test_a_cleanup_put_back_is_the_next_and_speaks_for_those_that_came_meanwhile() -> None:
    box = Mailbox(10, 10_000)
    first = box.put_cleanup(DropInstance("a", (1,)), 1.0)
    assert box.take() is first
    second = box.put_cleanup(DropInstance("a", (2,)), 2.0)
    box.put_cleanup(DropInstance("b"), 2.0)
    box.put_back(first)
    taken = box.take()
    assert isinstance(taken, Cleanup)
    assert taken is first
    assert taken.command == DropInstance("a", (1, 2))
    taken.finish(Dropped(("a",), 2, 2, 2))
    assert second.outcome == Dropped(("a",), 2, 2, 2)


@pytest.mark.parametrize(
    ("mine", "other", "covers"),
    [
        (Clear(), DropInstance("a"), True),
        (DropInstance("a"), Clear(), False),
        (DropInstance("a"), DropInstance("a", (1,)), True),
        (DropInstance("a", (1, 2)), DropInstance("a", (1,)), True),
        (DropInstance("a", (1,)), DropInstance("a", (1, 2)), False),
        (DropInstance("a", (1,)), DropInstance("a"), False),
        (DropInstance("a"), DropInstance("a:b"), False),
        (DropContext(key("a")), DropContext(key("a")), True),
        (DropContext(key("a")), DropContext(key("a", tp=1)), False),
    ],
)
def test_one_cleanup_covers_another_only_when_it_does_all_of_it(
    mine: DropInstance | DropContext | Clear, other: DropInstance | DropContext | Clear, covers: bool
) -> None:
    assert Cleanup(mine, 0.0).subsumes(other) is covers


async def test_the_oldest_is_the_head_of_either_lane() -> None:
    box = Mailbox(10, 10_000)
    assert box.oldest_s() is None
    box.put(await register("a", now_s=5.0))
    box.put(await register("b", now_s=6.0))
    assert box.oldest_s() == 5.0
    box.put_cleanup(Clear(), 4.0)
    assert box.oldest_s() == 4.0
