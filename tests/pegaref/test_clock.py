"""The heap of deadlines: late is never early, cancelled is never called, and one loop timer is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegaref.clock import DeadlineHeap
from tests.pegaref.simulation import VirtualClock


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans()), max_size=40), st.floats(0, 60))
async def test_what_is_due_is_called_once_in_order_and_nothing_else(
    wanted: list[tuple[float, bool]], until_s: float
) -> None:
    clock = VirtualClock()
    heap = DeadlineHeap(clock)
    start_s = clock.now()
    called: list[tuple[float, int]] = []
    timers = []
    for number, (after_s, _) in enumerate(wanted):
        timers.append(
            heap.call_at(start_s + after_s, lambda number=number: called.append((clock.now(), number)))  # type: ignore[misc]
        )
    for timer, (_, cancelled) in zip(timers, wanted, strict=True):
        if cancelled:
            timer.cancel()
            timer.cancel()
    await clock.advance(until_s)
    due = [
        (start_s + after_s, number)
        for number, (after_s, cancelled) in enumerate(wanted)
        if not cancelled and start_s + after_s <= start_s + until_s
    ]
    assert [number for _, number in called] == [number for _, number in sorted(due)]
    assert all(now_s >= start_s + wanted[number][0] - 1e-9 for now_s, number in called)
    heap.stop()
    assert clock.pending == 0


async def test_calls_that_are_made_and_cancelled_cost_one_timer_and_no_memory() -> None:
    clock = VirtualClock()
    heap = DeadlineHeap(clock)
    for _ in range(10_000):
        heap.call_at(clock.now() + 30, lambda: None).cancel()
    assert clock.pending == 1
    assert len(heap._heap) <= 2 * DeadlineHeap.COMPACT_FROM
    heap.stop()


async def test_a_call_made_from_a_call_is_made_too() -> None:
    clock = VirtualClock()
    heap = DeadlineHeap(clock)
    called: list[float] = []

    def again() -> None:
        called.append(clock.now())
        if len(called) < 3:
            heap.call_at(clock.now() + 1, again)

    heap.call_at(clock.now() + 1, again)
    await clock.advance(10)
    assert len(called) == 3
    assert clock.pending == 0


async def test_a_call_that_raises_takes_no_other_with_it() -> None:
    clock = VirtualClock()
    heap = DeadlineHeap(clock)
    called: list[float] = []

    def fail() -> None:
        raise ZeroDivisionError

    heap.call_at(clock.now() + 1, fail)
    heap.call_at(clock.now() + 1, lambda: called.append(1))
    heap.call_at(clock.now() + 2, lambda: called.append(2))
    with pytest.raises(ZeroDivisionError):
        await clock.advance(1)
    await clock.advance(2)
    assert called == [1, 2]
