"""Why the agent cannot be loaded into a running process: each refusal names what is missing and the
remedy."""

from __future__ import annotations

from faults.errors import FaultsError, NotAnswered


class NotAttachable(FaultsError):
    """Raised by `attach` when the agent cannot be loaded into a process; the process is as it was.

    `pid` is the process, `reason` the obstacle, `remedy` what would remove it.
    """

    def __init__(self, pid: int, reason: str, remedy: str) -> None:
        self.pid, self.reason, self.remedy = pid, reason, remedy
        super().__init__(f"cannot attach to process {pid}: {reason}; {remedy}")


class NoProcess(NotAttachable):
    """Raised when there is no such process, or it has ended and is not yet collected."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(pid, reason, "look its number up again, for example with `pgrep -af python`")


class NotPython(NotAttachable):
    """Raised when the process holds no Python interpreter that runs."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(
            pid, reason, "process.stop, process.kill and process.starve need none: `wedge attach --outside`"
        )


class NotAllowed(NotAttachable):
    """Raised when this user may not trace that process."""


class ToolMissing(NotAttachable):
    """Raised when what would load the agent (gdb, or a Python that has sys.remote_exec) is not installed."""


class ToolUnfit(NotAttachable):
    """Raised if gdb, when tried on a process of our own, could not enter it or broke it.

    The target has not been touched.
    """

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(
            pid,
            reason,
            "install a newer gdb, start the target with `wedge exec`, or use process.stop, process.kill and "
            "process.starve, which need no gdb: `wedge attach --outside`",
        )


class AlreadyAttached(NotAttachable):
    """Raised when an agent in that process already serves a controller, this one or another."""


class NeverLoaded(NotAttachable):
    """Raised if the process did not load the agent in time, mostly because its GIL is held.

    The process runs on as before; what is left in it to run does nothing once this has been raised.
    """


class NoAgent(NotAnswered):
    """Raised by arming a fault inside a process that was taken in without an agent (`outside`)."""

    def __init__(self, pid: int, asked: str) -> None:
        FaultsError.__init__(
            self,
            f"process {pid} was taken in without an agent and cannot be asked to {asked}; only faults from "
            "outside (process.*) work on it, `wedge attach` without --outside loads an agent",
        )
        self.pid, self.asked, self.waited_s = pid, asked, 0.0
