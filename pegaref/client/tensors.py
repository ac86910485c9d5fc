"""Tensors that another process of this host can map: in POSIX shared memory, or on a GPU through CUDA IPC.

Only CUDA IPC needs torch and an NVIDIA GPU.
"""

from __future__ import annotations

import os
import secrets
from multiprocessing.shared_memory import SharedMemory
from types import TracebackType
from typing import Any, Protocol, Self

from pegaref.wrapper import CudaIpc, encode_wrapper
from pegaref.wrapper import SharedMemory as SharedMemoryWrapper


class Shared(Protocol):
    """Memory that is shared until its `with` block ends."""

    wrapper: bytes
    nbytes: int

    @property
    def name(self) -> str: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SharedTensor:
    """POSIX shared memory with a one-dimensional tensor of bytes in it.

    `wrapper` is what a register sends for it. The memory lives until `close`; if this process is killed
    first, the standard library's resource tracker removes it. A server that has it mapped keeps the pages,
    but not the name, until it unmaps them.
    """

    def __init__(self, nbytes: int) -> None:
        """Raises ValueError if `nbytes` is below 1 and OSError if there is no room."""
        if nbytes < 1:
            raise ValueError(f"{nbytes} bytes cannot be shared: ask for at least 1")
        # The pid in the name shows whose memory it is.
        self._memory = SharedMemory(f"pegaref-{os.getpid()}-{secrets.token_hex(6)}", create=True, size=nbytes)
        self.nbytes = nbytes
        self.wrapper = encode_wrapper(
            SharedMemoryWrapper(name=self.name, nbytes=nbytes, dtype="uint8", shape=(nbytes,))
        )

    @property
    def name(self) -> str:
        """The object's name, without a slash."""
        return self._memory.name.lstrip("/")

    @property
    def buffer(self) -> memoryview:
        """The memory itself, readable and writable. Raises ValueError after `close`."""
        buffer = self._memory.buf
        if buffer is None:
            raise ValueError("the memory is not shared any more")
        return buffer

    def close(self) -> None:
        """Unmap and remove the memory; a second call does nothing."""
        self._memory.close()
        if self.nbytes:
            self.nbytes = 0
            self._memory.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SharedCudaTensor:
    """A one-dimensional tensor of bytes on a GPU, exported through CUDA IPC.

    `wrapper` is what a register sends for it. It names the GPU by UUID, so CUDA_VISIBLE_DEVICES may differ
    between the two processes. The memory lives until `close` and until the last server has unmapped it.
    """

    def __init__(self, nbytes: int, device_id: int = 0) -> None:
        """Raises ValueError if `nbytes` is below 1 and RuntimeError if torch sees no such GPU."""
        if nbytes < 1:
            raise ValueError(f"{nbytes} bytes cannot be shared: ask for at least 1")
        import torch

        if device_id >= torch.cuda.device_count():
            raise RuntimeError(
                f"torch sees no GPU {device_id} here: "
                "name another --device, or share host memory without --cuda"
            )
        self._tensor: Any = torch.zeros(nbytes, dtype=torch.uint8, device=f"cuda:{device_id}")
        torch.cuda.synchronize(device_id)
        self.nbytes = nbytes
        self.wrapper = encode_wrapper(wrap(self._tensor))

    @property
    def name(self) -> str:
        """The GPU that the memory is on."""
        return str(self._tensor.device)

    def close(self) -> None:
        """Free the memory; a second call does nothing."""
        import torch

        self._tensor = None
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wrap(tensor: Any) -> CudaIpc:
    """What a server needs to map a CUDA tensor. For a view, its offset and strides are kept.

    The handle is torch's own, from `_share_cuda_()`: device, memory handle, size and offset of the storage in
    bytes, the shared reference counter, and the event that orders the two processes.
    """
    import torch

    index, memory, nbytes, start, counter, slot, event, must_wait = tensor.untyped_storage()._share_cuda_()
    return CudaIpc(
        device_index=index,
        memory_handle=memory,
        storage_bytes=nbytes,
        storage_offset_bytes=start,
        ref_counter_handle=counter,
        ref_counter_offset=slot,
        event_handle=event,
        event_sync_required=must_wait,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        offset=tensor.storage_offset(),
        device_uuid=str(torch.cuda.get_device_properties(tensor.device).uuid),
    )
