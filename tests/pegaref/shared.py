"""Shared memory as a client makes it, and how often a process has it mapped."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pegaref.config import RegistrySettings
from pegaref.messages import ContextKey, Layer, RegisterLayers
from pegaref.placement import Placement, open_placement
from pegaref.registry import DeviceSnapshot, RegistryHandle
from pegaref.wrapper import SharedMemory, encode_wrapper

SHM = Path("/dev/shm")


@contextmanager
def shared_memory(nbytes: int = 8192) -> Iterator[str]:
    """A shared memory object; its name."""
    name = f"pegaref-test-{secrets.token_hex(6)}"
    path = SHM / name
    path.write_bytes(b"")
    os.truncate(path, nbytes)
    try:
        yield name
    finally:
        path.unlink(missing_ok=True)


def mapped(name: str, pid: int | None = None) -> int:
    """How often the process has the object mapped, as the kernel says."""
    maps = Path(f"/proc/{os.getpid() if pid is None else pid}/maps")
    return sum(name in line for line in maps.read_text().splitlines())


def register_shared(name: str, where: ContextKey, *, layers: int = 1, nbytes: int = 8192) -> RegisterLayers:
    """A register whose layers all lie over the object."""
    wrapper = encode_wrapper(SharedMemory(name, nbytes, "uint8", (nbytes,)))
    made = tuple(Layer(f"layer.{number}", wrapper, 1, nbytes, 0, 1) for number in range(layers))
    return RegisterLayers(where, made)


async def until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Return once it holds; fails when it does not within the time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (what is awaited happens in another process)
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Running:
    """A handle on real actors."""

    handle: RegistryHandle
    placement: Placement

    def device(self, device_id: int = 0) -> DeviceSnapshot:
        return self.handle.snapshot().devices[device_id]

    def pid(self, device_id: int = 0) -> int:
        """The process that owns the device's tensors."""
        pid = self.device(device_id).pid
        return os.getpid() if pid is None else pid

    async def ready(self) -> None:
        await until(lambda: self.handle.snapshot().ready)


@asynccontextmanager
async def running(
    placement: str = "process",
    *,
    devices: tuple[int, ...] = (0,),
    settings: RegistrySettings | None = None,
    workers: int = 2,
) -> AsyncIterator[Running]:
    """A started handle whose actors have loaded torch; after it none of their processes may be left."""
    if placement != "process":  # it is imported here, where a warning of its own is an error
        pytest.importorskip("torch", reason="the placement imports torch into this process")
    opened = open_placement(placement, device_type="cpu", workers=workers)
    handle = RegistryHandle(devices, opened, settings=settings or RegistrySettings())
    await handle.start()
    made = Running(handle, opened)
    pids = [device.pid for device in handle.snapshot().devices.values() if device.pid is not None]
    try:
        await made.ready()
        yield made
    finally:
        pids += [device.pid for device in handle.snapshot().devices.values() if device.pid is not None]
        await handle.close(grace_s=3.0)
        opened.close()
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()], (
            "an actor's process outlived its handle"
        )
