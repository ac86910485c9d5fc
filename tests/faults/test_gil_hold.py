"""A held GIL stops all Python in the process, and a released one gives all of it back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faults import Controller, State
from tests.faults.bench import Target, pending, result


async def test_no_thread_runs_python_while_the_gil_is_held(controller: Controller, target: Target) -> None:
    await target.ticks()
    async with controller.arm("gil.hold", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        answer = target.start("1 + 1")
        assert await target.is_silent()
        assert await pending(answer)
        assert fault.status().state is State.BITING
    assert await result(answer) == 2
    await target.ticks()


async def test_the_twin_that_gives_up_the_gil_stops_nobody(controller: Controller, target: Target) -> None:
    await target.do("import workshop")
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = target.start("workshop.work(5)")
        await fault.wait_biting(timeout_s=5)
        await target.ticks()
        assert not stuck.done()
    assert await result(stuck) == 5


async def test_the_proof_is_the_silence_of_the_agent(controller: Controller, target: Target) -> None:
    async with controller.arm("gil.hold", process="bench") as fault:
        status = await fault.wait_biting(timeout_s=5)
        assert f"the agent of process {target.pid} is silent" in status.evidence[0]


async def test_the_seconds_that_the_gil_was_held_are_counted_from_outside(
    controller: Controller, target: Target
) -> None:
    async with controller.arm("gil.hold", process="bench") as fault:
        first = await fault.wait_biting(timeout_s=5)
        await target.is_silent(for_s=0.1)
        assert fault.status().held_s >= first.held_s + 0.1
    ended = fault.status()
    assert ended.inside == 0
    assert fault.status().held_s == ended.held_s


async def test_a_signal_with_a_python_handler_does_not_let_the_gil_slip(
    controller: Controller, target: Target
) -> None:
    await target.do("import signal; seen = []")
    await target.ask("signal.signal(signal.SIGUSR1, lambda *_: seen.append(1)) and None", main=True)
    async with controller.arm("gil.hold", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        for _ in range(20):
            os.kill(target.pid, signal.SIGUSR1)
        assert await target.is_silent()
    await target.ticks()
    assert await target.ask("len(seen)", main=True) >= 1


async def test_faulthandler_still_prints_the_stacks_of_a_process_whose_gil_is_held(
    controller: Controller, target: Target, tmp_path: Path
) -> None:
    await target.do(f"import faulthandler, signal; file = open({str(tmp_path / 'stacks')!r}, 'w')")
    await target.do("faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)")
    async with controller.arm("gil.hold", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        os.kill(target.pid, signal.SIGUSR2)
        assert await target.is_silent()
        assert "wait_for_end" in (tmp_path / "stacks").read_text()
