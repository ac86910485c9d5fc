"""Stands for the GPU: holds shared memory for keys, and has a call site that every release goes through."""

from __future__ import annotations

import mmap

_held: dict[str, mmap.mmap] = {}


def keep(key: str) -> None:
    """Map memory for a key. Raises KeyError when it has some already."""
    if key in _held:
        raise KeyError(key)
    synchronize()
    _held[key] = mmap.mmap(-1, 4096)


def drop(key: str) -> None:
    """Unmap the memory of a key, if it has any."""
    memory = _held.pop(key, None)
    if memory is not None:
        memory.close()
        empty_cache()


def forget(key: str) -> None:
    """Like `drop`, with the bug that the memory stays mapped."""
    _held[f"{key} for ever {len(_held)}"] = _held.pop(key, mmap.mmap(-1, 4096))


def synchronize() -> None:
    """Where a wedged GPU would keep its callers."""


def empty_cache() -> None:
    """Where a wedged GPU would keep those who release."""
