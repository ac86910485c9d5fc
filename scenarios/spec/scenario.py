"""One scenario: a row of a suite on one target, with everything resolved."""

from __future__ import annotations

from dataclasses import dataclass

from scenarios.spec.suite import After, CallsDo, Expectation, Row, Say, Timing, Traffic
from scenarios.spec.target import Call, GrpcProbe, HttpProbe
from scenarios.spec.target_file import LoadedTarget


@dataclass(frozen=True, slots=True)
class Beside:
    """Calls of a row besides its own traffic: the numbers `first` to `first + traffic.count - 1`."""

    call: Call
    traffic: Traffic
    first: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one endpoint must say."""

    probe: HttpProbe | GrpcProbe
    say: Say


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
    beside: tuple[Beside, ...] = ()
    says: tuple[Wanted, ...] = ()

    @property
    def destroys(self) -> bool:
        """Whether the target's server is not there any more afterwards."""
        return self.after == "gone"

    @property
    def timed_by_judge(self) -> bool:
        """Whether the judge's own clock decides any of it: what an endpoint says in time, or how soon a call
        ends.
        """
        traffic = (self.row.traffic, *(beside.traffic for beside in self.beside))
        return bool(self.says) or any(calls.within_s is not None for calls in traffic)
