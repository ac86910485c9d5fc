"""CUDA IPC memory as a tensor: GPU memory of another process, mapped and never copied.

torch calls `cudaIpcOpenMemHandle` and counts the users of the memory in a shared file, so the exporter gets
its memory back once the last tensor on it is gone. Closing the mapping waits for the GPU *with the GIL held*
(docs/gpu.md), so only an actor may do it.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from pegaref.actor.shared_memory import DTYPES, checked_stride
from pegaref.errors import InvalidCommand, RegistryError
from pegaref.wrapper import FIELD, CudaIpc

UUID_PREFIX = "GPU-"


def open_cuda_ipc(wrapper: CudaIpc, device_id: int) -> torch.Tensor:
    """Map the exporter's memory. The GPU that the wrapper names must be the actor's own device: closing the
    mapping waits for that GPU, and a GPU that hangs must not block another device's actor.

    Raises InvalidCommand if no GPU can open the wrapper or it names another device's GPU, and RegistryError
    (FAILED_PRECONDITION) if this host has no GPU or not the one named. On an error nothing stays mapped.
    """
    dtype = DTYPES.get(wrapper.dtype)
    if dtype is None:
        raise InvalidCommand(f"dtype {wrapper.dtype[:40]!r} is none of {', '.join(DTYPES)}", field=FIELD)
    stride = checked_stride(
        wrapper.shape,
        wrapper.stride,
        offset_bytes=wrapper.offset * dtype.itemsize,
        whole_bytes=wrapper.storage_bytes,
        item_bytes=dtype.itemsize,
    )
    named_id = _named_device_id(wrapper)
    if named_id != device_id:
        raise InvalidCommand(
            f"the memory is on GPU {named_id} and was registered on device {device_id}: "
            "a device's actor maps its own GPU's memory alone",
            field="device_id",
        )
    try:
        storage = torch.UntypedStorage._new_shared_cuda(
            device_id,
            wrapper.memory_handle,
            wrapper.storage_bytes,
            wrapper.storage_offset_bytes,
            wrapper.ref_counter_handle,
            wrapper.ref_counter_offset,
            wrapper.event_handle,
            wrapper.event_sync_required,
        )
    except torch.OutOfMemoryError as error:
        raise RegistryError(
            f"the GPU has no memory left: {str(error).splitlines()[0][:200]}",
            code="RESOURCE_EXHAUSTED",
            field=FIELD,
        ) from None
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InvalidCommand(f"the GPU memory cannot be opened: {reason}", field=FIELD) from None
    tensor = torch.empty(0, dtype=dtype, device=f"cuda:{device_id}")
    return tensor.set_(storage, wrapper.offset, wrapper.shape, stride)


def _named_device_id(wrapper: CudaIpc) -> int:
    """The device id, in this process, of the GPU that the wrapper names."""
    uuids = _uuids()
    if not uuids:
        raise RegistryError(
            "this server sees no GPU: share POSIX shared memory, or start it where `nvidia-smi` works",
            code="FAILED_PRECONDITION",
            field=FIELD,
        )
    if not wrapper.device_uuid:
        if wrapper.device_index < len(uuids):
            return wrapper.device_index
        raise InvalidCommand(f"there is no GPU {wrapper.device_index} here", field=FIELD)
    named = wrapper.device_uuid.removeprefix(UUID_PREFIX).lower()
    if named in uuids:
        return uuids.index(named)
    raise RegistryError(
        f"GPU {wrapper.device_uuid[:64]!r} is not one that this server sees (CUDA_VISIBLE_DEVICES?)",
        code="FAILED_PRECONDITION",
        field=FIELD,
    )


@lru_cache(maxsize=1)
def _uuids() -> tuple[str, ...]:
    """The UUIDs of the GPUs that this process sees, by index. They do not change while it runs."""
    return tuple(
        str(torch.cuda.get_device_properties(index).uuid).removeprefix(UUID_PREFIX).lower()
        for index in range(torch.cuda.device_count())
    )
