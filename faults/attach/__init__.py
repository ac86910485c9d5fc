"""Ways into a running process that was not started for it."""

from faults.attach.enter import LOAD_WITHIN_S, attach
from faults.attach.outside import outside
from faults.attach.refusals import (
    AlreadyAttached,
    NeverLoaded,
    NoAgent,
    NoProcess,
    NotAllowed,
    NotAttachable,
    NotPython,
    ToolMissing,
    ToolUnfit,
)

__all__ = [
    "LOAD_WITHIN_S",
    "AlreadyAttached",
    "NeverLoaded",
    "NoAgent",
    "NoProcess",
    "NotAllowed",
    "NotAttachable",
    "NotPython",
    "ToolMissing",
    "ToolUnfit",
    "attach",
    "outside",
]
