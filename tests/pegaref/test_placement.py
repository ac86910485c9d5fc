"""The four placements: the same registry in each, and what a stuck call takes with it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pegaref.config import DEVICE_TYPES, RegistrySettings
from pegaref.errors import OutcomeUnknown, RegistryError, TorchMissing, UnknownPlacement
from pegaref.messages import Reply
from pegaref.placement import PLACEMENTS, gpu_trace, open_placement
from pegaref.placement.local import LocalLink
from pegaref.placement.pool import WorkerPool
from pegaref.registry import Hang, RegistryHandle
from tests.pegaref.shared import Running, mapped, register_shared, running, shared_memory, until
from tests.pegaref.simulation import key

QUICK = RegistrySettings(wedge_after_s=2.0)
IN_PROCESS = ("inline", "pool", "thread")


class Blocker:
    """Blocks its callers, with the GIL free, until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._gate = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self._gate.wait(120)

    def open(self) -> None:
        self._gate.set()


@pytest.fixture
def blocker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocker]:
    """`torch.cuda.empty_cache`, of this process, made to block."""
    torch = pytest.importorskip("torch", reason="these placements import torch into this process")
    made = Blocker()
    monkeypatch.setattr(torch.cuda, "empty_cache", made)
    yield made
    made.open()


async def stuck_drop(r: Running, name: str, instance: str) -> asyncio.Task[object]:
    """A handler that is stuck in the registry with live tensors."""
    command = register_shared(name, key(instance))
    await r.placement.dispatch.run(lambda: r.handle.register(command, deadline_s=60))
    drop = r.handle.drop_instance(instance, generation=None, deadline_s=60)
    return asyncio.create_task(r.placement.dispatch.run(lambda: drop))


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


async def answer() -> str:
    return "ok"


@pytest.mark.torch
@pytest.mark.parametrize("name", PLACEMENTS)
async def test_every_placement_maps_and_releases(name: str) -> None:
    with shared_memory() as shm:
        async with running(name, devices=(0, 1)) as r:
            run = r.placement.dispatch.run
            for device in (0, 1):
                command = register_shared(shm, key(device=device), layers=2)
                registered = await run(lambda: r.handle.register(command, deadline_s=60))  # noqa: B023
                assert registered.tensors == 2
                assert mapped(shm, r.pid(device)) >= 1
            dropped = await run(lambda: r.handle.drop_instance("a", generation=None, deadline_s=60))
            assert (dropped.contexts, dropped.tensors) == (2, 4)
            assert mapped(shm, r.pid(0)) == mapped(shm, r.pid(1)) == 0


def test_an_unknown_placement_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UnknownPlacement, match="inline, pool, thread, process"):
        open_placement("fiber")


@pytest.mark.promise("device-type")
@pytest.mark.parametrize(
    ("made", "trace"),
    [
        ((), ""),
        (("dev/null", "proc/driver/rtc"), ""),
        (("dev/nvidia0",), "dev/nvidia0"),
        (("dev/nvidiactl", "proc/driver/nvidia/version"), "dev/nvidiactl"),
        (
            ("proc/driver/nvidia/version",),
            "proc/driver/nvidia",
        ),  # in a container without its nodes
        (("dev/dxg",), "dev/dxg"),
    ],
)
def test_auto_is_cuda_wherever_the_host_shows_a_gpu(
    made: tuple[str, ...], trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="the placement asks for it")
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = gpu_trace(tmp_path / "dev", tmp_path / "proc")
    assert found == (trace and str(tmp_path / trace))
    monkeypatch.setattr("pegaref.placement.gpu_trace", lambda: found)
    types = [open_placement("process", device_type=asked).device_type for asked in DEVICE_TYPES]
    assert types == ["cuda" if trace else "cpu", "cuda", "cpu"]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_without_torch_no_placement_is_made_and_the_remedy_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TorchMissing, match="pip install"):
        open_placement(name)


@pytest.mark.torch
async def test_a_stuck_call_on_its_own_thread_leaves_the_loop_alone_and_is_named(blocker: Blocker) -> None:
    with shared_memory() as shm:
        async with running("thread", settings=QUICK) as r:
            stuck = await stuck_drop(r, shm, "a")
            await until(blocker.entered.is_set)
            await until(lambda: r.device().hang is Hang.STALLED)
            await until(lambda: "empty_cache" in r.device().traceback)
            assert await asyncio.wait_for(r.placement.dispatch.run(answer), 60) == "ok"
            blocker.open()
            await stuck
            await until(lambda: r.device().ready)


@pytest.mark.torch
async def test_a_stuck_call_inline_takes_the_loop_with_it(blocker: Blocker) -> None:
    loop = asyncio.get_running_loop()
    ran = threading.Event()
    while_stuck: list[bool] = []

    def watch() -> None:
        assert blocker.entered.wait(60)
        loop.call_soon_threadsafe(ran.set)
        while_stuck.append(ran.wait(0.5))
        blocker.open()

    with shared_memory() as shm:
        async with running("inline") as r:
            watcher = threading.Thread(target=watch)
            watcher.start()
            await (await stuck_drop(r, shm, "a"))
            await until(lambda: not watcher.is_alive())
    assert while_stuck == [False]
    assert ran.is_set()


@pytest.mark.torch
async def test_a_pool_is_dark_when_every_worker_is_stuck_and_lit_with_one_to_spare(blocker: Blocker) -> None:
    with shared_memory() as shm:
        async with running("pool", workers=2, settings=QUICK) as r:
            for instance in ("a", "b"):
                command = register_shared(shm, key(instance))
                await r.placement.dispatch.run(lambda: r.handle.register(command, deadline_s=60))  # noqa: B023
            drops = [r.handle.drop_instance(name, generation=None, deadline_s=60) for name in ("a", "b")]
            stuck = [asyncio.create_task(r.placement.dispatch.run(lambda: drops[0]))]
            await until(blocker.entered.is_set)
            assert await asyncio.wait_for(r.placement.dispatch.run(answer), 60) == "ok"
            stuck.append(asyncio.create_task(r.placement.dispatch.run(lambda: drops[1])))
            await until(lambda: r.device().cleanup_depth == 1)
            dark = asyncio.create_task(r.placement.dispatch.run(answer))
            await until(lambda: r.device().hang is Hang.STALLED)
            assert not dark.done()
            blocker.open()
            await asyncio.gather(*stuck)
            assert await dark == "ok"


@pytest.mark.torch
async def test_the_registry_call_of_a_pool_runs_on_the_handlers_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch", reason="the pool imports torch into this process")
    threads: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: threads.append(threading.current_thread().name))
    with shared_memory() as shm:
        async with running("pool", workers=1) as r:
            for _ in range(2):
                await (await stuck_drop(r, shm, "a"))
            await r.handle.register(register_shared(shm, key("a")), deadline_s=60)
            await r.handle.drop_instance("a", generation=None, deadline_s=60)
    assert threads == ["worker-0", "worker-0", "worker-unattended"]


@pytest.mark.torch
async def test_work_that_no_handler_waits_for_never_waits_for_a_worker() -> None:
    with shared_memory() as shm:
        async with running("pool", workers=1) as r:
            command = register_shared(shm, key("a"))

            async def handler() -> str:
                gone = asyncio.create_task(r.handle.register(command, deadline_s=60))
                await asyncio.sleep(0)
                gone.cancel()
                await until(lambda: r.device().rolled_back == 1 and mapped(shm) == 0)
                return "done"

            assert await asyncio.wait_for(r.placement.dispatch.run(handler), 60) == "done"


@pytest.mark.torch
@pytest.mark.parametrize("name", IN_PROCESS)
async def test_a_lost_answer_leaks_nothing_and_the_key_can_be_used_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Reply] = []
    with shared_memory() as shm:
        async with running(name) as r:
            command = register_shared(shm, key())
            with monkeypatch.context() as patch:
                patch.setattr(LocalLink, "send_reply", lambda link, reply: lost.append(reply))
                with pytest.raises(OutcomeUnknown):
                    await r.placement.dispatch.run(lambda: r.handle.register(command, deadline_s=60))
            await until(lambda: mapped(shm) == 0 and r.device().contexts == 0)
            registered = await r.placement.dispatch.run(lambda: r.handle.register(command, deadline_s=60))
            assert registered.tensors == 1
    assert lost


@pytest.mark.torch
@pytest.mark.parametrize("name", ["pool", "thread"])
async def test_closing_does_not_wait_for_a_thread_that_is_stuck(name: str, blocker: Blocker) -> None:
    with shared_memory() as shm:
        async with running(name) as r:
            stuck = await stuck_drop(r, shm, "a")
            await until(blocker.entered.is_set)
            async with asyncio.timeout(2):
                await r.handle.close(grace_s=0.5)
            with pytest.raises(RegistryError):
                await stuck
            blocker.open()


async def test_a_handler_that_is_cancelled_before_its_turn_never_starts_and_frees_its_worker() -> None:
    pool = WorkerPool(1)
    started, gate = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def first() -> None:
        started.set()
        await gate.wait()

    async def second() -> None:
        ran.append("second")

    holding = asyncio.create_task(pool.run(first))
    await started.wait()
    waiting = asyncio.create_task(pool.run(second))
    await asyncio.sleep(0)
    waiting.cancel()
    gate.set()
    await holding
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(pool.run(answer), 60) == "ok"
    assert ran == []
    pool.close()


async def test_what_a_handler_raises_comes_out_and_frees_its_worker() -> None:
    pool = WorkerPool(1)

    async def fail() -> None:
        raise LookupError("nothing here")

    for _ in range(3):
        with pytest.raises(LookupError):
            await pool.run(fail)
    assert await asyncio.wait_for(pool.run(answer), 60) == "ok"
    pool.close()


@pytest.mark.torch
async def test_a_stuck_thread_cannot_be_replaced_and_goes_on_with_its_tensors(blocker: Blocker) -> None:
    settings = RegistrySettings(wedge_after_s=0.5, on_wedge="respawn")
    with shared_memory() as shm:
        async with running("thread", settings=settings) as r:
            await r.handle.register(register_shared(shm, key("kept")), deadline_s=60)
            stuck = await stuck_drop(r, shm, "a")
            await until(lambda: r.device().hang_age_s > 1.5)
            assert r.device().epoch == 1
            blocker.open()
            await stuck
            await until(lambda: r.device().ready)
            assert (r.device().epoch, mapped(shm)) == (1, 1)


@pytest.mark.torch
async def test_a_child_that_cannot_be_started_leaves_no_descriptor_and_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*_: object) -> int:
        raise OSError(24, "Too many open files")

    handle = RegistryHandle((0,), open_placement("process"), settings=RegistrySettings(backoff_first_s=0.05))
    before = open_files()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", exhausted)
            await handle.start()
            await until(lambda: handle.snapshot().devices[0].epoch >= 3)
            assert open_files() == before
        await until(lambda: handle.snapshot().ready)
    finally:
        await handle.close(grace_s=2)
    assert open_files() == before


@pytest.mark.torch
async def test_a_child_does_not_look_for_modules_where_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    async with running("process") as r:
        await r.handle.clear(deadline_s=60)


@pytest.mark.torch
@pytest.mark.parametrize("name", IN_PROCESS)
async def test_an_actor_that_cannot_start_is_gone_and_says_why(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="these placements import torch into this process")
    placement = open_placement(name)
    handle = RegistryHandle((0,), placement, settings=RegistrySettings(backoff_first_s=0.05))

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA driver initialization failed")

    def reason() -> str:
        return handle.snapshot().devices[0].reason

    try:
        with monkeypatch.context() as patch:
            patch.setattr("pegaref.actor.tensors.CudaTensorRegistry", broken)
            await handle.start()
            await until(lambda: "cannot start: CUDA driver initialization failed" in reason())
        await until(lambda: handle.snapshot().ready)
    finally:
        await handle.close(grace_s=2)
        placement.close()


# What CUDA does where a kernel has failed: every call in that process raises from then on.
BROKEN_GPU = """
import sys
if "pegaref.actor.child" in sys.orig_argv:
    import pathlib, torch, pegaref.actor.tensors
    def call(*_):
        if pathlib.Path({flag!r}).exists():
            raise RuntimeError("CUDA error: unspecified launch failure\\nCompile with TORCH_USE_CUDA_DSA")
    torch.cuda.mem_get_info = pegaref.actor.tensors.take_device = call
"""


@pytest.mark.promise("device-type")
@pytest.mark.torch
async def test_an_actor_whose_gpu_is_lost_ends_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flag = tmp_path / "broken"
    (tmp_path / "sitecustomize.py").write_text(BROKEN_GPU.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pytest.importorskip("torch", reason="the placement asks for it")
    handle = RegistryHandle((0,), open_placement("process", device_type="cuda"))
    lost: list[object] = []
    handle.on_lost = lost.append
    try:
        await handle.start()
        await until(lambda: handle.snapshot().ready)
        assert handle.snapshot().devices[0].device_type == "cuda"
        with shared_memory() as name:
            await handle.register(register_shared(name, key("a")), deadline_s=60)
        flag.touch()
        await until(lambda: "cannot start: CUDA error" in handle.snapshot().devices[0].reason)
        assert "(the device is lost: CUDA error: unspecified launch failure)" in caplog.text
        assert lost == [frozenset({("a", 0)})]
    finally:
        await handle.close(grace_s=2)
