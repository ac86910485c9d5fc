"""Keeps one device's actor alive: launches it, watches it, says how it is, replaces it when it is lost."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from pegaref.clock import Clock, Timer
from pegaref.errors import DeviceUnavailable, DeviceWedged, ShuttingDown
from pegaref.messages import Ready, Reply, Request
from pegaref.registry.link import Launcher, Link
from pegaref.registry.settings import RegistrySettings
from pegaref.registry.snapshot import Hang, Phase
from pegaref.registry.supervisor import Backoff, Finding, Supervisor

logger = logging.getLogger(__name__)

TRACEBACK_LOOKS = 4  # how many looks a wedged actor gets to write its traceback
KILL_AT_LOOK = 3


class Owner(Protocol):
    """Whose actor it is."""

    def on_reply(self, reply: Reply) -> None:
        """An answer came."""
        ...

    def on_able(self) -> None:
        """The actor can take a request."""
        ...

    def on_lost(self, reason: str) -> None:
        """The actor is gone, with all that it held."""
        ...


class Keeper:
    """One device's actor, over all its epochs. Is its link's ActorEvents."""

    def __init__(
        self, device_id: int, launcher: Launcher, settings: RegistrySettings, clock: Clock, owner: Owner
    ) -> None:
        self._device_id = device_id
        self._launcher = launcher
        self._settings = settings
        self._clock = clock
        self._owner = owner
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_most_s)
        self._link: Link | None = None
        self._supervisor: Supervisor | None = None
        self._relaunch: Timer | None = None
        self._changed_s = clock.now()  # when the phase began
        self._ready_s: float | None = None
        self._killed_s: float | None = None
        self._wedged_looks = 0
        self._detail = ""
        self.phase = Phase.DEAD
        self.able = False  # whether a request may be sent now
        self.epoch = 0
        self.hang: Hang | None = None
        self.hang_since_s = 0.0
        self.traceback = ""
        self.respawns = 0
        self.gone = asyncio.Event()
        self.gone.set()

    @property
    def pid(self) -> int | None:
        """The actor's process, if it has one."""
        return None if self._link is None else self._link.pid

    @property
    def alive(self) -> bool:
        """Whether there is an actor that may hold something."""
        return self._link is not None

    def reason(self) -> str:
        """Why the device is not ready; '' when it is."""
        age_s = self._clock.now() - self._changed_s
        match self.phase:
            case Phase.READY:
                return ""
            case Phase.STARTING:
                return f"the actor is loading torch, for {age_s:.1f} s"
            case Phase.WEDGED:
                return f"the actor hangs ({self.hang}), for {self._clock.now() - self.hang_since_s:.1f} s"
            case Phase.DEAD:
                return f"the actor is gone: {self._detail}"
            case Phase.QUARANTINED:
                return f"the actor outlived SIGKILL, for {age_s:.1f} s: the device may still be held"
            case Phase.CLOSED:
                return "the server is shutting down"

    def refuse_if_unavailable(self) -> None:
        """Raise DeviceUnavailable unless a command may wait for the actor."""
        if self.able or self.phase is Phase.STARTING:
            return
        message = f"device {self._device_id}: {self.reason()}"
        if self.phase is Phase.WEDGED:
            raise DeviceWedged(message, hang=str(self.hang), retry_after_s=self._settings.wedge_after_s)
        if self.phase is Phase.CLOSED:
            raise ShuttingDown(message)
        raise DeviceUnavailable(message, retry_after_s=self._settings.backoff_first_s)

    def launch(self) -> None:
        """Start an actor; a failure to start is a death like any other."""
        self._relaunch = None
        self.epoch += 1
        self._enter(Phase.STARTING)
        self._ready_s = self._killed_s = None
        self.gone.clear()
        try:
            self._link = self._launcher.launch(self._device_id, self.epoch, self)
        except OSError as error:
            self.on_gone(f"it cannot be started: {error}")
            return
        self._supervisor = Supervisor(
            self._link.vitals,
            wedge_after_s=self._settings.wedge_after_s,
            start_within_s=self._settings.start_within_s,
            now_s=self._clock.now(),
        )

    def send(self, request: Request) -> None:
        """Hand a request to the actor."""
        if self._link is not None:
            self._link.send(request)

    def look(self, in_flight: int) -> bool:
        """Look at the actor once; True when its answer to request `in_flight` is overdue."""
        if self._supervisor is None or self._link is None:
            return False
        now_s = self._clock.now()
        finding = self._supervisor.look(now_s, in_flight=in_flight, started=self._ready_s is not None)
        if self._killed_s is not None:
            if self.phase is not Phase.QUARANTINED and now_s - self._killed_s > self._settings.kill_grace_s:
                self._quarantine()
        elif self.phase is not Phase.CLOSED:
            if finding.hang is not None:
                self._hangs(finding, now_s)
            elif self.phase is Phase.WEDGED:
                self.recovered()
        return finding.reply_overdue

    def recovered(self) -> None:
        """The actor moves again."""
        if self.phase is not Phase.WEDGED or self._killed_s is not None:
            return
        hung_s = self._clock.now() - self.hang_since_s
        logger.warning("device %d: the actor moves again after %.1f s", self._device_id, hung_s)
        self._well()
        self._enter(Phase.STARTING if self._ready_s is None else Phase.READY)
        if self.able:
            self._owner.on_able()

    def end(self, why: str) -> None:
        """Have an actor that cannot be trusted any more replaced."""
        logger.error("device %d: ending the actor: %s", self._device_id, why)
        self._kill()

    def close(self, *, force: bool) -> None:
        """Let the actor go for good; `gone` is set when it has ended."""
        if self._relaunch is not None:
            self._relaunch.cancel()
            self._relaunch = None
        self._enter(Phase.CLOSED)
        if self._link is not None:
            self._link.end(force=force)

    def on_ready(self, ready: Ready) -> None:
        """Torch is loaded."""
        if self._killed_s is not None or self.phase is Phase.CLOSED:
            return
        self._ready_s = self._clock.now()
        self._well()
        logger.info(
            "device %d: actor ready, epoch %d, pid %s, torch %s, after %.2f s",
            self._device_id,
            self.epoch,
            self.pid,
            ready.torch_version,
            self._ready_s - self._changed_s,
        )
        self._enter(Phase.READY)
        self._owner.on_able()

    def on_reply(self, reply: Reply) -> None:
        """An answer came: whatever it was, the actor moves."""
        if self.able or (self._killed_s is None and self.phase is not Phase.CLOSED):
            self._owner.on_reply(reply)

    def on_gone(self, reason: str) -> None:
        """The actor has ended."""
        lived_s = 0.0 if self._ready_s is None else self._clock.now() - self._ready_s
        self._link = self._supervisor = None
        self._ready_s = self._killed_s = None
        self.gone.set()
        if self.phase is Phase.CLOSED:
            return
        self._detail = reason
        self._well()
        self.hang = Hang.DEAD
        self.hang_since_s = self._clock.now()
        self._enter(Phase.DEAD)
        delay_s = self._backoff.died(lived_s)
        logger.error(
            "device %d: the actor is gone: %s; next start in %.1f s", self._device_id, reason, delay_s
        )
        self._relaunch = self._clock.call_at(self._clock.now() + delay_s, self._respawn)
        self._owner.on_lost(reason)

    def _respawn(self) -> None:
        self.respawns += 1
        self.hang = None
        self.launch()

    def _hangs(self, finding: Finding, now_s: float) -> None:
        link = self._link
        assert link is not None
        if self.phase is not Phase.WEDGED:
            self._enter(Phase.WEDGED)
            self._wedged_looks = 0
            self.hang_since_s = now_s - finding.still_s
            self.traceback = ""
        if finding.hang is not self.hang:
            self.hang = finding.hang
            logger.error(
                "device %d: the actor hangs: %s, pid %s, %.1f s without progress",
                self._device_id,
                finding.hang,
                link.pid,
                finding.still_s,
            )
        self._wedged_looks += 1
        if self._wedged_looks <= TRACEBACK_LOOKS:
            text = link.vitals.traceback(ask=self._wedged_looks == 1)
            if text and not self.traceback:
                logger.error("device %d: where the actor hangs:\n%s", self._device_id, text)
            self.traceback = text
        if self._settings.on_wedge == "respawn" and self._wedged_looks == KILL_AT_LOOK:
            self._kill()

    def _kill(self) -> None:
        if self._link is None or self._killed_s is not None:
            return
        if self._link.end(force=True):
            self._killed_s = self._clock.now()
            self.able = False
        else:
            logger.error("device %d: this placement cannot replace an actor", self._device_id)

    def _quarantine(self) -> None:
        self.hang = Hang.UNKILLABLE
        self._enter(Phase.QUARANTINED)
        logger.critical(
            "device %d: actor %s outlived SIGKILL; the device is in quarantine until it ends",
            self._device_id,
            self.pid,
        )

    def _well(self) -> None:
        self.hang = None
        self.traceback = ""

    def _enter(self, phase: Phase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self.able = phase is Phase.READY
            self._changed_s = self._clock.now()
