"""The supervisor of one device's actor: it launches, watches, reports on and replaces the actor."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from pegaref.clock import Clock, Timer
from pegaref.config import RegistrySettings
from pegaref.errors import DeviceUnavailable, DeviceWedged, ShuttingDown
from pegaref.messages import Ready, Reply, Request
from pegaref.registry.backoff import RespawnBackoff
from pegaref.registry.hang_detector import Finding, HangDetector
from pegaref.registry.link import Launcher, Link
from pegaref.registry.snapshot import Hang, Phase

logger = logging.getLogger(__name__)

_TRACEBACK_POLLS = 4  # how many polls a wedged actor gets to write its traceback
_KILL_AT_POLL = 3


class ActorOwner(Protocol):
    """What a supervisor tells about its actor."""

    def on_reply(self, reply: Reply) -> None:
        """Called with each answer of the actor."""
        ...

    def on_accepting(self) -> None:
        """Called when requests may be sent from now on."""
        ...

    def on_lost(self, reason: str) -> None:
        """Called when the actor has ended, with all that it held."""
        ...


@dataclass(frozen=True, slots=True)
class ActorStatus:
    """The state of a device's actor. `hang_age_s` is 0.0 if it does not hang, `reason` is '' if it is
    ready."""

    device_type: str
    phase: Phase
    accepting: bool
    reason: str
    hang: Hang | None
    hang_age_s: float
    traceback: str
    epoch: int
    pid: int | None
    respawns: int


class ActorSupervisor:
    """Keeps one device's actor running. It is the ActorEvents of its actor's link.

    Its owner sends requests only while `accepting` is true, which implies that there is a link.
    """

    def __init__(
        self, device_id: int, launcher: Launcher, settings: RegistrySettings, clock: Clock, owner: ActorOwner
    ) -> None:
        self._device_id = device_id
        self._launcher = launcher
        self._settings = settings
        self._clock = clock
        self._owner = owner
        self._backoff = RespawnBackoff(settings.backoff_first_s, settings.backoff_most_s)
        self._link: Link | None = None
        self._detector: HangDetector | None = None
        self._relaunch: Timer | None = None
        self._changed_s = clock.now()  # when the phase began
        self._ready_s: float | None = None
        self._killed_s: float | None = None
        self._wedged_polls = 0
        self._detail = ""  # why the last actor ended; '' once another is ready
        self._epoch = 0
        self._hang: Hang | None = None
        self._hang_since_s = 0.0
        self._traceback = ""
        self._respawns = 0
        self._device_type = ""  # until an actor has said it
        self._gone = asyncio.Event()
        self._gone.set()
        self.phase = Phase.DEAD
        self.accepting = False  # whether a request may be sent now

    @property
    def alive(self) -> bool:
        """Whether there is an actor, which may hold tensors."""
        return self._link is not None

    @property
    def is_wedged(self) -> bool:
        """Whether waiting for the actor is pointless because it hangs or is in quarantine."""
        return self.phase in (Phase.WEDGED, Phase.QUARANTINED)

    def status(self) -> ActorStatus:
        """The actor's state, from memory."""
        return ActorStatus(
            device_type=self._device_type,
            phase=self.phase,
            accepting=self.accepting,
            reason=self.reason(),
            hang=self._hang,
            hang_age_s=0.0 if self._hang is None else self._clock.now() - self._hang_since_s,
            traceback=self._traceback,
            epoch=self._epoch,
            pid=self._pid,
            respawns=self._respawns,
        )

    def mark(self) -> tuple[object, ...] | None:
        """A value that is another one whenever a number of `status` is; None while a hang gets older."""
        return (
            None
            if self._hang is not None
            else (self.accepting, self._epoch, self._respawns, self._device_type)
        )

    def reason(self) -> str:
        """Why the device is not ready; '' when it is."""
        age_s = self._clock.now() - self._changed_s
        match self.phase:
            case Phase.READY:
                return ""
            case Phase.STARTING:
                before = f"; the one before it is gone: {self._detail}" if self._detail else ""
                return f"the actor is loading torch, for {age_s:.1f} s{before}"
            case Phase.WEDGED:
                return f"the actor hangs ({self._hang}), for {self._clock.now() - self._hang_since_s:.1f} s"
            case Phase.DEAD:
                return f"the actor is gone: {self._detail}"
            case Phase.QUARANTINED:
                return f"the actor outlived SIGKILL, for {age_s:.1f} s: the device may still be held"
            case Phase.CLOSED:
                return "the server is shutting down"

    def refuse_if_unavailable(self) -> None:
        """Raises DeviceUnavailable unless a command may wait for the actor."""
        if self.accepting or self.phase is Phase.STARTING:
            return
        message = f"device {self._device_id}: {self.reason()}"
        if self.phase is Phase.WEDGED:
            raise DeviceWedged(message, hang=str(self._hang), retry_after_s=self._settings.wedge_after_s)
        if self.phase is Phase.CLOSED:
            raise ShuttingDown(message)
        raise DeviceUnavailable(message, retry_after_s=self._settings.backoff_first_s)

    def launch(self) -> None:
        """Start an actor. A failure to start counts as a death and is tried again after a pause."""
        self._relaunch = None
        self._epoch += 1
        self._enter(Phase.STARTING)
        self._ready_s = self._killed_s = None
        self._gone.clear()
        try:
            self._link = self._launcher.launch(self._device_id, self._epoch, self)
        except OSError as error:
            self.on_gone(f"it cannot be started: {error}")
            return
        self._detector = HangDetector(
            self._link.vitals,
            wedge_after_s=self._settings.wedge_after_s,
            start_within_s=self._settings.start_within_s,
            now_s=self._clock.now(),
        )

    def send(self, request: Request) -> None:
        """Send a request to the actor, which must be accepting."""
        assert self._link is not None  # an accepting actor has a link
        self._link.send(request)

    def poll(self, in_flight: int) -> bool:
        """Check the actor once. True if its answer to request `in_flight` (0: none) is overdue."""
        if self._detector is None or self._link is None:
            return False
        now_s = self._clock.now()
        finding = self._detector.poll(now_s, in_flight=in_flight, started=self._ready_s is not None)
        if self._killed_s is not None:
            if self.phase is not Phase.QUARANTINED and now_s - self._killed_s > self._settings.kill_grace_s:
                self._quarantine()
        elif self.phase is not Phase.CLOSED:
            if finding.hang is not None:
                self._note_hang(finding, now_s)
            elif self.phase is Phase.WEDGED:
                self.mark_recovered()
                if self.accepting:
                    self._owner.on_accepting()
        return finding.reply_overdue

    def mark_recovered(self) -> None:
        """Leave the wedged phase: the actor makes progress again. Does nothing in any other phase."""
        if self.phase is not Phase.WEDGED or self._killed_s is not None:
            return
        hung_s = self._clock.now() - self._hang_since_s
        logger.warning("device %d: the actor moves again after %.1f s", self._device_id, hung_s)
        self._clear_hang()
        self._enter(Phase.STARTING if self._ready_s is None else Phase.READY)

    def replace(self, why: str) -> None:
        """Kill an actor that can no longer be trusted; another is launched once it has ended."""
        logger.error("device %d: ending the actor: %s", self._device_id, why)
        self._kill()

    def close(self, *, force: bool) -> None:
        """End the actor (`force`: kill it), and launch none in its place."""
        if self._relaunch is not None:
            self._relaunch.cancel()
            self._relaunch = None
        self._enter(Phase.CLOSED)
        if self._link is not None:
            self._link.end(force=force)

    async def wait_gone(self) -> None:
        """Return when the actor has ended."""
        await self._gone.wait()

    def on_ready(self, ready: Ready) -> None:
        """Let the owner send requests, now that the actor has loaded torch."""
        if self._killed_s is not None or self.phase is Phase.CLOSED:
            return
        self._ready_s = self._clock.now()
        self._device_type = ready.device_type
        self._detail = ""
        self._clear_hang()
        logger.info(
            "device %d (%s): actor ready, epoch %d, pid %s, torch %s, after %.2f s",
            self._device_id,
            ready.device_type,
            self._epoch,
            self._pid,
            ready.torch_version,
            self._ready_s - self._changed_s,
        )
        self._enter(Phase.READY)
        self._owner.on_accepting()

    def on_reply(self, reply: Reply) -> None:
        """Pass an answer on to the owner, unless the actor is being killed or closed."""
        if self.accepting or (self._killed_s is None and self.phase is not Phase.CLOSED):
            self._owner.on_reply(reply)

    def on_gone(self, reason: str) -> None:
        """Tell the owner that the actor has ended, and launch another after a pause."""
        lived_s = 0.0 if self._ready_s is None else self._clock.now() - self._ready_s
        self._link = self._detector = None
        self._ready_s = self._killed_s = None
        self._gone.set()
        if self.phase is Phase.CLOSED:
            return
        self._detail = reason
        self._clear_hang()
        self._hang = Hang.DEAD
        self._hang_since_s = self._clock.now()
        self._enter(Phase.DEAD)
        delay_s = self._backoff.next_delay_s(lived_s)
        logger.error(
            "device %d: the actor is gone: %s; next start in %.1f s", self._device_id, reason, delay_s
        )
        self._relaunch = self._clock.call_at(self._clock.now() + delay_s, self._respawn)
        self._owner.on_lost(reason)

    @property
    def _pid(self) -> int | None:
        return None if self._link is None else self._link.pid

    def _respawn(self) -> None:
        self._respawns += 1
        self._hang = None
        self.launch()

    def _note_hang(self, finding: Finding, now_s: float) -> None:
        link = self._link
        assert link is not None
        if self.phase is not Phase.WEDGED:
            self._enter(Phase.WEDGED)
            self._wedged_polls = 0
            self._hang_since_s = now_s - finding.still_s
            self._traceback = ""
        if finding.hang is not self._hang:
            self._hang = finding.hang
            logger.error(
                "device %d: the actor hangs: %s, pid %s, %.1f s without progress",
                self._device_id,
                finding.hang,
                link.pid,
                finding.still_s,
            )
        self._wedged_polls += 1
        if self._wedged_polls <= _TRACEBACK_POLLS:
            if self._wedged_polls == 1:
                link.vitals.request_traceback()
            text = link.vitals.read_traceback()
            if text and not self._traceback:
                logger.error("device %d: where the actor hangs:\n%s", self._device_id, text)
            self._traceback = text
        if self._settings.on_wedge == "respawn" and self._wedged_polls == _KILL_AT_POLL:
            self._kill()

    def _kill(self) -> None:
        if self._link is None or self._killed_s is not None:
            return
        if self._link.end(force=True):
            self._killed_s = self._clock.now()
            self.accepting = False
        else:
            logger.error("device %d: this placement cannot replace an actor", self._device_id)

    def _quarantine(self) -> None:
        self._hang = Hang.UNKILLABLE
        self._enter(Phase.QUARANTINED)
        logger.critical(
            "device %d: actor %s outlived SIGKILL; the device is in quarantine until it ends",
            self._device_id,
            self._pid,
        )

    def _clear_hang(self) -> None:
        self._hang = None
        self._traceback = ""

    def _enter(self, phase: Phase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self.accepting = phase is Phase.READY
            self._changed_s = self._clock.now()
