"""Real tensors over real shared memory: what is mapped, what is refused, and what is left afterwards."""

from __future__ import annotations

import gc
import itertools
import math
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pegaref.errors import AlreadyExists, DeviceMissing, InvalidCommand, RegistryError
from pegaref.messages import Clear, DropContext, DropInstance, Dropped, Layer, RegisterLayers
from pegaref.wrapper import SharedMemory, encode_wrapper
from tests.pegaref.shared import mapped, register_shared, shared_memory
from tests.pegaref.simulation import key

torch = pytest.importorskip("torch", reason="the actor's side; run where pegaref[torch] is installed")
pytestmark = pytest.mark.torch

from pegaref.actor.tensors import CudaTensorRegistry, take_device  # noqa: E402 (imports torch)


class Steps:
    """Counts what the registry reports as progress."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def registry(steps: Steps) -> CudaTensorRegistry:
    return CudaTensorRegistry(0, "cpu", steps)


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the GPU was asked to give memory back."""
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("count", "visible", "said"),
    [
        (1, None, r"no device 7 on this host: CUDA has 1; .*--device-type cpu"),
        (0, None, r"no device 7 on this host: CUDA has none; .*--device-type cpu"),
        (0, "", r"CUDA has none with CUDA_VISIBLE_DEVICES=''; .*--device-type cpu"),
    ],
)
def test_a_gpu_that_cuda_does_not_see_is_not_taken(
    count: int, visible: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(DeviceMissing, match=said):
        take_device(7)


def one_layer(wrapper: SharedMemory, *, num_blocks: int = 1, bytes_per_block: int = 1) -> RegisterLayers:
    return RegisterLayers(key(), (Layer("l", encode_wrapper(wrapper), num_blocks, bytes_per_block, 0, 1),))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def tensor_of(registry: CudaTensorRegistry) -> Any:
    (context,) = registry._contexts.values()
    return context.tensors["l"]


def test_the_tensor_is_the_clients_memory(registry: CudaTensorRegistry) -> None:
    with shared_memory(64) as name:
        registry.register_layers(one_layer(SharedMemory(name, 64, "float16", (4, 8))))
        tensor = tensor_of(registry)
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.float16, (4, 8))
        tensor[0, 0] = 1.5
        assert Path(f"/dev/shm/{name}").read_bytes()[:2] == b"\x00\x3e"
        registry.clear()


def test_stride_and_offset_are_kept(registry: CudaTensorRegistry) -> None:
    with shared_memory(64) as name:
        Path(f"/dev/shm/{name}").write_bytes(bytes(range(64)))
        wrapper = SharedMemory(name, 64, "uint8", (2, 3), (8, 2), 5)
        registry.register_layers(one_layer(wrapper))
        assert tensor_of(registry).tolist() == [[5, 7, 9], [13, 15, 17]]
        registry.clear()


def test_layers_over_one_object_share_one_mapping(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        before = open_files()
        registry.register_layers(register_shared(name, key(), layers=80))
        assert mapped(name) == 1
        assert open_files() <= before + 1
        registry.clear()
        assert mapped(name) == 0
        assert open_files() == before


def test_release_unmaps_at_once(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        registry.register_layers(register_shared(name, key("a"), layers=2))
        registry.register_layers(register_shared(name, key("b"), layers=2))
        assert mapped(name) == 2
        assert registry.drop_instance(DropInstance("a")) == Dropped(("a",), 1, 2, 16384)
        assert mapped(name) == 1
        assert registry.clear() == Dropped(("b",), 1, 2, 16384)
        assert mapped(name) == 0


def test_a_refused_batch_unmaps_at_once_and_needs_no_collector(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        good = register_shared(name, key(), layers=3)
        too_long = structs.replace(good.layers[0], name="x", num_blocks=9)
        bad = structs.replace(good, layers=(*good.layers, too_long))
        gc.disable()
        try:
            with pytest.raises(InvalidCommand) as refusal:
                registry.register_layers(bad)
            assert mapped(name) == 0
        finally:
            gc.enable()
        assert refusal.value.field == "num_blocks"
        assert registry.clear() == Dropped()


def test_the_same_context_twice_is_refused_and_the_first_stays(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        registry.register_layers(register_shared(name, key()))
        with pytest.raises(AlreadyExists):
            registry.register_layers(register_shared(name, key()))
        assert mapped(name) == 1
        registry.clear()


def test_the_gpu_is_asked_for_memory_only_when_live_tensors_went(
    registry: CudaTensorRegistry, emptied: list[int]
) -> None:
    with shared_memory() as name:
        registry.clear()
        registry.drop_instance(DropInstance("nobody"))
        registry.drop_context(DropContext(key("nobody")))
        assert emptied == []
        registry.register_layers(register_shared(name, key()))
        registry.drop_context(DropContext(key()))
        assert emptied == [1]
        registry.drop_context(DropContext(key()))
        assert emptied == [1]


def test_a_gpu_that_does_not_give_memory_back_is_a_note_and_the_release_is_done(
    registry: CudaTensorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    with shared_memory() as name:
        registry.register_layers(register_shared(name, key()))
        dropped = registry.clear()
        assert dropped.contexts == 1
        assert "unspecified launch failure" in dropped.note
        assert mapped(name) == 0


def test_generations_are_dropped_one_by_one(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        for generation in (1, 2, 3):
            registry.register_layers(register_shared(name, key(generation=generation)))
        assert registry.drop_instance(DropInstance("a", (1, 3))).contexts == 2
        assert registry.drop_instance(DropInstance("a")).contexts == 1


def test_each_tensor_is_a_step(registry: CudaTensorRegistry, steps: Steps) -> None:
    with shared_memory() as name:
        registry.register_layers(register_shared(name, key(), layers=5))
        assert steps.count == 5
        registry.clear()
        assert steps.count == 10


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../etc/passwd",
        "a/b",
        "a\0b",
        "x" * 256,
        "/",
        "no-such-object",
        "é" * 200,
    ],
)
def test_a_name_that_is_no_object_is_refused(registry: CudaTensorRegistry, name: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        registry.register_layers(one_layer(SharedMemory(name, 64, "uint8", (64,))))
    assert refusal.value.field == "wrapper_bytes"


def test_without_a_descriptor_the_object_is_not_what_is_wrong(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
        first_free = next(number for number in itertools.count() if number not in taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, before[1]))
        try:
            with pytest.raises(RegistryError, match="Too many open files") as refusal:
                registry.register_layers(register_shared(name, key()))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert (refusal.value.code, refusal.value.field) == ("RESOURCE_EXHAUSTED", "wrapper_bytes")
        registry.register_layers(register_shared(name, key()))


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_object_is_refused_without_waiting(registry: CudaTensorRegistry, kind: str) -> None:
    with shared_memory() as name:
        path = Path(f"/dev/shm/{name}-{kind}")
        if kind == "link":
            path.symlink_to(name)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        try:
            with pytest.raises(InvalidCommand):
                registry.register_layers(one_layer(SharedMemory(path.name, 64, "uint8", (64,))))
            registry.register_layers(one_layer(SharedMemory(name, 64, "uint8", (64,))))
            registry.clear()
        finally:
            path.rmdir() if kind == "folder" else path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_object_is_refused(registry: CudaTensorRegistry) -> None:
    with shared_memory() as name:
        os.chown(f"/dev/shm/{name}", 12345, 12345)
        with pytest.raises(InvalidCommand, match="another user"):
            registry.register_layers(register_shared(name, key()))
        assert mapped(name) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"nbytes": 8193},
        {"nbytes": 0},
        {"nbytes": -1},
        {"nbytes": 2**62},
        {"dtype": "object"},
        {"dtype": "load"},
        {"shape": (8193,)},
        {"shape": (2**40, 2**40)},
        {"shape": (0,)},
        {"shape": (-1,)},
        {"shape": (1,) * 17},
        {"stride": (2,)},
        {"stride": (-1,)},
        {"stride": (1, 1)},
        {"stride": (2**62,)},
        {"shape": (1,), "stride": (2**64 - 1,)},
        {"shape": (8192, 1_000_000), "stride": (1, 0)},
        {"shape": (2,), "stride": (0,)},
        {"shape": (4, 8), "stride": (4, 1)},
        {"shape": (8, 4), "stride": (1, 4)},
        {"shape": (1, 2, 3), "stride": (0, 5, 3)},
        {"offset": 1},
        {"offset": -8},
        {"offset": 2**62},
        {"dtype": "int64", "shape": (8,), "offset": 4},
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_its_object_is_refused(
    registry: CudaTensorRegistry, change: dict[str, object]
) -> None:
    with shared_memory() as name:
        fits = SharedMemory(name, 8192, "uint8", (8192,))
        with pytest.raises(InvalidCommand) as refusal:
            registry.register_layers(one_layer(structs.replace(fits, **change)))
        assert refusal.value.field == "wrapper_bytes"
        assert mapped(name) == 0
        registry.register_layers(one_layer(fits))
        registry.clear()


@pytest.mark.promise("mapped-memory")
@pytest.mark.parametrize(
    ("num_blocks", "bytes_per_block", "kv_stride_bytes", "segments", "fits"),
    [
        (8, 1024, 0, 1, True),
        (8, 1025, 0, 1, False),
        (4, 1024, 4096, 2, True),
        (4, 1024, 4097, 2, False),
        (2**62, 2**62, 0, 1, False),
        (4, 1024, 1024, 2, True),  # K and V of each block side by side
        (5, 1024, 1024, 2, False),
        (4, 1024, 0, 2, False),  # V over K
        (4, 1024, 1023, 2, False),
        (4, 1024, 4095, 2, False),
    ],
)
def test_blocks_must_lie_inside_the_tensor_and_beside_each_other(
    registry: CudaTensorRegistry,
    num_blocks: int,
    bytes_per_block: int,
    kv_stride_bytes: int,
    segments: int,
    fits: bool,
) -> None:
    with shared_memory() as name:
        wrapper = encode_wrapper(SharedMemory(name, 8192, "uint8", (8192,)))
        layer = Layer("l", wrapper, num_blocks, bytes_per_block, kv_stride_bytes, segments)
        command = RegisterLayers(key(), (layer,))
        if fits:
            registry.register_layers(command)
        else:
            with pytest.raises(InvalidCommand, match=r"blocks end|overlap"):
                registry.register_layers(command)
            assert mapped(name) == 0
        registry.clear()


@pytest.mark.parametrize(
    ("nbytes", "shape", "stride", "offset", "blocks", "fits"),
    [
        (1024, (8, 4, 16), None, 0, (8, 128, 0, 1), True),  # blocks first
        (512, (2, 8, 16), None, 0, (8, 32, 256, 2), True),  # K first
        (640, (2, 8, 16), (160, 20, 1), 0, (8, 40, 320, 2), True),  # K first, blocks padded
        (512, (8, 16), (32, 1), 0, (8, 64, 0, 1), True),  # blocks padded, the last one too
        (480, (8, 16), (32, 1), 0, (8, 64, 0, 1), False),  # where the padding of the last is not mapped
        (1024, (8, 4, 16), (64, 1, 4), 0, (8, 128, 0, 1), True),  # permuted
        (256, (1, 8, 16), (7, 16, 1), 0, (8, 32, 0, 1), True),  # of one, any step
        (512, (4, 16), None, 256, (4, 32, 0, 1), True),  # a layer among others of one object
        (512, (4, 16), None, 256, (9, 32, 0, 1), False),  # past the object's end
        (512, (4, 16), None, 0, (5, 32, 0, 1), False),  # over the next layer
    ],
)
def test_the_layouts_of_engines_are_taken(
    registry: CudaTensorRegistry,
    nbytes: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...] | None,
    offset: int,
    blocks: tuple[int, int, int, int],
    fits: bool,
) -> None:
    with shared_memory(1024) as name:
        wrapper = encode_wrapper(SharedMemory(name, nbytes, "float16", shape, stride, offset))
        command = RegisterLayers(key(), (Layer("l", wrapper, *blocks),))
        if fits:
            assert registry.register_layers(command).bytes == 2 * math.prod(shape)
        else:
            with pytest.raises(InvalidCommand, match="blocks end"):
                registry.register_layers(command)
        registry.clear()


@pytest.mark.promise("mapped-memory")
def test_an_object_that_its_file_system_cannot_hold_is_refused(registry: CudaTensorRegistry) -> None:
    with shared_memory(2**50) as name:  # sparse: it takes no memory
        command = one_layer(SharedMemory(name, 2**50, "uint8", (2**50,)), bytes_per_block=2**50)
        with pytest.raises(InvalidCommand, match="cannot have 1125899906842624 bytes of memory"):
            registry.register_layers(command)
        registry.register_layers(one_layer(SharedMemory(name, 8192, "uint8", (8192,))))
        registry.clear()


def test_an_object_that_is_shortened_or_replaced_while_it_is_held_ends_nothing(
    registry: CudaTensorRegistry,
) -> None:
    with shared_memory() as name:
        path = Path(f"/dev/shm/{name}")
        registry.register_layers(register_shared(name, key("a")))
        os.truncate(path, 0)  # to read it would be the end of this process, by SIGBUS
        with pytest.raises(InvalidCommand, match="has 0 bytes, not 8192"):
            registry.register_layers(register_shared(name, key("b")))
        path.unlink()
        path.write_bytes(bytes(8192))
        registry.register_layers(register_shared(name, key("c")))
        assert registry.clear().contexts == 2
        assert mapped(name) == 0


def test_a_loop_answers_errors_as_data(registry: CudaTensorRegistry) -> None:
    from pegaref.actor.heartbeat import PulsePage
    from pegaref.actor.loop import ActorLoop
    from pegaref.messages import Refused, Reply, Request

    class Replies(list[Reply]):
        def send_reply(self, reply: Reply) -> None:
            self.append(reply)

    replies = Replies()
    page = PulsePage()
    loop = ActorLoop(registry, page, replies)
    loop.handle(Request(1, one_layer(SharedMemory("no-such-object", 64, "uint8", (64,)))))
    loop.handle(Request(2, Clear()))
    assert isinstance(replies[0].answer, Refused)
    assert (replies[0].answer.code, replies[0].answer.field) == ("INVALID_ARGUMENT", "wrapper_bytes")
    assert replies[1] == Reply(2, Dropped())
    assert (page.read().started, page.read().finished) == (2, 2)
