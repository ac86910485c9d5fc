"""Where a layer's memory is: typed values that a client sends and only an actor opens. Imports no torch.

A wrapper is sent as msgpack: a map whose `kind` tells the two values apart. An actor also accepts PegaFlow's
pickled CudaIPCWrapper, which pegaref.actor.pickled_wrapper reads into a CudaIpc.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from pegaref.errors import InvalidCommand

MAX_WRAPPER_BYTES = 64 * 1024
FIELD = "wrapper_bytes"


class SharedMemory(Struct, frozen=True, tag_field="kind", tag="posix_shm", forbid_unknown_fields=True):
    """A tensor in a POSIX shared memory object.

    `name` is the object's name without a slash, `nbytes` how much of it is mapped, `dtype` a torch dtype's
    name, `shape` and `stride` count elements (stride None: contiguous), `offset` counts bytes.
    """

    name: str
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    offset: int = 0


class CudaIpc(Struct, frozen=True, tag_field="kind", tag="cuda_ipc", forbid_unknown_fields=True):
    """A tensor in another process's GPU memory, with what torch's `_share_cuda_()` returns for its storage.

    The GPU is named by `device_uuid`, or by `device_index` if the sender gave no UUID. `shape`, `stride`
    (None: contiguous) and `offset` (from the storage's start) count elements.
    """

    device_index: int
    memory_handle: bytes
    storage_bytes: int
    storage_offset_bytes: int
    ref_counter_handle: bytes
    ref_counter_offset: int
    event_handle: bytes
    event_sync_required: bool
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    offset: int = 0
    device_uuid: str = ""


Wrapper: TypeAlias = SharedMemory | CudaIpc

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[SharedMemory | CudaIpc] = msgspec.msgpack.Decoder(SharedMemory | CudaIpc)


def encode_wrapper(wrapper: Wrapper) -> bytes:
    """The bytes that a client sends as `wrapper_bytes`."""
    return _ENCODER.encode(wrapper)


def decode_wrapper(raw: bytes) -> Wrapper:
    """Decode what encode_wrapper made, opening nothing. Raises InvalidCommand."""
    if len(raw) > MAX_WRAPPER_BYTES:
        raise InvalidCommand(f"a wrapper has at most {MAX_WRAPPER_BYTES} bytes, not {len(raw)}", field=FIELD)
    try:
        return _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidCommand(f"not a wrapper: {error}", field=FIELD) from None
