"""GPU memory that another process of this host can map through CUDA IPC. Needs torch and an NVIDIA GPU."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pegaref.wrapper import CudaIpc, encode_wrapper


class SharedCudaTensor:
    """A one-dimensional tensor of bytes on a GPU, exported through CUDA IPC.

    `wrapper` is what a register sends for it; it names the GPU by UUID, so that CUDA_VISIBLE_DEVICES may
    differ between the two processes. The memory lives until `close`, and until the last server that has it
    mapped lets go of it.
    """

    def __init__(self, nbytes: int, device: int = 0) -> None:
        """Raises ValueError for less than a byte, RuntimeError where torch sees no such GPU."""
        if nbytes < 1:
            raise ValueError(f"{nbytes} bytes cannot be shared: ask for at least 1")
        import torch

        if device >= torch.cuda.device_count():
            raise RuntimeError(
                f"torch sees no GPU {device} here: name another --device, or share host memory without --cuda"
            )
        self._tensor: Any = torch.zeros(nbytes, dtype=torch.uint8, device=f"cuda:{device}")
        torch.cuda.synchronize(device)
        self.nbytes = nbytes
        self.wrapper = encode_wrapper(wrap(self._tensor))

    @property
    def name(self) -> str:
        """Which GPU it is on."""
        return str(self._tensor.device)

    def close(self) -> None:
        """Let go of the memory; harmless the second time."""
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
    """What a server needs to map a CUDA tensor, views included (their offset and strides are kept).

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
