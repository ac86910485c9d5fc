"""The faults that a person has armed: which of them bite, the evidence, and where threads are stuck."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from faults import Controller, Fault, FaultStatus, Frame, NeverHit, ThreadStack
from scenarios.live.processes import ProcessRef
from scenarios.server.resources import alive

_OURS = ("faults/agent/", "faults/catalogue/")
_MAIN = "MainThread"
_PROVE_WITHIN_S = 1.0
_STACKS_EVERY_S = 2.0
_OVER_KEPT = 3


@dataclass(frozen=True, slots=True)
class StuckThread:
    """A thread, the innermost frame first. `in_fault`: it waits in the fault itself."""

    pid: int
    name: str
    frames: tuple[Frame, ...]
    in_fault: bool

    def __str__(self) -> str:
        theirs = [frame for frame in self.frames if not _ours(frame)]
        if not theirs and self.in_fault:
            return f"a thread of the fault itself in {self.pid}"
        return f"{self.name} of {self.pid}: {' ← '.join(map(_short, theirs)) or 'outside Python'}"


def stuck(threads: Iterable[ThreadStack]) -> tuple[StuckThread, ...]:
    """The threads worth a look: those inside the fault, and the main thread where it was seen."""
    chosen = [thread for thread in threads if thread.inside or thread.name == _MAIN]
    return tuple(
        StuckThread(found.thread.pid, found.name or "a thread", found.frames, found.inside)
        for found in sorted(chosen, key=lambda found: not found.inside)
    )


def _ours(frame: Frame) -> bool:
    return any(part in frame.file for part in _OURS)


def _short(frame: Frame) -> str:
    return f"{frame.function} {PurePath(frame.file).name}:{frame.line}"


@dataclass(slots=True)
class ActiveFault:
    """One armed fault. `settings` are its parameters; `proven` is true once it was seen to bite from outside,
    `gone` once none of its processes is left.
    """

    fault: Fault
    place: ProcessRef
    settings: Mapping[str, Any]
    proven: bool = False
    gone: bool = False
    threads: tuple[ThreadStack, ...] = ()
    looked_s: float = 0.0

    @property
    def status(self) -> FaultStatus:
        """The fault's current status."""
        return self.fault.status()

    @property
    def stuck(self) -> tuple[StuckThread, ...]:
        """The threads that it blocks, as seen last."""
        return stuck(self.threads)


class FaultManager:
    """Arms and releases faults, and watches those that are armed."""

    def __init__(self, controller: Controller, lease_s: float) -> None:
        self._controller, self._lease_s = controller, lease_s
        self._armed: list[ActiveFault] = []
        self._over: list[ActiveFault] = []

    def armed(self) -> tuple[ActiveFault, ...]:
        """The faults that are not over, the oldest first."""
        return tuple(self._armed)

    def over(self) -> tuple[ActiveFault, ...]:
        """The last few faults that are over."""
        return tuple(self._over)

    def same(self, fault: str, place: ProcessRef, settings: Mapping[str, Any]) -> ActiveFault | None:
        """The armed fault with this name, process and settings; None if there is none."""
        for active in self._armed:
            if (active.fault.name, active.place, dict(active.settings)) == (fault, place, dict(settings)):
                return active
        return None

    async def arm(self, fault: str, place: ProcessRef, settings: Mapping[str, Any]) -> ActiveFault:
        """Arm the fault in the process. Raises `FaultsError`."""
        arming = self._controller.arm(fault, process=place, lease_s=self._lease_s, params=settings)
        await arming.arm()
        active = ActiveFault(arming, place, dict(settings))
        self._armed.append(active)
        return active

    async def release(self, active: ActiveFault) -> None:
        """Release one fault, so that the target runs as before."""
        await active.fault.release()
        self._settle()

    async def release_all(self) -> None:
        """Release every fault."""
        await self._controller.release_all()
        self._settle()

    async def refresh(self) -> None:
        """Look for evidence of each fault and for stuck threads. Raises `FaultsError`.

        A fault without any process left is over.
        """
        for active in self._armed[:]:
            status = active.status
            if status.state.over:
                continue
            if not active.proven and status.hits:
                with suppress(NeverHit):
                    await active.fault.wait_biting(_PROVE_WITHIN_S)
                    active.proven = True
            if status.pids and not any(alive(pid) for pid in status.pids):
                active.gone = True
                await active.fault.release()
            elif status.inside and time.monotonic() - active.looked_s > _STACKS_EVERY_S:
                active.threads = await active.fault.threads() or active.threads
                active.looked_s = time.monotonic()
            elif not status.inside:
                active.threads = ()
        self._settle()

    def _settle(self) -> None:
        for active in [b for b in self._armed if b.status.state.over]:
            self._armed.remove(active)
            self._over = [*self._over, active][-_OVER_KEPT:]
