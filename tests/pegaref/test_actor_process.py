"""The process placement with real children, real torch and real shared memory, broken for real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from pegaref.config import RegistrySettings
from pegaref.errors import AlreadyExists, CleanupPending, DeviceWedged, InvalidCommand, OutcomeUnknown
from pegaref.registry import Hang, Phase
from tests.pegaref.shared import Running, mapped, register_shared, running, shared_memory, until
from tests.pegaref.simulation import key
from tests.pegaref.stalls import Stall

pytestmark = pytest.mark.torch

QUICK = RegistrySettings(wedge_after_s=2.0)


async def test_a_child_maps_and_releases_whole_batches_and_neither_a_client_nor_a_signal_harms_it() -> None:
    """What one child is asked in turn, each by a name of its own; it is the same child at the end."""
    async with running() as r:
        pid = r.pid()
        for check in (
            a_register_maps_the_clients_memory_in_the_child_only,
            a_batch_with_one_bad_layer_maps_nothing,
            ctrl_c_and_sigterm_are_left_to_the_parent,
            a_client_that_shrinks_its_memory_harms_nobody,
        ):
            with shared_memory() as name:
                await check(r, name)
            assert (r.pid(), r.device().epoch, r.handle.context_count) == (pid, 1, 0), check.__name__


async def a_register_maps_the_clients_memory_in_the_child_only(r: Running, name: str) -> None:
    registered = await r.handle.register(register_shared(name, key(), layers=3), deadline_s=60)
    assert (registered.tensors, registered.bytes) == (3, 3 * 8192)
    assert mapped(name, r.pid()) == 1
    assert mapped(name) == 0
    dropped = await r.handle.drop_instance("a", generation=None, deadline_s=60)
    assert (dropped.contexts, dropped.tensors, dropped.note) == (1, 3, "")
    assert mapped(name, r.pid()) == 0


async def a_batch_with_one_bad_layer_maps_nothing(r: Running, name: str) -> None:
    good = register_shared(name, key(), layers=3)
    bad = structs.replace(register_shared("no-such-object", key()).layers[0], name="bad")
    command = structs.replace(good, layers=(*good.layers, bad))
    with pytest.raises(InvalidCommand) as refusal:
        await r.handle.register(command, deadline_s=60)
    assert refusal.value.field == "wrapper_bytes"
    assert mapped(name, r.pid()) == 0
    assert r.handle.context_count == 0
    await r.handle.register(good, deadline_s=60)
    with pytest.raises(AlreadyExists):
        await r.handle.register(good, deadline_s=60)
    assert mapped(name, r.pid()) == 1
    await r.handle.clear(deadline_s=60)


async def ctrl_c_and_sigterm_are_left_to_the_parent(r: Running, name: str) -> None:
    os.kill(r.pid(), signal.SIGINT)
    os.kill(r.pid(), signal.SIGTERM)
    await r.handle.clear(deadline_s=60)


async def a_client_that_shrinks_its_memory_harms_nobody(r: Running, name: str) -> None:
    await r.handle.register(register_shared(name, key()), deadline_s=60)
    os.truncate(f"/dev/shm/{name}", 0)
    assert (await r.handle.drop_instance("a", generation=None, deadline_s=60)).contexts == 1


@pytest.mark.promise("traceback")
@pytest.mark.promise("kind-of-hang")
async def test_a_child_that_hangs_is_named_shown_and_goes_on_after(stall: Stall) -> None:
    """One child, stuck in the GPU without its GIL and with it, and then stopped."""
    async with running(settings=QUICK) as r:
        pid = r.pid()
        for mode, hang in (("released", Hang.STALLED), ("held", Hang.GIL_HELD)):
            with shared_memory() as name:
                await stuck_in_the_gpu(r, stall, name, mode, hang)
        with shared_memory() as name:
            await stopped_and_continued(r, name)
        assert r.pid() == pid


async def stuck_in_the_gpu(r: Running, stall: Stall, name: str, mode: str, hang: Hang) -> None:
    await r.handle.register(register_shared(name, key("a")), deadline_s=60)
    stall.block(mode)
    drop = asyncio.create_task(r.handle.drop_instance("a", generation=None, deadline_s=60))
    await until(lambda: stall.inside(r.pid()))
    await until(lambda: r.device().hang is hang)
    await until(lambda: "empty_cache" in r.device().traceback)
    assert "release_contexts" in r.device().traceback
    with pytest.raises(DeviceWedged):
        await r.handle.register(register_shared(name, key("b")), deadline_s=60)
    stall.release()
    assert (await drop).contexts == 1
    await until(lambda: r.device().ready)
    await r.handle.register(register_shared(name, key("b")), deadline_s=60)
    await r.handle.clear(deadline_s=60)
    stall.renew(r.pid())


async def stopped_and_continued(r: Running, name: str) -> None:
    os.kill(r.pid(), signal.SIGSTOP)
    stuck = asyncio.create_task(r.handle.register(register_shared(name, key()), deadline_s=60))
    await until(lambda: r.device().hang is Hang.STOPPED)
    os.kill(r.pid(), signal.SIGCONT)
    assert (await stuck).tensors == 1
    await until(lambda: r.device().ready)
    await r.handle.clear(deadline_s=60)


@pytest.mark.promise("no-torch")
async def test_the_control_process_imports_no_torch() -> None:
    program = """
import asyncio, sys
from pegaref.placement import open_placement
from pegaref.registry import RegistryHandle
async def main():
    handle = RegistryHandle((0,), open_placement("process"))
    await handle.start()
    while not handle.snapshot().ready:
        await asyncio.sleep(0.01)
    await handle.clear(deadline_s=60)
    await handle.close(grace_s=3)
    print("torch" in sys.modules)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out.split() == [b"False"]


async def test_a_killed_child_is_replaced_and_its_callers_are_told() -> None:
    with shared_memory() as name:
        async with running() as r:
            lost: list[frozenset[tuple[str, int]]] = []
            r.handle.on_lost = lost.append
            await r.handle.register(register_shared(name, key("a", 3)), deadline_s=60)
            first = r.pid()
            os.kill(first, signal.SIGSTOP)
            stuck = asyncio.create_task(r.handle.register(register_shared(name, key("b")), deadline_s=30))
            await asyncio.sleep(0)
            os.kill(first, signal.SIGKILL)
            with pytest.raises(OutcomeUnknown):
                await stuck
            assert lost == [frozenset({("a", 3)})]
            assert not Path(f"/proc/{first}").exists()
            await r.ready()
            assert (r.device().epoch, r.device().respawns) == (2, 1)
            await r.handle.register(register_shared(name, key("a", 4)), deadline_s=60)
            assert mapped(name, r.pid()) == 1


@pytest.mark.promise("respawn")
async def test_respawn_replaces_a_child_that_holds_its_gil(stall: Stall) -> None:
    settings = RegistrySettings(wedge_after_s=1.0, on_wedge="respawn")
    with shared_memory() as name:
        async with running(settings=settings) as r:
            pid = r.pid()
            await r.handle.register(register_shared(name, key("a")), deadline_s=60)
            stall.block("held")
            drop = asyncio.create_task(r.handle.drop_instance("a", generation=None, deadline_s=60))
            assert (await drop).contexts == 1  # with the process, the tensors went
            stall.block("pass")
            await r.ready()
            assert r.pid() != pid
            assert mapped(name, r.pid()) == 0


async def test_a_cleanup_under_a_wedge_is_an_operation_that_ends_when_the_actor_is_back(stall: Stall) -> None:
    with shared_memory() as name:
        async with running(settings=QUICK) as r:
            await r.handle.register(register_shared(name, key("a")), deadline_s=60)
            await r.handle.register(register_shared(name, key("b")), deadline_s=60)
            stall.block("released")
            with pytest.raises(CleanupPending) as first:
                await r.handle.drop_instance("a", generation=None, deadline_s=0.5)
            await until(lambda: r.device().phase is Phase.WEDGED)
            with pytest.raises(CleanupPending) as second:
                await r.handle.drop_instance("b", generation=None, deadline_s=60)
            stall.release()
            ids = [pending.value.operation_id for pending in (first, second)]
            await until(lambda: all(_done(r.handle.operation(operation_id)) for operation_id in ids))
            assert mapped(name, r.pid()) == 0


async def test_closing_takes_no_longer_than_its_grace_with_a_wedged_child(stall: Stall) -> None:
    with shared_memory() as name:
        async with running(settings=QUICK) as r:
            pid = r.pid()
            await r.handle.register(register_shared(name, key("a")), deadline_s=60)
            stall.block("held")
            drop = asyncio.create_task(r.handle.drop_instance("a", generation=None, deadline_s=60))
            await until(lambda: stall.inside(pid))
            async with asyncio.timeout(3):
                await r.handle.close(grace_s=1)
            assert not Path(f"/proc/{pid}").exists()
            with contextlib.suppress(Exception):
                await drop


PARENT = """
import asyncio, sys
from pegaref.messages import ContextKey, Layer, RegisterLayers
from pegaref.placement import open_placement
from pegaref.registry import RegistryHandle
from pegaref.wrapper import SharedMemory, encode_wrapper
async def main():
    handle = RegistryHandle((0, 1, 2), open_placement("process"))
    await handle.start()
    while not handle.snapshot().ready:
        await asyncio.sleep(0.01)
    wrapper = encode_wrapper(SharedMemory(sys.argv[1], 8192, "uint8", (8192,)))
    layer = Layer("l", wrapper, 1, 8192, 0, 1)
    await handle.register(RegisterLayers(ContextKey("a", 0, 0, 0, 0), (layer,)), deadline_s=30)
    print(*[device.pid for device in handle.snapshot().devices.values()], flush=True)
    await handle.drop_instance("a", generation=None, deadline_s=60)
asyncio.run(main())
"""


async def test_children_die_with_their_parent_idle_stopped_or_stuck_with_the_gil(stall: Stall) -> None:
    stall.block("held")
    with shared_memory() as name:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PARENT, name, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        stuck, stopped, idle = (int(pid) for pid in line.split())
        await until(lambda: stall.inside(stuck))
        os.kill(stopped, signal.SIGSTOP)
        process.kill()
        await process.wait()
        await until(lambda: not any(_alive(pid) for pid in (stuck, stopped, idle)), within_s=2)


def _done(operation: object) -> bool:
    return bool(getattr(operation, "done", False))


def _alive(pid: int) -> bool:
    """A zombie is no longer alive: whoever adopted it has yet to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False
