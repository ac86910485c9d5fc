"""The findings of a scenario's phases, and the raw record that is made of them for the judge.

Each phase returns its result, and the experiment alone puts them together, so that a scenario that ends
half-way has a record of all that was found until then. Times are `time.monotonic()` seconds until the record
is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

from faults import FaultStatus, UnknownFault, fault_info
from scenarios.judge.observation import Observation
from scenarios.record import (
    Admission,
    AssertionRecord,
    Bite,
    Expectation,
    FaultRecord,
    FaultWindow,
    Guard,
    LeakRecord,
    LoadRecord,
    ProberHealth,
    ProcessesBroken,
    ScenarioRecord,
    ServerStop,
    SimultaneousFault,
    Stack,
    StuckCalls,
    relative,
)
from scenarios.run.calls import ScenarioCalls
from scenarios.run.progress import PHASES
from scenarios.run.watch import Samples
from scenarios.spec import Row, Scenario
from scenarios.spec.suite import FurtherFault
from scenarios.traffic.load.facts import LoadFacts

Stretch = tuple[float, float]


@dataclass(frozen=True, slots=True)
class FaultStatuses:
    """The statuses of the row's own fault and of those that bit at the same time, in the row's order."""

    own: FaultStatus
    also: tuple[FaultStatus, ...]


@dataclass(frozen=True, slots=True)
class WindowOpening:
    """When the fault window opened, until when probes are judged, and the opening in ISO 8601."""

    opened_s: float
    judged_until_s: float
    opened_at: str


@dataclass(frozen=True, slots=True)
class WindowClosing:
    """When the fault window closed, what the watch saw in it, and where the wedged processes stood."""

    closed_s: float
    seen: Observation
    stacks: tuple[Stack, ...]


@dataclass(frozen=True, slots=True)
class ScenarioResults:
    """The findings so far; None means not reached. `pending_calls`: how many of the row's own calls had not
    ended when the window closed. `admission`: what the readiness probes have to admit."""

    guards: tuple[Guard, ...] = ()
    baseline_s: Stretch | None = None
    opening: WindowOpening | None = None
    closing: WindowClosing | None = None
    faults: FaultStatuses | None = None
    pending_calls: int = 0
    admission: Admission | None = None
    processes: ProcessesBroken = field(default_factory=ProcessesBroken)
    assertions: tuple[AssertionRecord, ...] = ()
    stopped: ServerStop | None = None
    loads: tuple[LoadFacts, ...] = ()
    recovered_s: Stretch | None = None
    leaks: LeakRecord | None = None

    def with_guards(self, *guards: Guard) -> Self:
        """These results with further guards."""
        return replace(self, guards=(*self.guards, *guards))

    def as_expected(self, expected: Expectation) -> bool:
        """Whether the watch saw what the row expects, and every guard until now holds."""
        seen = self.closing.seen if self.closing is not None else None
        return (
            seen is not None
            and seen.observed == expected
            and not seen.too_few
            and all(guard.held for guard in self.guards)
        )


def raw_record(
    scenario: Scenario,
    results: ScenarioResults,
    reproduce: str,
    marks_s: Mapping[str, float],
    ended_s: float,
    calls: ScenarioCalls | None = None,
    samples: Samples | None = None,
) -> ScenarioRecord:
    """The raw record for the judge. `marks_s` has at least the phase "start"."""
    row, opening, closing = scenario.row, results.opening, results.closing
    origin_s = opening.opened_s if opening is not None else marks_s["start"]
    return ScenarioRecord(
        name=scenario.name,
        target=scenario.target.name,
        fault=_fault(row),
        expected=scenario.expected,
        pinned=scenario.pinned,
        bite=_bite(results.faults.own, origin_s) if results.faults is not None else Bite(),
        stuck=calls.stuck(origin_s, results.pending_calls)
        if calls is not None
        else StuckCalls(expected=scenario.calls),
        admission=_admission(results.admission, origin_s),
        processes=results.processes,
        leaks=results.leaks or LeakRecord(),
        duration_s=round(ended_s - marks_s["start"], 3),
        reproduce=reproduce,
        guards=results.guards,
        summary=row.summary,
        stands_for=row.stands_for,
        after=scenario.after,
        window=FaultWindow(
            judged_until_s=relative(opening.judged_until_s, origin_s) if opening is not None else None,
            closed_s=relative(closing.closed_s, origin_s) if closing is not None else None,
            opened_at=opening.opened_at if opening is not None else None,
            marks_s={name: relative(at_s, origin_s) for name, at_s in marks_s.items()},
            baseline_s=_stretch(results.baseline_s, origin_s),
            recovered_s=_stretch(results.recovered_s, origin_s),
        ),
        series=dict(samples.series) if samples is not None else {},
        samples=samples.relative(origin_s) if samples is not None else {},
        prober=samples.prober_health() if samples is not None else ProberHealth(),
        controls=scenario.controls,
        stacks=closing.stacks if closing is not None else (),
        also=_also(scenario, results.faults, origin_s),
        beside=calls.extra_records(origin_s) if calls is not None else (),
        said=results.assertions,
        loads=tuple(map(_load, results.loads)),
        stopped=results.stopped,
        phase_durations_s=_durations(marks_s, ended_s),
    )


def _admission(given: Admission | None, origin_s: float) -> Admission | None:
    """What has to be admitted, with times relative to `origin_s`; the judge finds the rest once more."""
    if given is None:
        return None
    return Admission(
        within_s=given.within_s,
        series=given.series,
        armed_s=relative(given.armed_s, origin_s),
        stuck_s=relative(given.stuck_s, origin_s),
    )


def _bite(status: FaultStatus, origin_s: float) -> Bite:
    return Bite(
        hits=status.hits,
        evidence=status.evidence,
        held_s=round(status.held_s, 3),
        state=str(status.state),
        times_s={str(state): relative(at_s, origin_s) for state, at_s in status.times.items()},
    )


def _also(
    scenario: Scenario, statuses: FaultStatuses | None, origin_s: float
) -> tuple[SimultaneousFault, ...]:
    return tuple(
        SimultaneousFault(
            fault=_fault(also),
            bite=_bite(status, origin_s),
        )
        for also, status in zip(
            scenario.row.also, statuses.also if statuses is not None else (), strict=False
        )
    )


def _fault(armed: Row | FurtherFault) -> FaultRecord:
    """A fault for the report. A fault that is not in the catalogue could not be armed and is not a
    control."""
    try:
        is_control = fault_info(armed.fault).is_control
    except UnknownFault:
        is_control = False
    return FaultRecord(
        name=armed.fault,
        params=armed.params,
        process=armed.process,
        trigger=armed.trigger,
        is_control=is_control,
    )


def _load(load: LoadFacts) -> LoadRecord:
    counted = msgspec.convert(load, LoadRecord, from_attributes=True)
    return msgspec.structs.replace(counted, there=load.sustained)


def _stretch(stretch: Stretch | None, origin_s: float) -> Stretch | None:
    return None if stretch is None else (relative(stretch[0], origin_s), relative(stretch[1], origin_s))


def _durations(marks_s: Mapping[str, float], ended_s: float) -> dict[str, float]:
    starts = [(name, marks_s[name]) for name in PHASES if name in marks_s]
    bounds = itertools.pairwise([*starts, ("", ended_s)])
    return {name: round(end_s - at_s, 3) for (name, at_s), (_, end_s) in bounds}
