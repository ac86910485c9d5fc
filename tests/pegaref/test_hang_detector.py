"""How a hang is told from idleness and slowness, and what is done about it; on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from pegaref.config import RegistrySettings
from pegaref.errors import CleanupPending, DeviceUnavailable, DeviceWedged, OutcomeUnknown
from pegaref.registry import DeviceSnapshot, Hang, Phase
from pegaref.registry.hang_detector import poll_interval_s
from tests.pegaref.simulation import Bench, bench, key, register_of, settle

RESPAWN = RegistrySettings(on_wedge="respawn")


def device(b: Bench) -> DeviceSnapshot:
    return b.handle.snapshot().devices[0]


async def stick(b: Bench, name: str = "stuck") -> asyncio.Task[object]:
    """A register that the actor does not answer."""
    b.actor.auto = False
    task: asyncio.Task[object] = asyncio.create_task(
        b.handle.register(register_of(key(name)), deadline_s=1000)
    )
    await settle()
    return task


async def test_a_command_without_progress_is_a_wedge_after_five_seconds() -> None:
    async with bench() as b:
        stuck = await stick(b)
        await b.clock.advance(4.5)
        assert device(b).ready
        await b.clock.advance(1)
        assert (device(b).phase, device(b).hang) == (Phase.WEDGED, Hang.STALLED)
        assert not b.handle.snapshot().ready
        assert "stalled" in device(b).reason
        b.actor.work()
        await stuck
        assert device(b).ready


async def test_an_idle_actor_is_never_wedged() -> None:
    async with bench() as b:
        await b.clock.advance(3600)
        assert device(b).ready


async def test_a_slow_command_that_makes_progress_is_not_wedged() -> None:
    async with bench() as b:
        slow = await stick(b)
        for _ in range(60):
            await b.clock.advance(4)
            assert device(b).ready
            b.actor.step()
        b.actor.work()
        await slow


@pytest.mark.parametrize(
    ("beating", "states", "hang"),
    [
        (True, "SS", Hang.STALLED),
        (False, "SS", Hang.GIL_HELD),
        (False, "RS", Hang.GIL_HELD),
        (False, "TT", Hang.STOPPED),
        (False, "tS", Hang.STOPPED),
        (False, "DS", Hang.UNKILLABLE),
        (True, "SD", Hang.UNKILLABLE),
        (False, "Z", Hang.DEAD),
    ],
)
async def test_each_kind_of_hang_has_its_name(beating: bool, states: str, hang: Hang) -> None:
    async with bench() as b:
        stuck = await stick(b)
        b.actor.beating, b.actor.kernel_states = beating, states
        await b.clock.advance(6)
        assert device(b).hang is hang
        b.actor.beating, b.actor.kernel_states = True, "S"
        b.actor.work()
        await stuck
        assert device(b).ready


async def test_a_thread_in_d_is_unkillable_only_when_two_polls_in_a_row_find_it_there() -> None:
    async with bench() as b:
        stuck = await stick(b)
        await b.clock.advance(6)
        assert device(b).hang is Hang.STALLED
        every_s = poll_interval_s(5.0)
        for states, hang in (
            ("D", Hang.STALLED),
            ("S", Hang.STALLED),
            ("D", Hang.STALLED),
            ("D", Hang.UNKILLABLE),
        ):
            b.actor.kernel_states = states
            await b.clock.advance(every_s)
            assert device(b).hang is hang
        b.actor.work()
        await stuck


async def test_a_heart_that_stops_is_a_wedge_even_when_nothing_was_asked() -> None:
    async with bench() as b:
        b.actor.beating = False
        await b.clock.advance(4)
        assert device(b).ready
        await b.clock.advance(2)
        assert device(b).hang is Hang.GIL_HELD
        b.actor.beating = True
        await b.clock.advance(0.5)
        assert device(b).ready


async def test_polls_that_come_late_count_little() -> None:
    async with bench() as b:
        stuck = await stick(b)
        b.actor.beating = False
        await b.clock.advance(1)
        for timer in b.clock.postpone(600):  # this process was stopped, not the actor
            timer()
        await settle()
        assert device(b).ready
        b.actor.work()
        await stuck


async def test_registers_on_a_wedged_device_are_refused_at_once_and_cleanups_stay() -> None:
    async with bench() as b:
        await b.handle.register(register_of(key("old")), deadline_s=5)
        stuck = await stick(b)
        await b.clock.advance(6)
        with pytest.raises(DeviceWedged) as refusal:
            await b.handle.register(register_of(key("new")), deadline_s=5)
        assert refusal.value.hang == "stalled"
        with pytest.raises(CleanupPending):
            await b.handle.drop_instance("old", generation=None, deadline_s=5)
        b.actor.auto = True
        b.actor.work()
        await stuck
        await settle()
        assert list(b.actor.held) == [key("stuck")]


async def test_the_stack_of_a_wedged_actor_is_asked_for_once_and_shown() -> None:
    async with bench() as b:
        stuck = await stick(b)
        b.actor.stack = "Thread 1: in empty_cache"
        await b.clock.advance(60)
        assert b.actor.asked == 1
        assert device(b).traceback == "Thread 1: in empty_cache"
        b.actor.work()
        await stuck
        assert device(b).traceback == ""


async def test_report_leaves_a_wedged_actor_alone() -> None:
    async with bench() as b:
        stuck = await stick(b)
        await b.clock.advance(900)
        assert b.actor.ended is None
        assert device(b).hang_age_s == pytest.approx(900, abs=1)
        b.actor.work()
        await stuck


async def test_respawn_replaces_a_wedged_actor_and_tells_whose_tensors_went() -> None:
    async with bench(settings=RESPAWN) as b:
        lost: list[frozenset[tuple[str, int]]] = []
        b.handle.on_lost = lost.append
        await b.handle.register(register_of(key("old", 5)), deadline_s=5)
        wedged = b.actor
        stuck = await stick(b)
        await b.clock.advance(7)
        assert wedged.ended is True
        with pytest.raises(OutcomeUnknown):
            await stuck
        assert lost == [frozenset({("old", 5)})]
        assert device(b).ready
        assert (device(b).epoch, device(b).respawns, device(b).contexts) == (2, 1, 0)
        b.actor.auto = True
        await b.handle.register(register_of(key("old", 6)), deadline_s=5)


async def test_an_actor_that_outlives_sigkill_is_quarantined_and_never_waited_for() -> None:
    async with bench(settings=RESPAWN) as b:
        b.actor.killable = False
        b.actor.kernel_states = "D"
        immortal = b.actor
        stuck = await stick(b)
        await b.clock.advance(20)
        assert (device(b).phase, device(b).hang) == (Phase.QUARANTINED, Hang.UNKILLABLE)
        assert device(b).epoch == 1
        with pytest.raises(DeviceUnavailable):
            await b.handle.register(register_of(key("new")), deadline_s=5)
        immortal.die("the driver let go")
        await b.clock.advance(0)
        assert device(b).ready
        with pytest.raises(OutcomeUnknown):
            await stuck


async def test_an_actor_that_dies_again_and_again_is_started_ever_more_slowly() -> None:
    async with bench() as b:
        starts: list[float] = []
        for _ in range(6):
            b.actor.die()
            died_s = b.clock.now()
            while not device(b).ready:
                await b.clock.advance(0.25)
            starts.append(b.clock.now() - died_s)
        assert starts == sorted(starts)
        assert starts[0] <= 0.25
        assert starts[-1] >= 4
