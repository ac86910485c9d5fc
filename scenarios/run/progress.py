"""What a run tells while it runs."""

from __future__ import annotations

from typing import Final, Protocol

from scenarios.record import ScenarioRecord

PHASES: Final = ("start", "baseline", "arm", "bite", "watch", "release", "recover")
"""The phases of a scenario, in order; one that failed in a phase never entered those after it."""


class Progress(Protocol):
    """Told of every phase and every verdict, in the order in which they happen."""

    def say(self, text: str) -> None:
        """Something other than a scenario takes long: a line that says what is going on."""

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
