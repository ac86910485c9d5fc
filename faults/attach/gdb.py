"""Load the agent with gdb: for Python before 3.14, which cannot be asked to run a script.

gdb stops the process, has one of its threads make three short calls, and lets it go. None of the calls can
wait for the GIL. Two things decide how:

- A thread that waits in the kernel (chosen before gdb comes, and recognised by its stack pointer afterwards)
  holds no lock of the C library. gdb makes it start a new thread, which waits for the GIL itself
  (`trampoline`).
- If every thread is busy, as in a program that only computes, or has moved on each time that gdb came, the
  string is queued with Py_AddPendingCall, which needs no GIL and no memory; the main thread runs it at its
  next safe point.

Stopping a process makes some of its system calls return EINTR (signal(7), "Interruption of system calls and
library functions by stop signals"). Python repeats them (PEP 475); a C program has to.

Not every gdb can do this on every processor, and one that cannot leaves the process broken. So gdb is first
tried on a process of our own (`rehearsal`).
"""

from __future__ import annotations

import shutil

from faults.attach import commands, gdb_process, rehearsal, seats, trampoline
from faults.attach.refusals import NeverLoaded, ToolMissing
from faults.attach.target import Target

_TRIES = 3


async def load(target: Target, source: str) -> None:
    """Make the process run `source` soon, perhaps after this has returned. gdb lets the process go in any
    case.

    Raises ToolMissing, ToolUnfit, NotAllowed, NotPython, NoProcess, NeverLoaded.
    """
    gdb = shutil.which("gdb")
    if gdb is None:
        raise ToolMissing(
            target.pid,
            "its Python cannot be asked to load a script (that takes 3.14), and gdb is not installed",
            "install it (`apt-get install gdb`), or start the target with `wedge exec`",
        )
    await rehearsal.check(gdb, target.pid)
    for tries_left in reversed(range(_TRIES)):
        waiting = await seats.find(target.pid) if tries_left and trampoline.supported() else []
        try:
            said, output = await gdb_process.run(gdb, commands.write(target, source, waiting))
        except TimeoutError:
            raise NeverLoaded(
                target.pid,
                f"gdb was not done with it within {gdb_process.WITHIN_S:g} s and was told to let it go",
                "see whether it is in an uninterruptible wait (state D)",
            ) from None
        if said == "loaded":
            return
        if said != "moved" or not tries_left:
            raise gdb_process.refusal(target.pid, said, output)
