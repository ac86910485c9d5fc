"""The faults that are not wedges: each is measured on a real process and released."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from faults import ArmFailed, BadParameter, Controller, State, catalogue, procfs
from faults.evidence import PROVERS
from tests.faults.bench import LaunchedTarget, TargetError, result, until

NAP_S = "(lambda began: time.sleep(0.001) or time.monotonic() - began)(time.monotonic())"


@pytest.fixture
async def shop(target: LaunchedTarget) -> LaunchedTarget:
    """The workbench with the workshop imported."""
    await target.do("import workshop, asyncio")
    return target


async def usual_nap_s(target: LaunchedTarget) -> float:
    """The middle of five naps of a millisecond: how late a thread is that has to fight for its turn."""
    found: float = await target.ask(f"sorted({NAP_S} for _ in range(5))[2]")
    return found


async def test_contending_threads_make_others_late_and_stop_nobody(
    controller: Controller, shop: LaunchedTarget
) -> None:
    await shop.do("sys.setswitchinterval(0.05)")
    before_s = await usual_nap_s(shop)
    async with controller.arm("gil.contend", process="bench", params={"threads": 3}) as fault:
        status = await fault.wait_biting(timeout_s=5)
        await until(lambda: fault.status().inside == 3)
        assert await usual_nap_s(shop) > max(0.04, before_s)
        await shop.ticks()
        assert status.state is State.BITING
    assert fault.status().inside == 0
    cpu_time_s = procfs.cpu_time_s(shop.pid)
    await shop.is_silent(for_s=0.2)
    assert procfs.cpu_time_s(shop.pid) - cpu_time_s < 0.15


async def test_a_delayed_call_is_late_by_so_much_and_another_is_not(
    controller: Controller, shop: LaunchedTarget
) -> None:
    timed = "(lambda began: [workshop.{call}, time.monotonic() - began])(time.monotonic())"
    async with controller.arm("call.delay", process="bench", params={"site": "work", "delay": 0.2}) as fault:
        value, took_s = await shop.ask(timed.format(call="work(3)"))
        assert value == 3
        assert took_s >= 0.2
        assert await shop.ask("workshop.device_work(1)") == "none on 1"
        status = await fault.wait_biting(timeout_s=5)
        assert (status.calls, status.hits) == (1, 1)
    assert await shop.ask("workshop.work(3)") == 3
    assert fault.status().calls == 1


async def test_a_delayed_coroutine_lets_its_loop_run(controller: Controller, shop: LaunchedTarget) -> None:
    params = {"site": "workshop:work_async", "delay": 0.3}
    async with controller.arm("call.delay", process="bench", params=params):
        assert await shop.ask("workshop.calling_loop_runs_on(workshop.work_async)") is True


async def test_release_ends_a_delay_early(controller: Controller, shop: LaunchedTarget) -> None:
    async with controller.arm("call.delay", process="bench", params={"site": "work", "delay": 60}) as fault:
        late = shop.start("workshop.work(1)")
        await fault.wait_biting(timeout_s=5)
    assert await result(late) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("RuntimeError", "RuntimeError: on purpose"),
        ("json:JSONDecodeError", ""),
        ("OSError", "OSError: on purpose"),
    ],
)
async def test_a_call_raises_what_is_asked_for(
    controller: Controller, shop: LaunchedTarget, error: str, says: str
) -> None:
    params = {"site": "work", "error": error, "message": "on purpose"}
    if not says:
        with pytest.raises(ArmFailed, match="cannot be made from a message alone"):
            await controller.arm("call.raise", process="bench", params=params).arm()
        return
    async with controller.arm("call.raise", process="bench", params=params) as fault:
        with pytest.raises(TargetError, match=says):
            await shop.ask("workshop.work(1)")
        assert await shop.ask("workshop.made") == []
        await fault.wait_biting(timeout_s=5)
    assert await shop.ask("workshop.work(1)") == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("RuntimError", "did you mean RuntimeError"),
        ("nowhere:Error", "not imported nowhere"),
        ("print", "no exception"),
    ],
)
async def test_an_error_that_is_none_is_refused(
    controller: Controller, shop: LaunchedTarget, error: str, says: str
) -> None:
    with pytest.raises(ArmFailed, match=says.replace("no exception", "is not an exception")):
        await controller.arm("call.raise", process="bench", params={"site": "work", "error": error}).arm()


@pytest.mark.parametrize(
    ("params", "call", "value"),
    [
        ({"value": 42}, "workshop.work(1)", 42),
        ({"value": '{"a": [1]}'}, "workshop.work(1)", {"a": [1]}),
        ({}, "workshop.work(1)", None),
        ({"how": "halve"}, "workshop.work('abcd')", "ab"),
        ({"how": "negate"}, "workshop.work(5)", -5),
        ({"how": "negate"}, "workshop.work(True)", False),
        ({"how": "flip"}, "workshop.work(b'aaa').decode()", "a`a"),
    ],
)
async def test_a_result_is_replaced_or_changed(
    controller: Controller, shop: LaunchedTarget, params: dict[str, object], call: str, value: object
) -> None:
    async with controller.arm("call.corrupt", process="bench", params={"site": "work", **params}) as fault:
        assert await shop.ask(call) == value
        await fault.wait_biting(timeout_s=5)
        assert len(await shop.ask("workshop.made")) == 1
    assert await shop.ask("workshop.work(1)") == 1


async def test_a_result_that_cannot_be_so_changed_fails_the_fault(
    controller: Controller, shop: LaunchedTarget
) -> None:
    async with controller.arm(
        "call.corrupt", process="bench", params={"site": "work", "how": "halve"}
    ) as fault:
        assert await shop.ask("workshop.work(5)") == 5
        await until(lambda: fault.status().state is State.FAILED)
        with pytest.raises(ArmFailed, match="cannot change a int"):
            await fault.wait_biting(timeout_s=5)


@pytest.mark.parametrize("owner", ["Machine", "BigMachine"])
async def test_an_object_blocks_as_it_dies_and_then_is_gone(
    controller: Controller, shop: LaunchedTarget, owner: str
) -> None:
    await shop.do(f"import weakref; thing = workshop.{owner}(); seen = weakref.ref(thing)")
    params = {"site": f"workshop:{owner}"}
    async with controller.arm("object.finalizer_stall", process="bench", params=params) as fault:
        dying = shop.start("globals().pop('thing') and None")
        await fault.wait_biting(timeout_s=5)
        await shop.ticks()
        assert not dying.done()
    await result(dying)
    assert await shop.ask("seen() is None")
    assert await shop.ask(f"hasattr(workshop.{owner}, '__del__')") is False


async def test_the_garbage_collector_blocks_on_a_dying_object_with_the_gil_held(
    controller: Controller, shop: LaunchedTarget
) -> None:
    await shop.do("import gc; gc.disable(); thing = workshop.Machine(); thing.itself = thing; del thing")
    params = {"site": "workshop:Machine", "gil": "held"}
    async with controller.arm("object.finalizer_stall", process="bench", params=params) as fault:
        collecting = shop.start("gc.collect() >= 0")
        await fault.wait_biting(timeout_s=5)
        assert await shop.is_silent()
    assert await result(collecting) is True


async def test_objects_of_another_class_die_in_peace(controller: Controller, shop: LaunchedTarget) -> None:
    params = {"site": "workshop:BigMachine"}
    async with controller.arm("object.finalizer_stall", process="bench", params=params) as fault:
        await shop.ask("workshop.Machine() and None")
        assert fault.status().hits == 0


async def test_a_finaliser_that_was_there_still_runs(controller: Controller, shop: LaunchedTarget) -> None:
    await shop.do("died = []\nclass Mortal:\n    def __del__(self): died.append(1)\nworkshop.Mortal = Mortal")
    params = {"site": "workshop:Mortal"}
    async with controller.arm("object.finalizer_stall", process="bench", params=params) as fault:
        dying = shop.start("Mortal() and None")
        await fault.wait_biting(timeout_s=5)
    await result(dying)
    assert await shop.ask("died") == [1]


LOOP = """
import asyncio, threading
beats, beating = [], threading.Event()
async def beat():
    while True:
        beats.append(1)
        beating.set()
        await asyncio.sleep(0.005)
threading.Thread(target=lambda: asyncio.run(beat()), daemon=True).start()
"""


@pytest.mark.parametrize("gil", ["released", "held"])
async def test_a_blocked_event_loop_stands_still_while_other_threads_run(
    controller: Controller, shop: LaunchedTarget, gil: str
) -> None:
    await shop.do(LOOP)
    await shop.ask("beating.wait(5)")
    async with controller.arm("loop.block", process="bench", params={"gil": gil}) as fault:
        await fault.wait_biting(timeout_s=5)
        if gil == "held":
            assert await shop.is_silent()
        else:
            beats = await shop.ask("len(beats)")
            await shop.ticks()
            assert await shop.ask("time.sleep(0.2) or len(beats)") == beats
    assert await shop.ask("time.sleep(0.2) or len(beats)") > 1


async def test_without_a_running_loop_there_is_nothing_to_block(
    controller: Controller, shop: LaunchedTarget
) -> None:
    with pytest.raises(ArmFailed, match="no asyncio event loop is running"):
        await controller.arm("loop.block", process="bench").arm()


@pytest.mark.parametrize("leave", [0, 3])
async def test_descriptors_are_exhausted_but_for_those_left(
    controller: Controller, shop: LaunchedTarget, leave: int
) -> None:
    count = "sorted(int(n) for n in os.listdir('/proc/self/fd'))"
    before = await shop.ask(count)
    await shop.do(
        "def opened():\n    files = []\n    try:\n        while True: files.append(open('/dev/null'))\n"
        "    except OSError as error: return [len(files), error.errno]"
    )
    async with controller.arm("fd.exhaust", process="bench", params={"leave": leave}) as fault:
        status = await fault.wait_biting(timeout_s=5)
        assert "descriptors open" in status.evidence[0]
        assert await shop.ask("opened()") == [leave, 24]
        await shop.ticks()
        if not leave:
            with pytest.raises(ArmFailed, match="no descriptor left"):
                await controller.arm("call.drop", process="bench", params={"site": "work"}).arm()
    assert await shop.ask(count) == before
    assert await shop.ask("open('/dev/null').close()") is None


async def test_a_process_that_gives_descriptors_up_was_exhausted_all_the_same(
    controller: Controller, shop: LaunchedTarget
) -> None:
    await shop.do("spares = [os.open('/dev/null', os.O_RDONLY) for _ in range(8)]")
    async with controller.arm("fd.exhaust", process="bench") as fault:
        await until(lambda: fault.status().hits == 1)
        await shop.do("for fd in spares: os.close(fd)")
        status = await fault.wait_biting(timeout_s=5)
        assert "was refused one more" in status.evidence[0]
    await shop.ask("[os.open('/dev/null', os.O_RDONLY) for _ in range(64)] and None")


async def test_memory_is_taken_and_given_back(controller: Controller, shop: LaunchedTarget) -> None:
    size = 64 << 20
    before = procfs.resident_bytes(shop.pid)
    async with controller.arm("memory.pressure", process="bench", params={"size": "64M"}) as fault:
        await until(lambda: procfs.resident_bytes(shop.pid) - before >= size)
        await fault.wait_biting(timeout_s=5)
        await shop.ticks()
    assert procfs.resident_bytes(shop.pid) - before < size // 2


async def test_more_memory_than_half_of_what_is_left_is_refused(
    controller: Controller, shop: LaunchedTarget
) -> None:
    with pytest.raises(ArmFailed, match="half of"):
        await controller.arm("memory.pressure", process="bench", params={"size": "100000G"}).arm()
    with pytest.raises(BadParameter, match="100M"):
        controller.arm("memory.pressure", process="bench", params={"size": "much"})


async def test_a_starved_process_gets_less_of_the_cpu_and_then_all_of_it(
    controller: Controller, shop: LaunchedTarget
) -> None:
    await shop.do("import threading\nburning = True\ndef burn():\n    while burning: sum(range(1000))")
    await shop.do("thread = threading.Thread(target=burn); thread.start()")
    await shop.do("for task in os.listdir('/proc/self/task'): os.sched_setaffinity(int(task), [0])")
    async with controller.arm("process.starve", process="bench", params={"hogs": 4}) as fault:
        status = await fault.wait_biting(timeout_s=10)
        assert status.hits == 4
        hogs = procfs.descendants((await controller.sidecar()).pid)
        assert len(hogs) == 4
        waited_s, began = procfs.run_delay_s(shop.pid), time.monotonic()
        await asyncio.sleep(0.5)
        assert procfs.run_delay_s(shop.pid) - waited_s > 0.25 * (time.monotonic() - began)
    assert not any(map(procfs.stat, hogs))
    await shop.do("burning = False; thread.join()")


async def test_the_hogs_end_when_the_sidecar_is_killed(controller: Controller, shop: LaunchedTarget) -> None:
    async with controller.arm("process.starve", process="bench", params={"hogs": 1}) as fault:
        await fault.wait_biting(timeout_s=10)
        sidecar = await controller.sidecar()
        hogs = [(pid, procfs.stat(pid)) for pid in procfs.descendants(sidecar.pid)]
        os.kill(sidecar.pid, signal.SIGKILL)
        await until(lambda: not any(found and procfs.alive(pid, found.started) for pid, found in hogs))


@pytest.mark.parametrize("fault", catalogue(), ids=lambda fault: fault.name)
def test_every_fault_says_what_it_does_what_is_seen_and_what_it_cannot_do(fault: object) -> None:
    doc = getattr(fault, "doc", "")
    assert all(heading in doc for heading in ("Does:", "A user sees:", "Cannot:"))


def test_every_proof_is_used() -> None:
    from faults.catalogue import definitions

    assert {definition.proof for definition in definitions().values()} == set(PROVERS)
