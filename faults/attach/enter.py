"""Get the agent into a running process that was not started for it."""

from __future__ import annotations

import logging
import time

from faults.attach import gdb, remote_exec
from faults.attach.refusals import AlreadyAttached, NeverLoaded, NotAttachable
from faults.attach.script import Script
from faults.attach.target import Target, look
from faults.controller import Controller
from faults.errors import NoSuchProcess
from faults.model import ProcessInfo, Selector

log = logging.getLogger(__name__)

LOAD_WITHIN_S = 10.0


async def attach(controller: Controller, pid: int, *, within_s: float = LOAD_WITHIN_S) -> ProcessInfo:
    """Load the agent into process `pid`, which then is one of the controller's processes like any other.

    Uses `sys.remote_exec` from Python 3.14 on, and gdb before that, which holds the process for some
    hundredths of a second. Later forks of the process have the agent too; other programs that it starts do
    not. On any error the process stays as it was. Raises NotAttachable (NoProcess, NotPython, NotAllowed,
    ToolMissing, ToolUnfit, AlreadyAttached, NeverLoaded).
    """
    if any(info.pid == pid for info in controller.processes()):
        raise AlreadyAttached(pid, "this controller's agent is in it", "arm faults in it right away")
    target = look(pid)
    begun = time.monotonic()
    with Script(controller.path, pid) as script:
        if target.python is not None and target.python >= remote_exec.FIRST_VERSION:
            await remote_exec.load(target, script.path)
        else:
            await gdb.load(target, script.source)
        outcome = await script.outcome(within_s)
    if outcome != "loaded":
        raise _refusal(target, outcome, within_s)
    try:
        info = await controller.wait_process(Selector(pid=pid), timeout_s=within_s)
    except NoSuchProcess:
        raise NeverLoaded(pid, "its agent came and went", "see whether it still runs") from None
    log.info("process %s has an agent after %.0f ms", info, (time.monotonic() - begun) * 1e3)
    return info


def _refusal(target: Target, outcome: str | None, within_s: float) -> NotAttachable:
    pid = target.pid
    if outcome is None:
        return NeverLoaded(
            pid,
            f"it did not run the agent within {within_s:g} s: its GIL is held, or it computes outside Python",
            "let go what holds it (py-spy dump shows who), or use process.stop and process.kill",
        )
    if outcome == "already":
        return AlreadyAttached(
            pid, "another controller's agent is in it", "use that one, or end it (`wedge status` shows it)"
        )
    if outcome == "unreachable":
        return NotAttachable(
            pid,
            "its agent could not reach this controller's socket",
            "see whether a sandbox keeps it in",
        )
    return NotAttachable(pid, f"the agent could not start in it ({outcome})", "start it with `wedge exec`")
