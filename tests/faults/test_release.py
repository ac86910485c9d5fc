"""Whatever ends a fault, the process runs on: the controller's release or its death, in any state, in any
order.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faults import Controller, State
from tests.faults.bench import DEADLINE_S, LaunchedTarget, Target, result, until

HARNESS = Path(__file__).parent / "harness.py"
LEASE_S = 60.0  # of what is freed by its controller's death: far more than the deadline
SHORT_LEASE_S = 3.0

STALL = {"site": "json:loads"}
STATES = [
    ("noop", {}, "connected"),
    ("noop", {}, "armed"),
    ("gil.hold", {}, "biting"),
    ("call.stall", STALL, "armed"),
    ("call.stall", STALL, "biting"),
    ("call.stall", {**STALL, "gil": "held"}, "biting"),
    ("call.drop", {"site": "json:detect_encoding"}, "armed"),
    ("process.stop", {}, "biting"),
]


@asynccontextmanager
async def broken_by_a_harness(
    name: str, params: dict[str, Any], state: str, lease_s: float = LEASE_S
) -> AsyncIterator[tuple[Target, asyncio.subprocess.Process, Path]]:
    """A workbench, the harness that breaks it, and the harness's private directory."""
    child_in, to_child = os.pipe()
    from_child, child_out = os.pipe()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(from_child, "rb")
    )
    writing, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(to_child, "wb")
    )
    writer = asyncio.StreamWriter(writing, protocol, None, loop)
    harness = await asyncio.create_subprocess_exec(
        sys.executable, str(HARNESS), str(child_in), str(child_out),
        name, json.dumps(params), state, str(lease_s),
        pass_fds=(child_in, child_out), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(child_in)
    os.close(child_out)
    target = Target(0, writer, reader)
    try:
        await target.ready()
        assert harness.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            target.pid = json.loads(await harness.stdout.readline())["armed"]
            if params and state == "biting":
                target.start("1")  # the workbench parses its orders with json.loads, and is stuck in this one
            path = Path(json.loads(await harness.stdout.readline())["path"])
        yield target, harness, path
    finally:
        if harness.returncode is None:
            harness.kill()
        await harness.wait()
        writer.close()
        await target.ended()
        reading.close()


@pytest.mark.parametrize(("name", "params", "state"), STATES, ids=lambda value: str(value).replace("'", ""))
async def test_a_controller_that_is_killed_frees_the_target_and_leaves_nothing(
    name: str, params: dict[str, Any], state: str
) -> None:
    async with broken_by_a_harness(name, params, state) as (target, harness, _):
        if "held" in str(params) or name in ("gil.hold", "process.stop"):
            assert await target.is_silent()
        harness.kill()
        async with asyncio.timeout(DEADLINE_S):
            await target.ticks()
            while "wedge_agent" in await target.ask("__import__('json').loads.__code__.co_filename"):
                await target.ticks()
        assert await target.ask("1 + 1") == 2


async def test_a_controller_that_hangs_keeps_the_target_no_longer_than_the_lease() -> None:
    async def freed(name: str, params: dict[str, Any]) -> None:
        async with broken_by_a_harness(name, params, "biting", SHORT_LEASE_S) as (target, harness, _):
            harness.send_signal(signal.SIGSTOP)
            assert await target.ask("1 + 1") == 2
            await target.ticks()

    async with asyncio.TaskGroup() as together:  # each waits out its lease
        for name, params, state in STATES:
            if state == "biting":
                together.create_task(freed(name, params), name=f"{name} {params}")


async def test_a_killed_controllers_directory_is_removed_by_its_sidecar() -> None:
    async with broken_by_a_harness("process.stop", {}, "biting") as (_, harness, path):
        assert path.exists()
        harness.kill()
        await until(lambda: not path.exists())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
async def test_three_faults_at_once_are_released_in_any_order(
    controller: Controller, target: LaunchedTarget, order: tuple[int, ...]
) -> None:
    await target.do("import workshop")
    faults = [
        controller.arm("call.stall", process="bench", params={"site": "work"}),
        controller.arm("call.drop", process="bench", params={"site": "workshop:device_work"}),
        controller.arm("gil.hold", process="bench"),
    ]
    async with faults[0], faults[1]:
        stuck = target.start("workshop.work(3)")
        await faults[0].wait_biting(timeout_s=5)
        async with faults[2]:
            await faults[2].wait_biting(timeout_s=5)
            for index in order:
                assert faults[2].status().state is State.BITING or 2 in order[: order.index(index)]
                await faults[index].release()
    assert await result(stuck) == 3
    assert await target.ask("workshop.device_work(1)") == "none on 1"


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))), ids=str)
async def test_two_faults_on_one_site_leave_the_original(
    controller: Controller, target: LaunchedTarget, order: tuple[int, ...]
) -> None:
    await target.do("import workshop; original = workshop.work")
    faults = [
        controller.arm("call.stall", process="bench", params={"site": "work"}),
        controller.arm("call.drop", process="bench", params={"site": "work"}),
    ]
    async with faults[0], faults[1]:
        for index in order:
            await faults[index].release()
    assert await target.ask("workshop.work is original")
    assert await target.ask("workshop.work(1)") == 1


async def test_release_is_idempotent_and_leaving_releases(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("gil.hold", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        first = await fault.release()
        second = await fault.release()
        assert first.times["released"] == second.times["released"]
    await target.ticks()


async def test_closing_the_controller_releases_what_is_armed(target: LaunchedTarget) -> None:
    async with Controller() as other:
        env = other.environment(os.environ)
        process = await other.launch(
            [sys.executable, "-c", "input()"], env=env, stdin=asyncio.subprocess.PIPE
        )
        await other.arm("gil.hold").arm()
    assert process.returncode is not None
    assert not other.faults()


async def test_a_hundred_cycles_leave_the_target_as_it_was(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    count = "[len(os.listdir('/proc/self/' + what)) for what in ('fd', 'task')]"
    async with controller.arm("call.stall", process="bench", params={"site": "work"}):
        before = None
    for number in range(100):
        async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
            stuck = target.start("workshop.work(1)")
            await until(lambda fault=fault: fault.status().inside == 1)  # type: ignore[misc]
        await result(stuck)
        async with controller.arm("gil.hold", process="bench") as held:
            await until(lambda held=held: held.status().inside == 1)  # type: ignore[misc]
        if number == 0:
            await until_settled(target, count)
            before = await target.ask(count)
    assert await until_settled(target, count) == before


async def until_settled(target: Target, count: str) -> Any:
    """What is counted, once two counts in a row agree: threads that end are seen for a moment longer."""
    async with asyncio.timeout(DEADLINE_S):
        last = None
        while (now := await target.ask(count)) != last:
            last = now
        return now


async def test_a_target_killed_in_the_middle_ends_the_fault_without_an_error(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("gil.hold", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        os.kill(target.pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            await target.launched.wait()
        await until(lambda: fault.status().inside == 0)
    assert fault.status().state is State.RELEASED
