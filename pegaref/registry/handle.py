"""The only way to the tensors: typed calls with deadlines, and a snapshot that never waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from heapq import merge

from pegaref.clock import Clock, DeadlineHeap, LoopClock, answer_within_s
from pegaref.config import RegistrySettings
from pegaref.errors import (
    CleanupPending,
    DeadlineExpired,
    RegistryError,
    ShuttingDown,
)
from pegaref.messages import (
    Clear,
    ContextKey,
    DropContext,
    DropInstance,
    Dropped,
    Registered,
    RegisterLayers,
    merge_dropped,
)
from pegaref.registry.commands import Cleanup
from pegaref.registry.device import Device
from pegaref.registry.hang_detector import poll_interval_s
from pegaref.registry.link import Launcher
from pegaref.registry.operations import CleanupPart, Operation, Operations, outcome_of, wait_for_cleanups
from pegaref.registry.snapshot import ContextSummary, RegistrySnapshot

logger = logging.getLogger(__name__)

OnLost = Callable[[frozenset[tuple[str, int]]], None]
_DEFAULTS = RegistrySettings()
_KILL_AFTER_SHARE = 0.7  # share of the grace after which an actor that has not ended by itself is killed

_CLEAR = Clear()

Outcome = Dropped | RegistryError


class RegistryHandle:
    """Owns one actor per device. Used from one event loop only.

    The server has already checked the commands that it receives (pegaref.serving.requests).

    `on_lost` is called with the (instance, generation) pairs whose tensors were lost when an actor died. Set
    it before start.
    """

    on_lost: OnLost | None

    def __init__(
        self,
        device_ids: Collection[int],
        launcher: Launcher,
        *,
        settings: RegistrySettings = _DEFAULTS,
        clock: Clock | None = None,
    ) -> None:
        self.on_lost = None
        self._device_ids = tuple(sorted(device_ids))
        self._launcher = launcher
        self._settings = settings
        self._clock = clock
        self._deadlines: DeadlineHeap | None = None
        self._devices: dict[int, Device] = {}
        self._operations = Operations()
        self._closed = False

    async def start(self) -> None:
        """Launch the actors, without waiting until they are ready."""
        self._deadlines = DeadlineHeap(self._clock or LoopClock(asyncio.get_running_loop()))
        for device_id in self._device_ids:
            self._devices[device_id] = Device(
                device_id, self._launcher, self._settings, self._deadlines, self._report_lost
            )
        for device in self._devices.values():
            device.launch()
        self._schedule_poll()

    async def close(self, *, grace_s: float) -> None:
        """End the actors within about `grace_s`, even if they hang. Commands that wait get ShuttingDown."""
        self._closed = True
        if self._deadlines is not None:
            self._deadlines.stop()
        devices = self._devices.values()
        for device in devices:
            device.close()
        if await self._wait_all_gone(grace_s * _KILL_AFTER_SHARE):
            return
        for device in devices:
            device.kill()
        if not await self._wait_all_gone(grace_s * (1 - _KILL_AFTER_SHARE)):
            logger.error("an actor does not end; it is left behind")

    async def register(self, command: RegisterLayers, *, deadline_s: float) -> Registered:
        """Map a context's layers, all or none.

        Answers shortly before `deadline_s` at the latest. If its caller is cancelled, nothing stays mapped.
        Raises InvalidCommand (too large for a frame, or refused by the actor), AlreadyExists, MailboxFull,
        DeviceUnavailable (DeviceWedged, DeviceLost, ShuttingDown), OutcomeUnknown, DeadlineExpired,
        Superseded, ActorRefused.
        """
        if deadline_s <= 0:
            raise DeadlineExpired("the deadline had passed when the call came")
        device = self._device(command.key.device_id)
        register = device.submit(command, deadline_s)
        try:
            return await register.future
        except asyncio.CancelledError:
            device.abandon(register)
            raise

    async def drop_instance(self, instance_id: str, *, generation: int | None, deadline_s: float) -> Dropped:
        """Release an instance's contexts on all devices: those of one generation, or all (None).

        The instance's registers that still wait are refused with Superseded. The drop itself is never
        refused. Raises CleanupPending if a device takes longer than `deadline_s` or is known to hang; the
        cleanup is still carried out, whether or not its caller stays.
        """
        self._refuse_if_closed()
        command = DropInstance(instance_id, None if generation is None else (generation,))
        parts = {device_id: device.submit_cleanup(command) for device_id, device in self._devices.items()}
        which = "" if generation is None else f" generation {generation}"
        return await self._merged(f"instance {instance_id}{which}", parts, deadline_s)

    async def drop_context(self, key: ContextKey, *, deadline_s: float) -> Dropped:
        """Release one context. Raises CleanupPending as drop_instance does."""
        self._refuse_if_closed()
        parts = {key.device_id: self._device(key.device_id).submit_cleanup(DropContext(key))}
        return await self._merged(f"context {key}", parts, deadline_s)

    async def clear(self, *, deadline_s: float) -> Mapping[int, Outcome]:
        """Release everything. Returns an outcome per device, a CleanupPending where it is still to come;
        never raises for a device."""
        self._refuse_if_closed()
        parts = {device_id: device.submit_cleanup(_CLEAR) for device_id, device in self._devices.items()}
        operation_id = await self._wait_or_track("clear", parts, deadline_s)
        return {device_id: self._outcome(part, operation_id) for device_id, part in parts.items()}

    def operation(self, operation_id: str) -> Operation | None:
        """The cleanup that a CleanupPending named; None if it is unknown or finished long ago."""
        return self._operations.get(operation_id)

    def snapshot(self) -> RegistrySnapshot:
        """The state of every device, from memory."""
        return RegistrySnapshot({device_id: device.snapshot() for device_id, device in self._devices.items()})

    def devices(self) -> Collection[Device]:
        """The devices, for who reads them one at a time; none before the start."""
        return self._devices.values()

    def contexts(self, after: ContextKey | None = None) -> Iterator[ContextSummary]:
        """The contexts that the registry holds, in the order of their keys: all, or those after a key.

        What is taken from it is all that it costs. It must be used up before anything else happens on the
        loop.
        """
        return merge(
            *(device.contexts(after) for device in self._devices.values()), key=lambda summary: summary.key
        )

    @property
    def context_count(self) -> int:
        """How many contexts the registry holds."""
        return sum(device.context_count for device in self._devices.values())

    # ---- cleanups: wait for all devices, but only up to a deadline

    async def _merged(self, target: str, parts: Mapping[int, CleanupPart], deadline_s: float) -> Dropped:
        operation_id = await self._wait_or_track(target, parts, deadline_s)
        done: list[Dropped] = []
        for part in parts.values():
            outcome = self._outcome(part, operation_id)
            if isinstance(outcome, RegistryError):
                raise outcome
            done.append(outcome)
        return merge_dropped(tuple(done))

    async def _wait_or_track(self, target: str, parts: Mapping[int, CleanupPart], deadline_s: float) -> str:
        """Wait for the parts until the deadline. Returns '' if all have ended, else their operation's id."""
        waiting: list[Cleanup] = []
        pending = False
        for device_id, part in parts.items():
            if isinstance(part, Cleanup) and part.outcome is None:
                if self._devices[device_id].is_wedged:
                    pending = True
                else:
                    waiting.append(part)
        if waiting:
            assert self._deadlines is not None
            within_s = answer_within_s(deadline_s)
            if not await wait_for_cleanups(waiting, within_s=within_s, clock=self._deadlines):
                pending = True
        return self._operations.track(target, parts) if pending else ""

    def _outcome(self, part: CleanupPart, operation_id: str) -> Outcome:
        outcome = outcome_of(part)
        if outcome is not None:
            return outcome
        return CleanupPending(
            f"the cleanup is not done yet; it goes on as operation {operation_id}",
            operation_id=operation_id,
            retry_after_s=self._settings.wedge_after_s,
        )

    # ---- start, polls, end

    def _device(self, device_id: int) -> Device:
        self._refuse_if_closed()
        return self._devices[device_id]

    def _refuse_if_closed(self) -> None:
        if self._closed or not self._devices:
            raise ShuttingDown("the registry is not running")

    def _schedule_poll(self) -> None:
        assert self._deadlines is not None
        every_s = poll_interval_s(self._settings.wedge_after_s)
        self._deadlines.call_at(self._deadlines.now() + every_s, self._poll)

    def _poll(self) -> None:
        self._schedule_poll()  # first, so that a poll that fails is not the last
        for device in self._devices.values():
            device.poll()

    def _report_lost(self, lost: frozenset[tuple[str, int]]) -> None:
        if self.on_lost is None:
            return
        try:
            self.on_lost(lost)
        except Exception:
            logger.exception("on_lost failed for %s", sorted(lost))

    async def _wait_all_gone(self, within_s: float) -> bool:
        waiting = [asyncio.ensure_future(device.wait_gone()) for device in self._devices.values()]
        if not waiting:
            return True
        _, pending = await asyncio.wait(waiting, timeout=within_s)
        for task in pending:
            task.cancel()
        return not pending
