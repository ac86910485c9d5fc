"""One scenario: a row of a suite on one target, with everything resolved."""

from __future__ import annotations

from dataclasses import dataclass

from scenarios.suite.model import After, CallsDo, Expectation, Row, Timing
from scenarios.target import Call, LoadedTarget


@dataclass(frozen=True, slots=True)
class Scenario:
    """`row@target`. `controls` are the names of scenarios that must go dark in the same run."""

    name: str
    row: Row
    target: LoadedTarget
    expected: Expectation
    after: After
    calls: CallsDo
    call: Call | None
    controls: tuple[str, ...]
    timing: Timing

    @property
    def destroys(self) -> bool:
        """Whether the target's server is not there any more afterwards."""
        return self.after == "gone"
