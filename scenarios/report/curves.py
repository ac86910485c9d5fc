"""The geometry of the percentile plots: pooled histograms in, SVG path data out. No markup here.

Across, each step is ten times fewer answers: all, one in ten (90 %), one in a hundred (99 %), and so on, so
that the tail has the room that its importance asks for. Up, latency on a log scale, the same for all
endpoints of a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from scenarios.judge.histogram import Histogram
from scenarios.judge.pool import by_endpoint
from scenarios.record import Distribution, PooledLatency
from scenarios.report.numbers import milliseconds as ms
from scenarios.report.numbers import power_of_ten
from scenarios.report.timeline import HEIGHT, WIDTH, Tick, grid_path

_COLUMNS: Final = 200
_FEWEST_DECADES: Final = 2
_LABELS: Final = ("0", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %")


@dataclass(frozen=True, slots=True)
class Plot:
    """One endpoint: path data before and under the faults, and the figures that go with them."""

    endpoint: str
    baseline: Distribution
    faulted: Distribution
    baseline_path: str
    faulted_path: str
    alt_text: str


@dataclass(frozen=True, slots=True)
class Curves:
    """One target. `ticks` across and `scale` up are in percent."""

    target: str
    scenarios: int
    plots: tuple[Plot, ...]
    ticks: tuple[Tick, ...]
    scale: tuple[Tick, ...]
    grid: str


def draw(pooled: Mapping[str, Mapping[str, PooledLatency]]) -> tuple[Curves, ...]:
    """A set of plots for each target that anything was answered on, that of most scenarios first."""
    found = (_target(target, by_series) for target, by_series in pooled.items())
    return tuple(sorted((c for c in found if c is not None), key=lambda c: -c.scenarios))


def _target(target: str, pooled: Mapping[str, PooledLatency]) -> Curves | None:
    endpoints = by_endpoint(pooled)
    histograms = {
        name: (Histogram.decode(before.hdr), Histogram.decode(under.hdr))
        for name, (before, under) in endpoints.items()
    }
    every = [histogram for pair in histograms.values() for histogram in pair if histogram.count]
    if not every:
        return None
    low_s = min(histogram.percentiles((0.0,))[0] for histogram in every)
    high_s = max(histogram.percentiles((1.0,))[0] for histogram in every)
    low, high = math.floor(math.log10(low_s)), math.ceil(math.log10(high_s))
    axes = _Axes(
        decades=max(_FEWEST_DECADES, math.ceil(math.log10(max(histogram.count for histogram in every)))),
        low=low,
        high=max(high, low + 1),
    )
    ticks = tuple(
        Tick(round(100 * n / axes.decades, 2), label) for n, label in enumerate(_LABELS[: axes.decades])
    )
    scale = tuple(axes.scale())
    return Curves(
        target=target,
        scenarios=max(series.scenarios for series in pooled.values()),
        plots=tuple(
            Plot(
                endpoint=name,
                baseline=before,
                faulted=under,
                baseline_path=axes.path(histograms[name][0]),
                faulted_path=axes.path(histograms[name][1]),
                alt_text=_alt_text(name, before, under),
            )
            for name, (before, under) in endpoints.items()
        ),
        ticks=ticks,
        scale=scale,
        grid=grid_path(ticks, scale),
    )


@dataclass(frozen=True, slots=True)
class _Axes:
    """`decades` of ever fewer answers across, latencies from 10**low to 10**high seconds up."""

    decades: int
    low: int
    high: int

    def y(self, latency_s: float) -> int:
        return round(HEIGHT * (self.high - math.log10(latency_s)) / (self.high - self.low))

    def path(self, histogram: Histogram) -> str:
        """The SVG path of one histogram: stairs that end at its slowest answer."""
        if not histogram.count:
            return ""
        columns = round(_COLUMNS * math.log10(histogram.count) / self.decades)
        shares = [1 - 10 ** (-self.decades * column / _COLUMNS) for column in range(columns)]
        found, height = "", -1
        for column, latency_s in enumerate([*histogram.percentiles(shares), *histogram.percentiles((1.0,))]):
            if (y := self.y(latency_s)) != height:
                found += f"{'M' if not found else ''}{'' if not found else 'H'}{column * WIDTH // _COLUMNS}"
                found += f" {y}" if height < 0 else f"V{y}"
                height = y
        return f"{found}H{max(columns, 1) * WIDTH // _COLUMNS}"

    def scale(self) -> Iterable[Tick]:
        """A label a decade, or every other where there are many."""
        for power in range(self.low, self.high + 1, 1 if self.high - self.low <= 3 else 2):
            yield Tick(round(100 * (self.high - power) / (self.high - self.low), 2), power_of_ten(power))


def _alt_text(name: str, before: Distribution, under: Distribution) -> str:
    return (
        f"{name}: p50 {ms(before.p50_ms)} before and {ms(under.p50_ms)} under the faults, "
        f"p99 {ms(before.p99_ms)} and {ms(under.p99_ms)}, slowest {ms(before.max_ms)} and {ms(under.max_ms)}"
    )
