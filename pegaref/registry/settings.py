"""The limits that the registry works within: one frozen value, made at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Defaults fit a server with up to 8 devices.

    `mailbox_commands` and `mailbox_bytes` bound what waits for one device.
    """

    wedge_after_s: float = 5.0
    on_wedge: Literal["report", "respawn"] = "report"
    mailbox_commands: int = 2048
    mailbox_bytes: int = 64 * MIB
    start_within_s: float = 120.0  # torch loads within this, or the actor counts as wedged
    kill_grace_s: float = 2.0  # an actor that lives longer than this after SIGKILL is quarantined
    backoff_first_s: float = 0.5  # before the second respawn in a row; the first comes at once
    backoff_most_s: float = 30.0
