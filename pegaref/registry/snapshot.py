"""The registry's state as the control process knows it, from memory and without asking an actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pegaref.messages import ContextKey


class Hang(StrEnum):
    """The kinds of hang that can be told apart from outside the actor."""

    STALLED = "stalled"  # the heartbeat goes on: the GIL is free, one call does not return
    GIL_HELD = "gil_held"  # the heartbeat stopped although the process may run
    STOPPED = "stopped"  # the process is stopped by a signal or a debugger (T)
    UNKILLABLE = "unkillable"  # it waits in the kernel without interruption (D), or outlived SIGKILL
    DEAD = "dead"  # there is no process


class Phase(StrEnum):
    """The phases of a device's actor."""

    STARTING = "starting"  # launched; torch is not loaded yet. Commands wait
    READY = "ready"
    WEDGED = "wedged"  # hangs; registers are refused at once, cleanups stay queued
    DEAD = "dead"  # no actor; one is launched when its backoff has passed
    QUARANTINED = "quarantined"  # it outlived SIGKILL and may still hold the GPU
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ContextSummary:
    """One context that the registry holds. `settled` is False while its register's outcome is not known."""

    key: ContextKey
    tensors: int
    bytes: int
    settled: bool


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device. Counters only grow and survive respawns. Ages are in seconds; 0.0 means none."""

    device_id: int
    device_type: str  # what its actor said that it has, `cuda` or `cpu`; '' until one has been ready
    phase: Phase
    ready: bool
    reason: str  # '' when ready
    hang: Hang | None
    hang_age_s: float
    traceback: str  # of the wedged actor; '' if none was taken
    epoch: int  # 1 for the first actor, one more for each that replaced it
    pid: int | None
    mailbox_depth: int  # registers that wait
    mailbox_bytes: int
    cleanup_depth: int  # cleanups that wait
    oldest_command_age_s: float
    contexts: int
    tensors: int
    bytes: int
    in_flight: Mapping[str, int]  # operation name -> commands that wait or run
    finished: Mapping[tuple[str, str], int]  # (operation, outcome) -> commands; outcome is a state's name
    respawns: int
    rejected: int  # refused because the mailbox was full
    rolled_back: int  # registers undone because nobody waited for them any more
    lost_replies: int
    unexpected_replies: int  # dropped, since no command waited for them: they came twice, or too late

    @property
    def started(self) -> bool:
        """Whether an actor of the device has been ready once, whatever became of it."""
        return bool(self.device_type)


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """All devices, by device id."""

    devices: Mapping[int, DeviceSnapshot] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether every device is ready."""
        return bool(self.devices) and all(device.ready for device in self.devices.values())

    @property
    def started(self) -> bool:
        """True, for good, once every device has been ready."""
        return bool(self.devices) and all(device.started for device in self.devices.values())
