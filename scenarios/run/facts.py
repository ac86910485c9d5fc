"""What is found out about one scenario while it runs, and the record made of it at the end."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import time
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec.structs import replace

from faults import FaultStatus
from scenarios.judge import kubelet
from scenarios.judge.latency import faulted, ratio, summary
from scenarios.judge.observe import Observation
from scenarios.judge.verdict import claim, judged, proof
from scenarios.record.figures import microsecond, relative
from scenarios.record.model import (
    Bite,
    Broken,
    Fault,
    Guard,
    Latency,
    Leaks,
    Loaded,
    Phases,
    Ratio,
    Said,
    Stack,
    Stopped,
    Stuck,
    Window,
)
from scenarios.record.model import Scenario as Record
from scenarios.run.samples import Samples
from scenarios.spec import Scenario
from scenarios.traffic.concurrent_calls import ConcurrentCalls
from scenarios.traffic.load import LoadFacts

PHASES = ("start", "baseline", "arm", "bite", "watch", "release", "recover")
"""In order; a scenario that failed in one never entered those after it."""


@dataclass(slots=True)
class Facts:
    """Times are `time.monotonic()` seconds. Filled in by the experiment, phase by phase."""

    scenario: Scenario
    seed: int
    began_s: float = field(default_factory=time.monotonic)
    marks_s: dict[str, float] = field(default_factory=dict)
    guards: list[Guard] = field(default_factory=list)
    samples: Samples | None = None
    status: FaultStatus | None = None
    also: tuple[FaultStatus, ...] = ()
    pile: ConcurrentCalls | None = None
    beside: tuple[ConcurrentCalls, ...] = ()
    said: tuple[Said, ...] = ()
    loads: tuple[LoadFacts, ...] = ()
    stopped: Stopped | None = None
    pending_in_window: int = 0
    seen: Observation | None = None
    opened_s: float | None = None
    opened_at: str | None = None
    judged_until_s: float | None = None
    closed_s: float | None = None
    baseline_s: tuple[float, float] | None = None
    recovered_s: tuple[float, float] | None = None
    leaks: Leaks = field(default_factory=Leaks)
    log: tuple[str, ...] = ()
    stacks: tuple[Stack, ...] = ()

    @property
    def light(self) -> Literal["lit", "dark"] | None:
        """What the watch saw; None for neither, and before it has seen anything."""
        return self.seen.light if self.seen is not None else None

    @property
    def as_expected(self) -> bool:
        """Whether the watch saw what the row expects, and every guard until now holds."""
        return self.light == self.scenario.expected and all(guard.held for guard in self.guards)

    def open(self, window_s: float) -> float:
        """The fault window opens now."""
        self.opened_s = microsecond(time.monotonic())
        self.judged_until_s = microsecond(self.opened_s + window_s)
        self.opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        return self.opened_s

    def mark(self, name: str) -> None:
        """Something happens now."""
        self.marks_s[name] = time.monotonic()

    def prove(self, name: str, held: bool, detail: str) -> None:
        """Note a guard without which nothing is proven."""
        self.guards.append(proof(name, held, detail))

    def claim(self, name: str, held: bool, detail: str) -> None:
        """Note a guard that the target has to hold."""
        self.guards.append(claim(name, held, detail))

    def record(self, reproduce: str) -> Record:
        """The scenario as the report has it, judged."""
        scenario, row = self.scenario, self.scenario.row
        ended_s = time.monotonic()
        origin_s = self.opened_s if self.opened_s is not None else self.began_s
        record = Record(
            name=scenario.name,
            target=scenario.target.name,
            fault=Fault(name=row.fault, params=row.params, process=row.process, trigger=row.trigger),
            expected=scenario.expected,
            observed="unproven",
            verdict="unproven",
            bite=self._bite(origin_s),
            stuck=self._stuck(origin_s),
            phases=self._phases(),
            leaks=self.leaks,
            duration_s=round(ended_s - self.began_s, 3),
            reproduce=reproduce,
            summary=row.summary,
            stands_for=row.stands_for,
            after=scenario.after,
            window=self._window(origin_s),
            lanes=dict(self.samples.lanes.described) if self.samples else {},
            samples=self.samples.relative(origin_s) if self.samples else {},
            dark_gaps=self._dark_gaps(origin_s),
            controls=scenario.controls,
            stacks=self.stacks,
            also=self._also(origin_s),
            beside=tuple(call for pile in self.beside for call in pile.records(origin_s)),
            said=self.said,
            loads=tuple(_loaded(load) for load in self.loads),
            stopped=self.stopped,
            phase_durations_s=self._durations(ended_s),
        )
        record = replace(record, ratios=_ratios(record.phases))
        if self.samples is not None:
            record = replace(record, prober=self.samples.prober())
        if record.window.closed_s is not None:
            record = replace(
                record, kubelet=kubelet.replay(record.lanes, record.samples, record.window.closed_s)
            )
        record = judged(record, self.guards, self.light or "unproven")
        return record if record.verdict == "pass" else replace(record, target_log=self.log)

    def _bite(self, origin_s: float) -> Bite:
        return Bite() if self.status is None else _bite(self.status, origin_s)

    def _also(self, origin_s: float) -> tuple[Broken, ...]:
        return tuple(
            Broken(
                fault=Fault(name=also.fault, params=also.params, process=also.process, trigger=also.trigger),
                bite=_bite(status, origin_s),
            )
            for also, status in zip(self.scenario.row.also, self.also, strict=False)
        )

    def _stuck(self, origin_s: float) -> Stuck:
        if self.pile is None:
            return Stuck(expected=self.scenario.calls)
        return Stuck(
            started=self.pile.started,
            pending_in_window=self.pending_in_window,
            ended_after_release=self.pile.started - self.pile.pending,
            expected=self.scenario.calls,
            calls=self.pile.records(origin_s),
        )

    def _phases(self) -> Phases:
        found = self.samples.so_far() if self.samples is not None else {}

        def over(stretch: tuple[float, float] | None) -> dict[str, Latency]:
            if stretch is None:
                return {}
            from_s, to_s = stretch
            return {name: summary(samples, from_s, to_s, math.inf) for name, samples in found.items()}

        under: dict[str, Latency] = {}
        if self.opened_s is not None and self.judged_until_s is not None and self.closed_s is not None:
            under = {
                name: faulted(samples, self.light, self.judged_until_s, self.closed_s, self.opened_s)
                for name, samples in found.items()
            }
        return Phases(baseline=over(self.baseline_s), faulted=under, recovered=over(self.recovered_s))

    def _window(self, origin_s: float) -> Window:
        return Window(
            judged_until_s=relative(self.judged_until_s, origin_s),
            closed_s=relative(self.closed_s, origin_s),
            opened_at=self.opened_at,
            marks_s={name: relative(at_s, origin_s) for name, at_s in self.marks_s.items()},
        )

    def _dark_gaps(self, origin_s: float) -> dict[str, tuple[tuple[float, float], ...]]:
        if self.seen is None:
            return {}
        return {
            name: tuple((relative(a, origin_s), relative(b, origin_s)) for a, b in gaps)
            for name, gaps in self.seen.dark_gaps.items()
        }

    def _durations(self, ended_s: float) -> dict[str, float]:
        starts = [(name, self.marks_s[name]) for name in PHASES if name in self.marks_s]
        bounds = itertools.pairwise([*starts, ("", ended_s)])
        return {name: round(end_s - at_s, 3) for (name, at_s), (_, end_s) in bounds}


def _bite(status: FaultStatus, origin_s: float) -> Bite:
    return Bite(
        hits=status.hits,
        evidence=status.evidence,
        held_s=round(status.held_s, 3),
        state=str(status.state),
        times_s={str(state): relative(at_s, origin_s) for state, at_s in status.times.items()},
    )


def _loaded(load: LoadFacts) -> Loaded:
    known = {field.name for field in msgspec.structs.fields(Loaded)}
    return Loaded(**{name: value for name, value in dataclasses.asdict(load).items() if name in known})


def _ratios(phases: Phases) -> dict[str, Ratio]:
    return {
        name: ratio(phases.baseline[name], faulted)
        for name, faulted in phases.faulted.items()
        if name in phases.baseline
    }
