"""The tensors of one device, by context. This is the only part of the server that can hang."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from traceback import clear_frames

import torch

from pegaref.actor.cuda_ipc import gpu_failure, open_cuda_ipc
from pegaref.actor.pickled_wrapper import is_pickle, read_pickled
from pegaref.actor.shared_memory import OpenFiles, open_shared_memory
from pegaref.errors import AlreadyExists, DeviceMissing, InvalidCommand, RegistryError
from pegaref.messages import (
    NOTHING_DROPPED,
    ContextKey,
    DropContext,
    DropInstance,
    Dropped,
    Layer,
    Registered,
    RegisterLayers,
    matches,
)
from pegaref.wrapper import FIELD, CudaIpc, decode_wrapper

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Context:
    tensors: dict[str, torch.Tensor]
    bytes: int


def take_device(device_id: int) -> None:
    """Take a GPU for this process. Raises DeviceMissing where CUDA does not see it, whatever the reason: a
    driver that is dead, or CUDA_VISIBLE_DEVICES; and RuntimeError, as CUDA does, where it cannot be had."""
    count = torch.cuda.device_count()
    if device_id >= count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        among = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
        raise DeviceMissing(
            f"there is no device {device_id} on this host: CUDA has {count or 'none'}{among}; see what "
            "nvidia-smi says, name others with --devices, or serve host memory with --device-type cpu",
            field="device_id",
        )
    torch.cuda.set_device(device_id)
    torch.empty(1, device="cuda")  # makes the context now: the first register need not wait for it


class CudaTensorRegistry:
    """Maps and releases tensors. Not thread-safe: its actor calls it one command at a time."""

    def __init__(self, device_id: int, device_type: str, step: Callable[[], None]) -> None:
        """Begin without tensors. A device of type `cuda`, which is taken by now, has its GPU's memory and the
        host's; one of type `cpu` has the host's alone. `step` is called after each tensor, to tell slow from
        stuck.
        """
        self._device_id = device_id
        self._device_type = device_type
        self._step = step
        self._contexts: dict[ContextKey, _Context] = {}

    def register_layers(self, command: RegisterLayers) -> Registered:
        """Map all layers, or none. Raises AlreadyExists, InvalidCommand."""
        key = command.key
        if key in self._contexts:
            raise AlreadyExists(
                f"instance {key.instance_id!r} generation {key.generation} is registered for "
                f"tp {key.tp_rank}, pp {key.pp_rank} on device {key.device_id}"
            )
        tensors: dict[str, torch.Tensor] = {}
        files = OpenFiles()
        try:
            for layer in command.layers:
                tensors[layer.name] = self._open(layer, files)
                self._step()
        except BaseException as error:
            # Unmap now: a kept error keeps its frames, and these would keep the tensors.
            clear_frames(error.__traceback__)
            tensors.clear()
            files.mappings.clear()
            raise
        total_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._contexts[key] = _Context(tensors, total_bytes)
        return Registered(len(tensors), total_bytes)

    def drop_instance(self, command: DropInstance) -> Dropped:
        """Release the instance's contexts, of all generations or of those named."""
        return self.release_contexts(key for key in self._contexts if matches(command, key))

    def drop_context(self, command: DropContext) -> Dropped:
        """Release one context, if it is there."""
        return self.release_contexts(key for key in (command.key,) if key in self._contexts)

    def clear(self) -> Dropped:
        """Release everything."""
        return self.release_contexts(self._contexts)

    def device_failure(self) -> str:
        """Why the device can do no more work in this process; '' while it can."""
        return gpu_failure(self._device_id) if self._device_type == "cuda" else ""

    def release_contexts(self, keys: Iterable[ContextKey]) -> Dropped:
        """Release the tensors of these contexts; every release goes through here.

        Empties the GPU's cache only if live tensors were released, because that call may block for ever.
        """
        released = tuple(keys)
        if not released:
            return NOTHING_DROPPED
        tensors = total_bytes = 0
        for key in released:
            context = self._contexts.pop(key)
            total_bytes += context.bytes
            while context.tensors:
                context.tensors.popitem()
                tensors += 1
                self._step()
        note = ""
        if tensors:
            gc.collect()
            try:
                torch.cuda.empty_cache()
            except Exception as error:
                logger.exception("device %d: the cache could not be emptied", self._device_id)
                note = f"empty_cache failed: {type(error).__name__}: {error}"
        instances = tuple(sorted({key.instance_id for key in released}))
        return Dropped(instances, len(released), tensors, total_bytes, note)

    def _open(self, layer: Layer, files: OpenFiles) -> torch.Tensor:
        raw = layer.wrapper
        wrapper = read_pickled(raw) if is_pickle(raw) else decode_wrapper(raw)
        if isinstance(wrapper, CudaIpc):
            if self._device_type != "cuda":
                raise RegistryError(
                    "this server's devices are the host's memory: share POSIX shared memory, "
                    "or start it with --device-type cuda where nvidia-smi works",
                    code="FAILED_PRECONDITION",
                    field=FIELD,
                )
            tensor = open_cuda_ipc(wrapper, self._device_id)
        else:
            tensor = open_shared_memory(wrapper, files)
        end_bytes = _blocks_end(layer)
        if end_bytes > (room_bytes := _block_room(tensor)):
            raise InvalidCommand(
                f"layer {layer.name!r}: its blocks end at byte {end_bytes} of a tensor of {room_bytes}",
                field="num_blocks",
            )
        return tensor


def _blocks_end(layer: Layer) -> int:
    """The byte after a layer's last block, counted from its tensor's first, as PegaFlow lays them out.

    One segment: block after block. Two: K's blocks, and V's `kv_stride_bytes` after them; or, with a stride
    of one block, K and V of each block side by side. Raises InvalidCommand where blocks would overlap.
    """
    segment_bytes = layer.num_blocks * layer.bytes_per_block
    if layer.segments == 1:
        return segment_bytes
    if layer.kv_stride_bytes == layer.bytes_per_block:
        return layer.segments * segment_bytes
    if layer.kv_stride_bytes < segment_bytes:
        raise InvalidCommand(
            f"layer {layer.name!r}: V begins {layer.kv_stride_bytes} bytes after K, whose {layer.num_blocks} "
            f"blocks take {segment_bytes}: its blocks overlap",
            field="kv_stride_bytes",
        )
    return layer.kv_stride_bytes + segment_bytes


def _block_room(tensor: torch.Tensor) -> int:
    """The bytes from a tensor's first on that its blocks may take: those that it spans, with the padding
    after the last element, as far as they are mapped."""
    spanned = max((size * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)), default=1)
    offset_bytes = int(tensor.storage_offset()) * tensor.element_size()
    mapped_bytes = tensor.untyped_storage().nbytes() - offset_bytes
    return min(spanned * tensor.element_size(), mapped_bytes)
