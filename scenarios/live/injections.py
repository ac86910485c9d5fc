"""The faults that a person has armed: which one bites, how that is known, and where threads are stuck."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from faults import Controller, Fault, FaultStatus, NeverHit, ThreadStack
from scenarios.live.processes import Place
from scenarios.live.stuck import Stuck, stuck
from scenarios.server.resources import alive

_PROVE_WITHIN_S = 1.0
_STACKS_EVERY_S = 2.0
_OVER_KEPT = 3


@dataclass(slots=True)
class Broken:
    """One armed fault. `settings` is what was asked for, `proven` that it was seen to bite from outside,
    `gone` that none of its processes is left.
    """

    fault: Fault
    place: Place
    settings: Mapping[str, Any]
    proven: bool = False
    gone: bool = False
    threads: tuple[ThreadStack, ...] = ()
    looked_s: float = 0.0

    @property
    def status(self) -> FaultStatus:
        """How it is right now."""
        return self.fault.status()

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """The threads that it holds up, as they were seen last."""
        return stuck(self.threads)


class Breaker:
    """Arms and releases, and looks at what is armed."""

    def __init__(self, controller: Controller, lease_s: float) -> None:
        self._controller, self._lease_s = controller, lease_s
        self._armed: list[Broken] = []
        self._over: list[Broken] = []

    def armed(self) -> tuple[Broken, ...]:
        """Those that are not over, the oldest first."""
        return tuple(self._armed)

    def over(self) -> tuple[Broken, ...]:
        """The last few that are."""
        return tuple(self._over)

    def same(self, fault: str, place: Place, settings: Mapping[str, Any]) -> Broken | None:
        """The armed fault that is just that, if there is one."""
        for broken in self._armed:
            if (broken.fault.name, broken.place, dict(broken.settings)) == (fault, place, dict(settings)):
                return broken
        return None

    async def arm(self, fault: str, place: Place, settings: Mapping[str, Any]) -> Broken:
        """Arm it there. Raises `FaultsError`."""
        arming = self._controller.arm(fault, process=place, lease_s=self._lease_s, params=settings)
        await arming.arm()
        broken = Broken(arming, place, dict(settings))
        self._armed.append(broken)
        return broken

    async def release(self, broken: Broken) -> None:
        """Give back what it broke."""
        await broken.fault.release()
        self._settle()

    async def release_all(self) -> None:
        """Give everything back."""
        await self._controller.release_all()
        self._settle()

    async def look(self) -> None:
        """Prove what can be proven now, and see where threads are stuck. Raises `FaultsError`.

        A fault that has no process left is over: there is nothing to give back.
        """
        for broken in self._armed[:]:
            status = broken.status
            if status.state.over:
                continue
            if not broken.proven and status.hits:
                with suppress(NeverHit):
                    await broken.fault.biting(_PROVE_WITHIN_S)
                    broken.proven = True
            if status.pids and not any(alive(pid) for pid in status.pids):
                broken.gone = True
                await broken.fault.release()
            elif status.inside and time.monotonic() - broken.looked_s > _STACKS_EVERY_S:
                broken.threads = await broken.fault.threads() or broken.threads
                broken.looked_s = time.monotonic()
            elif not status.inside:
                broken.threads = ()
        self._settle()

    def _settle(self) -> None:
        for broken in [b for b in self._armed if b.status.state.over]:
            self._armed.remove(broken)
            self._over = [*self._over, broken][-_OVER_KEPT:]
