"""CUDA IPC memory as a tensor: GPU memory of another process, mapped and never copied.

torch calls `cudaIpcOpenMemHandle` and counts the users of the memory in a shared file, so the exporter gets
its memory back once the last tensor on it is gone. Closing the mapping waits for the GPU *with the GIL held*
(docs/gpu.md), so only an actor may do it.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Final

import torch

from pegaref.actor.shared_memory import DTYPES, checked_stride
from pegaref.errors import InvalidCommand, RegistryError
from pegaref.wrapper import FIELD, CudaIpc

UUID_PREFIX = "GPU-"
REFERENCE_COUNTERS: Final = 10_000  # in one file of torch's, CUDA_IPC_REF_COUNTER_FILE_SIZE

# <cuda.h>, CUpointer_attribute: where the allocation behind a pointer begins, and how long it is.
_RANGE_START_ADDR: Final = 11
_RANGE_SIZE: Final = 12


def open_cuda_ipc(wrapper: CudaIpc, device_id: int) -> torch.Tensor:
    """Map the exporter's memory. The GPU that the wrapper names must be the actor's own device: closing the
    mapping waits for that GPU, and a GPU that hangs must not block another device's actor.

    Raises InvalidCommand for a wrapper that no GPU can open, that is another GPU's or that claims more memory
    than there is behind its handle, and RegistryError (FAILED_PRECONDITION) where this host does not have the
    GPU named, or (UNAVAILABLE) where it is lost. Nothing is left mapped.
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
    if wrapper.storage_offset_bytes < 0 or not 0 <= wrapper.ref_counter_offset < REFERENCE_COUNTERS:
        raise InvalidCommand("the storage or its reference counter lies outside what was shared", field=FIELD)
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
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        if failure := gpu_failure(device_id):  # then it is not the wrapper that is wrong
            raise RegistryError(f"the device is lost: {failure}", code="UNAVAILABLE") from None
        reason = str(error).splitlines()[0][:200]
        raise InvalidCommand(f"the GPU memory cannot be opened: {reason}", field=FIELD) from None
    end_bytes = wrapper.storage_offset_bytes + wrapper.storage_bytes
    if end_bytes > (shared_bytes := _allocated_from(storage.data_ptr() - wrapper.storage_offset_bytes)):
        raise InvalidCommand(
            f"the storage ends at byte {end_bytes} of GPU memory that has {shared_bytes}", field=FIELD
        )
    tensor = torch.empty(0, dtype=dtype, device=f"cuda:{device_id}")
    return tensor.set_(storage, wrapper.offset, wrapper.shape, stride)


def gpu_failure(device_id: int) -> str:
    """Why a GPU that was taken can do no more work in this process, '' while it can: its context is broken
    for good, or the driver has lost it. It is asked what waits for nothing on the GPU (docs/gpu.md)."""
    try:
        torch.cuda.mem_get_info(device_id)
    except RuntimeError as error:
        return str(error).splitlines()[0][:200]
    return ""


def _allocated_from(address: int) -> int:
    """The bytes from a device address on to the end of the allocation that it lies in, as the driver says; 0
    for an address in none. torch takes the sender's word for the size. Waits for nothing on the GPU.

    For memory that torch maps in pieces (expandable segments) it is the whole range that is reserved.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    found = []
    for attribute in (_RANGE_START_ADDR, _RANGE_SIZE):
        value = ctypes.c_uint64()
        if driver.cuPointerGetAttribute(ctypes.byref(value), attribute, ctypes.c_uint64(address)) != 0:
            return 0
        found.append(value.value)
    start, size = found
    return start + size - address


def _named_device_id(wrapper: CudaIpc) -> int:
    """The device id, in this process, of the GPU that the wrapper names."""
    uuids = _uuids()
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
