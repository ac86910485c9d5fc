"""The control process's side of the registry: commands to one actor per device, and a snapshot in memory."""

from pegaref.registry.handle import RegistryHandle
from pegaref.registry.link import ActorEvents, Launcher, Link, Vitals
from pegaref.registry.operations import Operation
from pegaref.registry.snapshot import ContextSummary, DeviceSnapshot, Hang, Phase, RegistrySnapshot

__all__ = [
    "ActorEvents",
    "ContextSummary",
    "DeviceSnapshot",
    "Hang",
    "Launcher",
    "Link",
    "Operation",
    "Phase",
    "RegistryHandle",
    "RegistrySnapshot",
    "Vitals",
]
