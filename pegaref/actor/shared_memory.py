"""POSIX shared memory as a tensor: what clients share on a host without a GPU."""

from __future__ import annotations

import errno
import itertools
import mmap
import operator
import os
import stat
import sys
from dataclasses import dataclass, field
from typing import Final

import torch

from pegaref.errors import InvalidCommand, RegistryError
from pegaref.wrapper import FIELD, SharedMemory

SHM_DIR: Final = "/dev/shm"  # where glibc's shm_open keeps its objects, shm_overview(7)
MAX_NAME_BYTES: Final = 255
#: Errors that mean this process lacks resources; the caller made no mistake.
WANTS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
MOST_DIMENSIONS: Final = 16

DTYPES: Final[dict[str, torch.dtype]] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    )
}


class Mapping(mmap.mmap):
    """A mapping that lives exactly as long as the last tensor in it."""

    def __del__(self) -> None:
        self.close()


@dataclass(slots=True)
class OpenFiles:
    """The mappings of one batch, by name and length. Layers in the same object share a mapping."""

    mappings: dict[tuple[str, int], Mapping] = field(default_factory=dict)


def open_shared_memory(wrapper: SharedMemory, files: OpenFiles) -> torch.Tensor:
    """Map the object and make a tensor on it. On an error nothing stays open.

    Raises InvalidCommand, and RegistryError (RESOURCE_EXHAUSTED) if descriptors or memory run out.
    """
    dtype = DTYPES.get(wrapper.dtype)
    if dtype is None:
        known = ", ".join(DTYPES)
        raise InvalidCommand(f"dtype {wrapper.dtype[:40]!r} is none of {known}", field=FIELD)
    stride = checked_stride(
        wrapper.shape,
        wrapper.stride,
        offset_bytes=wrapper.offset,
        whole_bytes=wrapper.nbytes,
        item_bytes=dtype.itemsize,
    )
    mapping = _mapping(wrapper, files)
    count = (wrapper.nbytes - wrapper.offset) // dtype.itemsize
    flat = torch.frombuffer(mapping, dtype=dtype, count=count, offset=wrapper.offset)
    return flat.as_strided(wrapper.shape, stride)


def checked_stride(
    shape: tuple[int, ...],
    stride: tuple[int, ...] | None,
    *,
    offset_bytes: int,
    whole_bytes: int,
    item_bytes: int,
) -> tuple[int, ...]:
    """The strides in elements, once it is sure that no index reaches outside `whole_bytes`, and that no two
    reach the same bytes: a stride of 0 makes any number of elements out of one.

    Raises InvalidCommand if any index would reach outside the `whole_bytes` of the object.
    """
    if len(shape) > MOST_DIMENSIONS or any(size < 1 for size in shape):
        raise InvalidCommand(f"shape needs {MOST_DIMENSIONS} sizes at most, each 1 or more", field=FIELD)
    if stride is None:
        steps = itertools.accumulate(reversed(shape[1:]), operator.mul, initial=1) if shape else ()
        stride = tuple(steps)[::-1]
    if len(stride) != len(shape) or not all(0 <= step <= sys.maxsize for step in stride):
        raise InvalidCommand(
            f"stride needs a step for each size in shape, from 0 to {sys.maxsize}", field=FIELD
        )
    if whole_bytes < 1 or offset_bytes < 0 or offset_bytes % item_bytes:
        raise InvalidCommand("the memory needs a byte or more, and an offset of whole items", field=FIELD)
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    end_bytes = offset_bytes + (last + 1) * item_bytes
    if end_bytes > whole_bytes:
        raise InvalidCommand(f"the tensor ends at byte {end_bytes} of {whole_bytes}", field=FIELD)
    reached = 0  # items that the dimensions with smaller steps span; one of size 1 may have any step
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size > 1):
        if step <= reached:
            raise InvalidCommand(
                f"the tensor overlaps itself: stride has a step of {step} items over dimensions that take "
                f"{reached + 1}",
                field=FIELD,
            )
        reached += (size - 1) * step
    return stride


def _mapping(wrapper: SharedMemory, files: OpenFiles) -> Mapping:
    known = files.mappings.get((wrapper.name, wrapper.nbytes))
    if known is not None:
        return known
    fd = _open_object(wrapper.name)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise InvalidCommand(f"{wrapper.name!r} is not a shared memory object", field=FIELD)
        if info.st_uid != os.geteuid():
            raise InvalidCommand(f"{wrapper.name!r} belongs to another user", field=FIELD)
        if info.st_size < wrapper.nbytes:
            raise InvalidCommand(
                f"{wrapper.name!r} has {info.st_size} bytes, not {wrapper.nbytes}", field=FIELD
            )
        # An object is sparse until it is written to, and may be longer than its file system can ever hold.
        room = os.fstatvfs(fd)
        if 0 < room.f_blocks * room.f_frsize < wrapper.nbytes:
            raise InvalidCommand(
                f"{wrapper.name!r} cannot have {wrapper.nbytes} bytes of memory: "
                f"{SHM_DIR} has {room.f_blocks * room.f_frsize} in all",
                field=FIELD,
            )
        mapping = files.mappings[wrapper.name, wrapper.nbytes] = _map(fd, wrapper)
        return mapping
    finally:
        os.close(fd)


def _map(fd: int, wrapper: SharedMemory) -> Mapping:
    try:
        # Before Python 3.13 every mmap keeps a descriptor, so an actor raises its limit at start.
        if sys.version_info >= (3, 13):
            return Mapping(fd, wrapper.nbytes, trackfd=False)
        return Mapping(fd, wrapper.nbytes)
    except ValueError as error:  # it was made shorter since its size was looked at
        raise InvalidCommand(f"{wrapper.name!r} cannot be mapped: {error}", field=FIELD) from None
    except (OSError, OverflowError) as error:
        raise RegistryError(
            f"{wrapper.name!r} cannot be mapped: {error}", code="RESOURCE_EXHAUSTED", field=FIELD
        ) from None


def _open_object(name: str) -> int:
    if not name or len(name.encode()) > MAX_NAME_BYTES or name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidCommand("a shared memory name has 1 to 255 bytes and no path", field=FIELD)
    try:
        # Neither block on a fifo nor follow a link out of the directory.
        return os.open(f"{SHM_DIR}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        message = f"shared memory {name!r} cannot be opened: {error.strerror}"
        if error.errno in WANTS:
            raise RegistryError(message, code="RESOURCE_EXHAUSTED", field=FIELD) from None
        raise InvalidCommand(message, field=FIELD) from None
