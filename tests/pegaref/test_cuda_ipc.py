"""CUDA IPC memory: mapped and released on a GPU, refused with the reason if there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

torch = pytest.importorskip("torch", reason="the actor's side needs torch")

from pegaref.actor.tensors import CudaTensorRegistry, take_device  # noqa: E402
from pegaref.errors import InvalidCommand, RegistryError  # noqa: E402
from pegaref.messages import ContextKey, Layer, RegisterLayers  # noqa: E402
from pegaref.placement import open_placement  # noqa: E402
from pegaref.registry import RegistryHandle  # noqa: E402
from pegaref.wrapper import CudaIpc, decode_wrapper, encode_wrapper  # noqa: E402
from tests.pegaref.shared import until  # noqa: E402

pytestmark = pytest.mark.torch
with_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

KEY = ContextKey("gpu", 0, 0, 0, 0)
NBYTES = 64 << 20
WRAPPER = CudaIpc(
    device_index=0,
    memory_handle=b"\1" * 64,
    storage_bytes=4096,
    storage_offset_bytes=0,
    ref_counter_handle=b"/torch_1_1_0",
    ref_counter_offset=0,
    event_handle=b"\2" * 64,
    event_sync_required=True,
    dtype="uint8",
    shape=(4096,),
    device_uuid="no-such-gpu",
)


def register(wrapper: bytes, nbytes: int = 4096) -> RegisterLayers:
    return RegisterLayers(KEY, (Layer("layer.0", wrapper, 1, nbytes, 0, 1),))


# In an actor's process: a kernel that fails breaks the process's context for good.
BREAKING = """
import sys
if "pegaref.actor.child" in sys.orig_argv:
    import pathlib, threading, time
    flag = pathlib.Path({flag!r})
    def run():
        while not flag.exists():
            time.sleep(0.05)
        flag.unlink()
        import torch
        torch.zeros(1, device="cuda")[torch.tensor([9], device="cuda")].item()
    threading.Thread(target=run, daemon=True).start()
"""


@pytest.fixture
def registry() -> CudaTensorRegistry:
    if torch.cuda.is_available():
        take_device(0)
    return CudaTensorRegistry(0, "cuda", lambda: None)


def test_a_gpu_without_memory_is_not_the_senders_mistake(
    registry: CudaTensorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nand much more")

    monkeypatch.setattr("pegaref.actor.cuda_ipc._uuids", lambda: ("some-gpu",))
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", full)
    wrapper = structs.replace(WRAPPER, device_uuid="some-gpu")
    with pytest.raises(RegistryError, match="no memory left: CUDA out of memory") as refused:
        registry.register_layers(register(encode_wrapper(wrapper)))
    assert refused.value.code == "RESOURCE_EXHAUSTED"


def test_memory_of_another_devices_gpu_is_refused_before_it_is_opened(
    registry: CudaTensorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("pegaref.actor.cuda_ipc._uuids", lambda: ("gpu-0", "gpu-1"))
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", lambda *given: opened.append(given))
    wrapper = structs.replace(WRAPPER, device_uuid="gpu-1")
    with pytest.raises(InvalidCommand, match="on GPU 1 and was registered on device 0") as refused:
        registry.register_layers(register(encode_wrapper(wrapper)))
    assert refused.value.field == "device_id"
    assert not opened


def test_gpu_memory_is_refused_with_the_remedy_by_a_device_that_is_host_memory() -> None:
    registry = CudaTensorRegistry(0, "cpu", lambda: None)
    with pytest.raises(RegistryError, match="start it with --device-type cuda") as refused:
        registry.register_layers(register(encode_wrapper(WRAPPER)))
    assert refused.value.code == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (4097,)},
        {"shape": (64, 64), "stride": (65, 1)},
        {"offset": 1},
        {"offset": -1},
        {"dtype": "complex64"},
        {"shape": (2,), "stride": (-1,)},
        {"shape": (4096, 1_000_000), "stride": (1, 0)},
        {"storage_offset_bytes": -4096},
        {"ref_counter_offset": 10_000},
        {"ref_counter_offset": -1},
    ],
)
def test_a_tensor_that_reaches_outside_its_memory_is_refused_before_any_is_opened(
    registry: CudaTensorRegistry, change: dict[str, object]
) -> None:
    wrapper = msgspec.structs.replace(WRAPPER, **change)
    with pytest.raises(InvalidCommand):
        registry.register_layers(register(encode_wrapper(wrapper), nbytes=1))


@pytest.fixture
def exporter() -> Iterator[subprocess.Popen[str]]:
    """A process that shares GPU memory: the client, as a target file starts it."""
    command = [sys.executable, "-m", "pegaref.client", "share", "--cuda", "--bytes", str(NBYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def shared_by(exporter: subprocess.Popen[str]) -> bytes:
    import base64

    assert exporter.stdout is not None
    return base64.b64decode(json.loads(exporter.stdout.readline())["wrapper"])


class TestOnAGpu:
    pytestmark = with_gpu

    def test_memory_of_another_process_is_mapped_and_not_copied(
        self, exporter: subprocess.Popen[str], registry: CudaTensorRegistry
    ) -> None:
        wrapper = shared_by(exporter)
        free_before, _ = torch.cuda.mem_get_info()
        assert registry.register_layers(register(wrapper, NBYTES)).bytes == NBYTES
        free_after, _ = torch.cuda.mem_get_info()
        assert free_before - free_after < NBYTES // 2
        registry.clear()

    def test_release_unmaps_it(self, exporter: subprocess.Popen[str], registry: CudaTensorRegistry) -> None:
        wrapper = shared_by(exporter)
        registry.register_layers(register(wrapper, NBYTES))
        assert registry.clear().tensors == 1
        # The exporter can give the memory back only when nobody has it mapped any more.
        free_mapped, _ = torch.cuda.mem_get_info()
        assert exporter.stdin is not None
        exporter.stdin.close()
        assert exporter.wait(30) == 0
        free_gone, _ = torch.cuda.mem_get_info()
        assert free_gone - free_mapped >= NBYTES

    def test_the_gpu_is_found_by_its_uuid_and_another_is_refused(
        self, exporter: subprocess.Popen[str], registry: CudaTensorRegistry
    ) -> None:
        known = decode_wrapper(shared_by(exporter))
        assert isinstance(known, CudaIpc)
        other = msgspec.structs.replace(known, device_uuid="00000000-0000-0000-0000-000000000000")
        with pytest.raises(RegistryError, match="is not one that this server sees"):
            registry.register_layers(register(encode_wrapper(other), NBYTES))
        moved = msgspec.structs.replace(known, device_index=7)  # as under another CUDA_VISIBLE_DEVICES
        assert registry.register_layers(register(encode_wrapper(moved), NBYTES)).tensors == 1
        registry.clear()

    @pytest.mark.parametrize(
        "claim",
        [
            {"storage_bytes": 1 << 40, "shape": (1 << 40,)},
            {"storage_offset_bytes": 1 << 40},
            {"storage_offset_bytes": NBYTES, "storage_bytes": NBYTES},
        ],
        ids=str,
    )
    def test_more_memory_than_was_shared_is_refused_and_nothing_stays_mapped(
        self, exporter: subprocess.Popen[str], registry: CudaTensorRegistry, claim: dict[str, object]
    ) -> None:
        known = decode_wrapper(shared_by(exporter))
        assert isinstance(known, CudaIpc)
        with pytest.raises(InvalidCommand, match="of GPU memory that has"):
            registry.register_layers(register(encode_wrapper(structs.replace(known, **claim)), NBYTES))
        assert registry.register_layers(register(encode_wrapper(known), NBYTES)).bytes == NBYTES
        registry.clear()

    async def test_an_actor_whose_context_a_kernel_broke_is_replaced_and_ready_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        flag = tmp_path / "break"
        (tmp_path / "sitecustomize.py").write_text(BREAKING.format(flag=str(flag)))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        handle = RegistryHandle((0,), open_placement("process", device_type="cuda"))
        try:
            await handle.start()
            await until(lambda: handle.snapshot().ready)
            flag.touch()
            await until(lambda: handle.snapshot().devices[0].epoch == 2 and handle.snapshot().ready)
            assert "(the device is lost: CUDA error" in caplog.text
        finally:
            await handle.close(grace_s=3)

    def test_views_keep_their_offset_and_stride(self, registry: CudaTensorRegistry) -> None:
        code = (
            "import base64, json, sys, torch\n"
            "from pegaref.client.tensors import wrap\n"
            "from pegaref.wrapper import encode_wrapper\n"
            "whole = torch.arange(64 * 64, dtype=torch.int32, device='cuda').view(64, 64)\n"
            "torch.cuda.synchronize()\n"
            "raw = encode_wrapper(wrap(whole[3:, 5:]))\n"
            "print(json.dumps({'wrapper': base64.b64encode(raw).decode()}), flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            registry.register_layers(register(shared_by(process), 1))
            tensor = registry._contexts[KEY].tensors["layer.0"]
            assert tensor.stride() == (64, 1)
            assert tensor[0, 0].item() == 3 * 64 + 5
            del tensor
            registry.clear()
            assert process.stdin is not None
            process.stdin.close()
