"""Memory that another process of this host can map: what a GPU's worker shares, where there is no GPU."""

import os
import secrets
from multiprocessing.shared_memory import SharedMemory
from types import TracebackType
from typing import Protocol, Self

from pegaref.wrapper import SharedMemory as SharedMemoryWrapper
from pegaref.wrapper import encode_wrapper


class Shared(Protocol):
    """Memory that is shared for as long as its `with` block lasts."""

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
    before that, the standard library's resource tracker removes it. A server that has it mapped keeps the
    pages, not the name, until it lets go.
    """

    def __init__(self, nbytes: int) -> None:
        """Raises ValueError for less than a byte, OSError when there is no room for it."""
        if nbytes < 1:
            raise ValueError(f"{nbytes} bytes cannot be shared: ask for at least 1")
        # The process's number in the name tells a person whose memory it is.
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
        """The bytes, to be written and read. Raises ValueError after `close`."""
        buffer = self._memory.buf
        if buffer is None:
            raise ValueError("the memory is not shared any more")
        return buffer

    def close(self) -> None:
        """Unmap and remove it; harmless the second time."""
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
