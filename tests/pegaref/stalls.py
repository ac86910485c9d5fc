"""Makes `torch.cuda.empty_cache` of actors block for real, until the test releases it.

A `sitecustomize` on PYTHONPATH replaces the function in actors only, which are the unmodified child module.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SITE = """
import sys
if "pegaref.actor.child" in sys.orig_argv:
    import os, pathlib, torch
    folder = pathlib.Path({folder!r})
    def empty_cache():
        mode = (folder / "mode").read_text()
        if mode == "pass":
            return
        with open(folder / f"inside.{{os.getpid()}}", "w"):
            pass
        pipe = os.open(folder / "release", os.O_RDONLY | os.O_NONBLOCK)
        if mode == "held":
            import ctypes
            class PollFd(ctypes.Structure):
                _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]
            asked = PollFd(pipe, 1, 0)
            ctypes.PyDLL(None).poll(ctypes.byref(asked), 1, 60000)  # PyDLL keeps the GIL
        elif mode == "uninterruptible":
            # The C library waits for the new process as after vfork, in state D; and that waits for a writer.
            opening = (os.POSIX_SPAWN_OPEN, 0, str(folder / "spawn"), os.O_RDONLY, 0)
            os.posix_spawn("/bin/true", ["true"], {{}}, file_actions=[opening])
        else:
            import select
            select.select([pipe], [], [], 60)
        os.close(pipe)
    torch.cuda.empty_cache = empty_cache
"""


class Stall:
    """Whether and how `empty_cache` blocks in the actors that are started from now on."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        os.mkfifo(folder / "release")
        os.mkfifo(folder / "spawn")
        self._pipes = [os.open(folder / "release", os.O_RDWR)]
        (folder / "sitecustomize.py").write_text(SITE.format(folder=str(folder)))
        self.block("pass")
        patch.setenv("PYTHONPATH", str(folder))

    def block(self, mode: str) -> None:
        """'released' or 'held' (the GIL), 'uninterruptible' (in state D, the GIL held), or 'pass'."""
        (self._folder / "mode").write_text(mode)

    def inside(self, pid: int) -> bool:
        """Whether the process has been inside a blocking call."""
        return (self._folder / f"inside.{pid}").exists()

    def renew(self, pid: int) -> None:
        """After a release: calls that block do so again, in the same process too."""
        (self._folder / f"inside.{pid}").unlink()
        os.read(self._pipes[0], 1)

    def release(self) -> None:
        """Release every call that blocks now or later."""
        self.block("pass")
        os.write(self._pipes[0], b"x")
        self._pipes.append(os.open(self._folder / "spawn", os.O_RDWR))

    def close(self) -> None:
        """Release, and let go of the pipes."""
        self.release()
        for pipe in self._pipes:
            os.close(pipe)
