"""The one way to the tensors: typed calls with deadlines, and a snapshot that never waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from pegaref.clock import Clock, DeadlineHeap, LoopClock
from pegaref.errors import (
    CleanupPending,
    DeadlineExpired,
    InvalidCommand,
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
from pegaref.registry.deadline import answer_within_s
from pegaref.registry.device import Device
from pegaref.registry.entry import Cleanup
from pegaref.registry.link import Launcher
from pegaref.registry.operations import Operation, Operations, outcome_of
from pegaref.registry.settings import RegistrySettings
from pegaref.registry.snapshot import ContextSummary, RegistrySnapshot
from pegaref.registry.supervisor import look_every_s
from pegaref.registry.validation import check_device, check_instance, check_register

logger = logging.getLogger(__name__)

OnLost = Callable[[frozenset[tuple[str, int]]], None]
DEFAULTS = RegistrySettings()
FORCE_AFTER_SHARE = 0.7  # of the grace: then an actor that has not ended by itself is killed

CLEAR = Clear()

Outcome = Dropped | RegistryError


class RegistryHandle:
    """Owns one actor per device. Used from one event loop only.

    `on_lost` is called with the (instance, generation) pairs whose tensors an actor took with it when it
    died; set it before start.
    """

    on_lost: OnLost | None

    def __init__(
        self,
        devices: Collection[int],
        launcher: Launcher,
        *,
        settings: RegistrySettings = DEFAULTS,
        clock: Clock | None = None,
    ) -> None:
        if not devices or len(set(devices)) != len(devices) or min(devices) < 0:
            raise InvalidCommand("name each device once, from 0 on, and at least one", field="devices")
        self.on_lost = None
        self._device_ids = tuple(sorted(devices))
        self._launcher = launcher
        self._settings = settings
        self._clock = clock
        self._deadlines: DeadlineHeap | None = None
        self._devices: dict[int, Device] = {}
        self._operations = Operations()
        self._closed = False

    async def start(self) -> None:
        """Launch the actors, and do not wait until they are ready."""
        self._deadlines = DeadlineHeap(self._clock or LoopClock(asyncio.get_running_loop()))
        for device_id in self._device_ids:
            self._devices[device_id] = Device(
                device_id, self._launcher, self._settings, self._deadlines, self._tell_lost
            )
        for device in self._devices.values():
            device.keeper.launch()
        self._look(first=True)

    async def close(self, *, grace_s: float) -> None:
        """End the actors within about `grace_s`, even when they hang. What waits gets ShuttingDown."""
        self._closed = True
        if self._deadlines is not None:
            self._deadlines.stop()
        devices = self._devices.values()
        for device in devices:
            device.close()
        if await self._all_gone(grace_s * FORCE_AFTER_SHARE):
            return
        for device in devices:
            device.keeper.close(force=True)
        if not await self._all_gone(grace_s * (1 - FORCE_AFTER_SHARE)):
            logger.error("an actor does not end; it is left behind")

    async def register(self, command: RegisterLayers, *, deadline_s: float) -> Registered:
        """Map a context's layers, all or none.

        Answers a little before `deadline_s` at the latest. A caller that is cancelled leaves nothing mapped.
        Raises InvalidCommand, AlreadyExists, MailboxFull, DeviceUnavailable (DeviceWedged, DeviceLost,
        ShuttingDown), OutcomeUnknown, DeadlineExpired, Superseded, ActorRefused.
        """
        check_register(command, self._device_ids)
        if deadline_s <= 0:
            raise DeadlineExpired("the deadline had passed when the call came")
        device = self._device(command.key.device_id)
        entry = device.submit(command, deadline_s)
        try:
            return await entry.future
        except asyncio.CancelledError:
            device.abandon(entry)
            raise

    async def drop_instance(self, instance_id: str, *, generation: int | None, deadline_s: float) -> Dropped:
        """Release an instance's contexts on all devices: those of one generation, or all (None).

        Registers of it that still wait are refused with Superseded; it is never refused itself.
        Raises CleanupPending when a device takes longer than `deadline_s`, or is known to hang: the cleanup
        is carried out all the same, whether or not its caller stays.
        """
        check_instance(instance_id)
        self._refuse_if_closed()
        command = DropInstance(instance_id, None if generation is None else (generation,))
        parts = {device_id: device.clean(command) for device_id, device in self._devices.items()}
        which = "" if generation is None else f" generation {generation}"
        return await self._merged(f"instance {instance_id}{which}", parts, deadline_s)

    async def drop_context(self, key: ContextKey, *, deadline_s: float) -> Dropped:
        """Release one context; as drop_instance."""
        check_device(key.device_id, self._device_ids)
        self._refuse_if_closed()
        parts = {key.device_id: self._device(key.device_id).clean(DropContext(key))}
        return await self._merged(f"context {key}", parts, deadline_s)

    async def clear(self, *, deadline_s: float) -> Mapping[int, Outcome]:
        """Release everything, with an outcome per device; those to come have a CleanupPending. Never raises
        for a device."""
        self._refuse_if_closed()
        parts = {device_id: device.clean(CLEAR) for device_id, device in self._devices.items()}
        operation_id = await self._outlast("clear", parts, deadline_s)
        return {device_id: self._outcome(part, operation_id) for device_id, part in parts.items()}

    def operation(self, operation_id: str) -> Operation | None:
        """The cleanup that a CleanupPending named; None when it is unknown or long finished."""
        return self._operations.get(operation_id)

    def snapshot(self) -> RegistrySnapshot:
        """How it is now, from memory."""
        return RegistrySnapshot({device_id: device.snapshot() for device_id, device in self._devices.items()})

    def contexts(self) -> tuple[ContextSummary, ...]:
        """The contexts that the registry holds, in the order of their keys."""
        found = [summary for device in self._devices.values() for summary in device.contexts()]
        return tuple(sorted(found, key=lambda summary: summary.key))

    # ---- cleanups: wait for all devices, but not for ever

    async def _merged(
        self, target: str, parts: Mapping[int, Cleanup | Dropped], deadline_s: float
    ) -> Dropped:
        operation_id = await self._outlast(target, parts, deadline_s)
        done: list[Dropped] = []
        for part in parts.values():
            outcome = self._outcome(part, operation_id)
            if isinstance(outcome, RegistryError):
                raise outcome
            done.append(outcome)
        return merge_dropped(tuple(done))

    async def _outlast(self, target: str, parts: Mapping[int, Cleanup | Dropped], deadline_s: float) -> str:
        """Wait for the parts until the deadline; '' or the id of the operation that goes on."""
        waiting: list[Cleanup] = []
        hanging = False
        for device_id, part in parts.items():
            if isinstance(part, Cleanup) and part.outcome is None:
                device = self._devices[device_id]
                if not device.keeper.able and device.hangs:
                    hanging = True
                else:
                    waiting.append(part)
        if waiting:
            patience = _Patience(len(waiting))
            for part in waiting:
                part.on_done[id(patience)] = patience.one_done
            deadlines = self._deadlines
            assert deadlines is not None
            timer = deadlines.call_at(deadlines.now() + answer_within_s(deadline_s), patience.end)
            try:
                await patience.waiter
            finally:
                timer.cancel()
                if patience.left:
                    hanging = True
                    for part in waiting:
                        part.on_done.pop(id(patience), None)
        return self._operations.open(target, parts) if hanging else ""

    def _outcome(self, part: Cleanup | Dropped, operation_id: str) -> Outcome:
        outcome = outcome_of(part)
        if outcome is not None:
            return outcome
        return CleanupPending(
            f"the cleanup is not done yet; it goes on as operation {operation_id}",
            operation_id=operation_id,
            retry_after_s=self._settings.wedge_after_s,
        )

    # ---- life

    def _device(self, device_id: int) -> Device:
        self._refuse_if_closed()
        return self._devices[device_id]

    def _refuse_if_closed(self) -> None:
        if self._closed or not self._devices:
            raise ShuttingDown("the registry is not running")

    def _look(self, *, first: bool = False) -> None:
        assert self._deadlines is not None
        if not first:
            for device in self._devices.values():
                device.look()
        every_s = look_every_s(self._settings.wedge_after_s)
        self._deadlines.call_at(self._deadlines.now() + every_s, self._look)

    def _tell_lost(self, lost: frozenset[tuple[str, int]]) -> None:
        if self.on_lost is None:
            return
        try:
            self.on_lost(lost)
        except Exception:
            logger.exception("on_lost failed for %s", sorted(lost))

    async def _all_gone(self, within_s: float) -> bool:
        waiting = [asyncio.ensure_future(device.keeper.gone.wait()) for device in self._devices.values()]
        if not waiting:
            return True
        _, pending = await asyncio.wait(waiting, timeout=within_s)
        for task in pending:
            task.cancel()
        return not pending


class _Patience:
    """Waits for a number of cleanups, or for its deadline."""

    __slots__ = ("left", "waiter")

    def __init__(self, count: int) -> None:
        self.left = count
        self.waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def one_done(self) -> None:
        self.left -= 1
        if not self.left and not self.waiter.done():
            self.waiter.set_result(None)

    def end(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)
