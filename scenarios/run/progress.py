"""What a run tells while it runs."""

from __future__ import annotations

from typing import Protocol

from scenarios.record.model import Scenario


class Progress(Protocol):
    """Told of every phase and every verdict, in the order in which they happen."""

    def say(self, text: str) -> None:
        """Something takes long that is no scenario: what is going on, in a line."""

    def phase(self, scenario: str, phase: str) -> None:
        """A scenario enters a phase."""

    def finished(self, scenario: Scenario) -> None:
        """A scenario is judged (its controls are looked at when all have finished)."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Nothing."""

    def phase(self, scenario: str, phase: str) -> None:
        """Nothing."""

    def finished(self, scenario: Scenario) -> None:
        """Nothing."""
