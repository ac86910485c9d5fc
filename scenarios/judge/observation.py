"""Lit or dark: the rule, as a pure function of the samples and the window.

- lit: every probe of every watched series that was meant to start in `[opened, judged_until]`, and was sent
  by `closed`, had the expected answer within its budget, and had it by `closed`;
- dark: some watched series had no expected answer for longer than its budget, inside `[opened, closed]`;
- neither (None): some probes failed or were late, but no series was silent for long enough.

Where some of the processes that serve were broken and others were not (`in_part`), it must not depend on luck
which of them a connection leads to. So only fresh connections count, each series by itself: `lit` if every
probe was answered, `dark` if none was, `partial` if some were.

An answer that is not the expected one is no answer. The live watch and the judge call the same function on
the same whole microseconds, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from scenarios.judge.latency import decisive, gaps
from scenarios.record import Expectation, Sample, ScenarioRecord, Series, SeriesState

MIN_FRESH = 20
"""The fewest fresh connections that tell some processes from all of them."""

MIN_SAMPLES = 5
"""A watched series with fewer decisive probes than this in the window says too little."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen. `observed` is None where it was nothing that has a name, `detail` says why.
    `dark_gaps`: by series, the silences that were longer than its budget. `too_few`: the series with fewer
    than `MIN_SAMPLES` decisive probes, a line each; `fewest`: how many the series with the fewest had."""

    observed: Expectation | None
    detail: str
    dark_gaps: Mapping[str, tuple[tuple[float, float], ...]]
    too_few: tuple[str, ...] = ()
    fewest: int = 0

    @property
    def probes(self) -> str:
        """A sentence that says whether there were enough probes."""
        if self.observed == "dark":
            return "a silence longer than the budget takes no number of them"
        return "; ".join(self.too_few) or f"at least {self.fewest} in every watched series"


def observe(
    series: Mapping[str, Series],
    samples: Mapping[str, Sequence[Sample]],
    opened_s: float,
    judged_until_s: float,
    closed_s: float,
    *,
    in_part: bool = False,
) -> Observation:
    """What the watched series showed in the window, knowing only what was known at `closed_s`. `in_part`:
    some of the processes that serve were broken, and others were not."""
    if in_part and any(one.watched and one.connection == "fresh" for one in series.values()):
        return _observe_in_part(series, samples, opened_s, judged_until_s, closed_s)
    watched = {name: one for name, one in series.items() if one.watched}
    dark = {
        name: silences
        for name, one in watched.items()
        if (silences := _silences(samples.get(name, ()), one.budget_s, opened_s, closed_s))
    }
    if dark:
        name, (first, *_) = next(iter(dark.items()))
        others = f" (and {len(dark) - 1} more)" if len(dark) > 1 else ""
        detail = f"{name} answered nothing for {first[1] - first[0]:.2f} s{others}"
        return Observation("dark", detail, dark)
    judged = {name: decisive(samples.get(name, ()), opened_s, judged_until_s, closed_s) for name in watched}
    too_few = tuple(
        f"{name}: {len(found)} probes" for name, found in judged.items() if len(found) < MIN_SAMPLES
    )
    fewest = min(map(len, judged.values()), default=0)
    missed = {
        name: bad
        for name, found in judged.items()
        if (bad := [s for s in found if not _good(s, watched[name].budget_s, closed_s)])
    }
    if not missed and closed_s >= judged_until_s:
        count = sum(len(found) for found in judged.values())
        return Observation("lit", f"all {count} probes answered within budget", {}, too_few, fewest)
    detail = "; ".join(
        f"{name}: {len(bad)} of {len(judged[name])} probes missed ({_outcomes(bad, closed_s)})"
        for name, bad in missed.items()
    )
    return Observation(None, detail or "the window is still open", {}, too_few, fewest)


def _observe_in_part(
    series: Mapping[str, Series],
    samples: Mapping[str, Sequence[Sample]],
    opened_s: float,
    judged_until_s: float,
    closed_s: float,
) -> Observation:
    fresh = {name: one for name, one in series.items() if one.watched and one.connection == "fresh"}
    judged = {name: decisive(samples.get(name, ()), opened_s, judged_until_s, closed_s) for name in fresh}
    too_few = tuple(
        f"{name}: {len(found)} fresh connections"
        for name, found in judged.items()
        if len(found) < (MIN_SAMPLES if fresh[name].kind == "command" else MIN_FRESH)
    )
    fewest = min(map(len, judged.values()))
    answered = {
        name: sum(_good(s, fresh[name].budget_s, closed_s) for s in found) for name, found in judged.items()
    }
    if closed_s < judged_until_s or any(
        _under_way(s, fresh[name].budget_s, closed_s) for name, found in judged.items() for s in found
    ):
        return Observation(None, "the window is still open", {}, too_few, fewest)
    words = [f"{name}: {count} of {len(judged[name])} fresh connections" for name, count in answered.items()]
    detail = f"answered {'; '.join(words)}"
    dark = {name: gaps(samples.get(name, ()), opened_s, closed_s) for name, n in answered.items() if not n}
    if dark:
        return Observation("dark", detail, {name: tuple(found) for name, found in dark.items()}, (), fewest)
    whole = all(count == len(judged[name]) for name, count in answered.items())
    return Observation("lit" if whole else "partial", detail, {}, too_few, fewest)


def _under_way(sample: Sample, budget_s: float, closed_s: float) -> bool:
    """Whether an answer in time could still come."""
    ended = sample.ended_s is not None and sample.ended_s <= closed_s
    return not ended and closed_s - sample.at_s <= budget_s


def series_states(record: ScenarioRecord) -> dict[str, SeriesState]:
    """The state of every series of a scenario under the fault, watched or not.

    The rule is that of `observe` if there are samples; otherwise the state is derived, as far as possible,
    from the latencies of the fault window.
    """
    names = dict.fromkeys([*record.series, *record.phases.faulted, *record.samples])
    return {name: _series_state(record, name) for name in names}


def _series_state(record: ScenarioRecord, name: str) -> SeriesState:
    if record.dark_gaps.get(name):
        return "dark"
    latency, series, window = record.phases.faulted.get(name), record.series.get(name), record.window
    samples, closed_s = record.samples.get(name, ()), window.closed_s
    if series is not None and samples and closed_s is not None:
        until_s = closed_s - series.budget_s if window.judged_until_s is None else window.judged_until_s
        alone = {name: msgspec.structs.replace(series, watched=True)}
        seen = observe(alone, {name: samples}, window.opened_s, until_s, closed_s)
        return "lit" if seen.observed == "lit" else "missed"
    if latency is None or not latency.sent:
        return "unknown"
    late = series is not None and latency.max_ms is not None and latency.max_ms > 1000 * series.budget_s
    return "missed" if latency.ok < latency.sent or late else "lit"


def _silences(
    samples: Sequence[Sample], budget_s: float, opened_s: float, closed_s: float
) -> tuple[tuple[float, float], ...]:
    return tuple((a, b) for a, b in gaps(samples, opened_s, closed_s) if b - a > budget_s)


def _good(sample: Sample, budget_s: float, closed_s: float) -> bool:
    return (
        sample.outcome == "ok"
        and sample.ended_s is not None
        and sample.ended_s <= closed_s
        and sample.ended_s - sample.at_s <= budget_s
    )


def _outcomes(bad: Sequence[Sample], closed_s: float) -> str:
    kinds = [
        "late"
        if s.outcome == "ok" and s.ended_s is not None and s.ended_s <= closed_s
        else "unanswered"
        if s.outcome in ("ok", "cut")
        else s.outcome
        for s in bad
    ]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
