"""The geometry of a scenario's timeline: raw samples in, SVG path data out. No markup here.

Time runs over `WIDTH` units, one column each `COLUMN`; a series is `HEIGHT` units high. A column that holds
several probes is drawn from its fastest to its slowest, and every failed probe keeps its tick, so that
reducing never hides a maximum, a failure or a gap: gaps are drawn from the report's own bounds, not from
the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from scenarios.record import CallRecord, Sample, ScenarioRecord, SeriesState
from scenarios.report import summary
from scenarios.report.numbers import duration, moment, power_of_ten

WIDTH: Final = 1000
COLUMN: Final = 2
HEIGHT: Final = 600
FAIL_STRIP: Final = 90
"""The top of a series' drawing belongs to probes that got no good answer."""
LATE_REACH: Final = 25
"""Late answers are bars, not dots, so that they can be told apart without their colour."""
CALLS_DRAWN: Final = 24
_NICE_STEPS_S: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis, in percent of its length."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled stretch of time, in percent of the width."""

    start: float
    width: float
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class DrawnSeries:
    """One endpoint: path data of good, late and failed probes, and where it was dark."""

    name: str
    state: SeriesState
    watched: bool
    good: str
    late: str
    failed: str
    wrong: str
    gaps: tuple[Span, ...]
    budget_y: float | None
    alt_text: str


@dataclass(frozen=True, slots=True)
class DrawnCall:
    """One stuck call as a bar, in percent; `open` when it never ended."""

    y: float
    start: float
    width: float
    open: bool
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything the template needs to draw one scenario."""

    start_s: float
    end_s: float
    floor_s: float
    ceiling_s: float
    window: Span | None
    phases: tuple[Span, ...]
    events: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    scale: tuple[Tick, ...]
    grid: str
    series: tuple[DrawnSeries, ...]
    calls: tuple[DrawnCall, ...]
    probes: int
    columns: int
    reduced: bool


def draw(scenario: ScenarioRecord) -> Timeline | None:
    """Lay out a scenario; None where it has no samples to draw."""
    every = [s for row in scenario.samples.values() for s in row]
    if not every:
        return None
    start_s, end_s = _extent(scenario, every)
    floor_s, ceiling_s = _decades(scenario, every)
    axis = _Axis(start_s, end_s, floor_s, ceiling_s)
    closed_s = scenario.window.closed_s
    ticks, scale = tuple(_time_ticks(axis)), tuple(_latency_ticks(axis))
    drawn = [
        _series(scenario, name, axis) for name in summary.series_names(scenario) if scenario.samples.get(name)
    ]
    return Timeline(
        start_s=start_s,
        end_s=end_s,
        floor_s=floor_s,
        ceiling_s=ceiling_s,
        window=None
        if closed_s is None
        else axis.span(0.0, closed_s, "fault window", f"fault window, {duration(closed_s)}"),
        phases=_phases(scenario, axis),
        events=tuple(
            Tick(axis.percent(at_s), label)
            for label, at_s in _bite_events(scenario)
            if start_s <= at_s <= end_s
        ),
        ticks=ticks,
        scale=scale,
        grid=grid_path(ticks, scale),
        series=tuple(series for series, _ in drawn),
        calls=_calls(scenario.stuck.calls, axis),
        probes=len(every),
        columns=WIDTH // COLUMN,
        reduced=any(merged for _, merged in drawn),
    )


def grid_path(across: Iterable[Tick], up: Iterable[Tick]) -> str:
    """A line for each tick."""
    down = (f"M{tick.at * WIDTH / 100:.0f} 0v{HEIGHT}" for tick in across)
    return "".join([*down, *(f"M0 {tick.at * HEIGHT / 100:.0f}h{WIDTH}" for tick in up)])


@dataclass(frozen=True, slots=True)
class _Axis:
    start_s: float
    end_s: float
    floor_s: float
    ceiling_s: float

    def percent(self, at_s: float) -> float:
        share = (at_s - self.start_s) / (self.end_s - self.start_s)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def column(self, at_s: float) -> int:
        share = (at_s - self.start_s) / (self.end_s - self.start_s)
        return COLUMN * min(WIDTH // COLUMN - 1, max(0, int(share * WIDTH / COLUMN))) + COLUMN // 2

    def y(self, latency_s: float) -> int:
        """Log scale: the ceiling just under the strip of failures, the floor at the bottom."""
        span = math.log10(self.ceiling_s / self.floor_s)
        share = math.log10(min(self.ceiling_s, max(self.floor_s, latency_s)) / self.floor_s) / span
        return round(HEIGHT - share * (HEIGHT - FAIL_STRIP))

    def span(self, from_s: float, to_s: float, label: str, title: str) -> Span:
        start = self.percent(from_s)
        return Span(start, round(self.percent(to_s) - start, 2), label, title)


def _extent(scenario: ScenarioRecord, samples: Iterable[Sample]) -> tuple[float, float]:
    """From the first probe to the last, and the fault window in any case. What a phase needed before or
    after that (starting the server, looking for leaks) has nothing to draw.
    """
    times = [s.at_s for s in samples] + [0.0, scenario.window.closed_s or 0.0]
    return min(times), max(max(times), min(times) + 0.001)


def _decades(scenario: ScenarioRecord, samples: Iterable[Sample]) -> tuple[float, float]:
    took = [s.latency_s for s in samples if s.outcome == "ok" and s.latency_s is not None and s.latency_s > 0]
    budgets = [series.budget_s for series in scenario.series.values()]
    low, high = min([*took, 0.01]), max([*took, *budgets, 0.01])
    return max(1e-6, 10.0 ** math.floor(math.log10(low))), 10.0 ** math.ceil(math.log10(high))


def _series(scenario: ScenarioRecord, name: str, axis: _Axis) -> tuple[DrawnSeries, bool]:
    known = scenario.series.get(name)
    budget_s = known.budget_s if known else math.inf
    answered: dict[int, list[float]] = {}
    failed: set[int] = set()
    wrong: set[int] = set()
    merged = False
    for s in scenario.samples[name]:
        column = axis.column(s.at_s)
        if s.outcome == "ok" and s.latency_s is not None:
            merged = merged or column in answered
            answered.setdefault(column, []).append(s.latency_s)
        elif s.outcome == "wrong":
            wrong.add(column)
        elif s.outcome != "cut":
            failed.add(column)
    good = {c: seen for c, took in answered.items() if (seen := [t for t in took if t <= budget_s])}
    late = {c: seen for c, took in answered.items() if (seen := [t for t in took if t > budget_s])}
    state = summary.state(scenario, name)
    drawn = DrawnSeries(
        name=name,
        state=state,
        watched=known is None or known.watched,
        good=_bars(good, axis),
        late=_bars(late, axis, LATE_REACH),
        failed="".join(f"M{c} 12V{FAIL_STRIP - 22}" for c in sorted(failed)),
        wrong="".join(f"M{c} 12V{FAIL_STRIP - 22}" for c in sorted(wrong)),
        gaps=tuple(
            axis.span(a, b, duration(b - a), f"dark for {duration(b - a)}, from {moment(a)} to {moment(b)}")
            for a, b in scenario.dark_gaps.get(name, ())
        ),
        budget_y=round(axis.y(budget_s) / HEIGHT * 100, 2) if known else None,
        alt_text=_alt_text(scenario, name, state),
    )
    return drawn, merged


def _bars(columns: dict[int, list[float]], axis: _Axis, reach: int = 0) -> str:
    """One stroke a column, from its fastest to its slowest and `reach` beyond; round caps make a dot of a
    stroke without length.
    """
    return "".join(
        f"M{c} {axis.y(min(took)) + reach}V{axis.y(max(took)) - reach}" for c, took in sorted(columns.items())
    )


def _alt_text(scenario: ScenarioRecord, name: str, state: SeriesState) -> str:
    """What the drawing of a series shows, in words."""
    seen = scenario.phases.faulted.get(name)
    if seen is None:
        return f"{name}: not measured in the fault window"
    words = f"{name}: {seen.ok} of {seen.sent} probes answered in the fault window"
    if state == "dark":
        return f"{words}; dark for {duration(summary.longest_gap_s(scenario, name))}"
    return f"{words}; p99 {duration(None if seen.p99_ms is None else seen.p99_ms / 1000)}"


def _phases(scenario: ScenarioRecord, axis: _Axis) -> tuple[Span, ...]:
    """Marks that have a duration are the beginnings of phases; the others are moments inside them."""
    known = scenario.phase_durations_s or scenario.window.marks_s
    marks = sorted((mark for mark in scenario.window.marks_s.items() if mark[0] in known), key=lambda m: m[1])
    ends = [*(at_s for _, at_s in marks[1:]), axis.end_s]
    return tuple(
        axis.span(at_s, end_s, name, f"{name}: {moment(at_s)} to {moment(end_s)}, {duration(end_s - at_s)}")
        for (name, at_s), end_s in zip(marks, ends, strict=True)
        if end_s > at_s and end_s > axis.start_s and at_s < axis.end_s
    )


def _bite_events(scenario: ScenarioRecord) -> list[tuple[str, float]]:
    times = scenario.bite.times_s
    names = {"biting": "bites", "released": "released", "expired": "lease ran out"}
    return [(names[state], at_s) for state, at_s in times.items() if state in names]


def _time_ticks(axis: _Axis) -> Iterable[Tick]:
    length = axis.end_s - axis.start_s
    step = next((s for s in _NICE_STEPS_S if length / s <= 9), _NICE_STEPS_S[-1])
    n = math.ceil(axis.start_s / step)
    while n * step <= axis.end_s + 1e-9:
        yield Tick(axis.percent(n * step), moment(n * step))
        n += 1


def _latency_ticks(axis: _Axis) -> Iterable[Tick]:
    low, high = round(math.log10(axis.floor_s)), round(math.log10(axis.ceiling_s))
    for power in range(low, high + 1, 1 if high - low <= 3 else 2):
        at = axis.y(10.0**power) / HEIGHT * 100
        yield Tick(round(at, 2), power_of_ten(power))


def _calls(calls: tuple[CallRecord, ...], axis: _Axis) -> tuple[DrawnCall, ...]:
    """The calls as bars, evenly thinned out where there are too many to tell apart; the longest always
    stays.
    """
    chosen = sorted(calls, key=lambda c: (c.began_s, c.n))
    if len(chosen) > CALLS_DRAWN:
        longest = max(chosen, key=lambda c: (math.inf if c.ended_s is None else c.ended_s) - c.began_s)
        step = len(chosen) / (CALLS_DRAWN - 1)
        thinned = {int(i * step) for i in range(CALLS_DRAWN - 1)} | {chosen.index(longest)}
        chosen = [chosen[i] for i in sorted(thinned)]
    rows = max(1, len(chosen))
    found = []
    for row, call in enumerate(chosen):
        end_s = axis.end_s if call.ended_s is None else call.ended_s
        span = axis.span(call.began_s, end_s, call.name, "")
        until = (
            "never ended"
            if call.ended_s is None
            else f"{call.outcome} after {duration(end_s - call.began_s)}"
        )
        found.append(
            DrawnCall(
                y=round((row + 0.5) / rows * 100, 2),
                start=span.start,
                width=max(span.width, 0.3),
                open=call.ended_s is None,
                title=f"{call.name} {call.n}: {until}" + (f" ({call.detail})" if call.detail else ""),
            )
        )
    return tuple(found)
