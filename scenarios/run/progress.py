"""The progress that a run reports."""

from __future__ import annotations

from typing import Final, Protocol

from scenarios.record import ScenarioRecord

PHASES: Final = ("start", "baseline", "arm", "bite", "watch", "release", "recover")
"""The phases of a scenario, in order; one that failed in a phase never entered those after it."""


class Progress(Protocol):
    """Receives every phase and every verdict, in the order in which they happen."""

    def say(self, text: str) -> None:
        """A line about something other than a scenario that takes long."""

    def phase(self, scenario: str, phase: str) -> None:
        """A scenario enters one of the `PHASES`."""

    def finished(self, scenario: ScenarioRecord) -> None:
        """A scenario is judged by itself; its controls are considered when all scenarios have finished."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Not shown."""

    def phase(self, scenario: str, phase: str) -> None:
        """Not shown."""

    def finished(self, scenario: ScenarioRecord) -> None:
        """Not shown."""
