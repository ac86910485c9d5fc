"""Lit or dark: the rule, as a pure function of the samples and the window.

- lit: every probe of every watched lane that was meant to start in `[opened, judged_until]`, and was sent by
  `closed`, had the expected answer within its budget, and had it by `closed`;
- dark: some watched lane had no expected answer for longer than its budget, inside `[opened, closed]`;
- neither (None): some probes failed or were late, but no lane was silent for long enough.

An answer that is not the expected one is no answer. The live watch and a later re-judging of a stored report
call the same function on the same whole microseconds, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scenarios.judge.latency import deciding, gaps
from scenarios.record.model import Lane, Sample

MIN_SAMPLES = 5
"""A watched lane with fewer decided probes in its window says too little."""


@dataclass(frozen=True, slots=True)
class Observation:
    """`light` is None for neither. `detail` is why, in words. `dark_gaps`: silences over budget, by lane.
    `too_few`: lanes with fewer than `MIN_SAMPLES` probes to judge by; `fewest`: of the lanes' numbers of
    probes."""

    light: Literal["lit", "dark"] | None
    detail: str
    dark_gaps: Mapping[str, tuple[tuple[float, float], ...]]
    too_few: tuple[str, ...] = ()
    fewest: int = 0

    @property
    def probes(self) -> str:
        """Whether there were probes enough, in words."""
        if self.light == "dark":
            return "a silence longer than the budget takes no number of them"
        return "; ".join(self.too_few) or f"at least {self.fewest} in every watched lane"


def observe(
    lanes: Mapping[str, Lane],
    samples: Mapping[str, Sequence[Sample]],
    opened_s: float,
    judged_until_s: float,
    closed_s: float,
) -> Observation:
    """What the watched lanes did in the window, knowing only what was known at `closed_s`."""
    watched = {name: lane for name, lane in lanes.items() if lane.watched}
    dark = {
        name: silences
        for name, lane in watched.items()
        if (silences := _silences(samples.get(name, ()), lane.budget_s, opened_s, closed_s))
    }
    if dark:
        name, (first, *_) = next(iter(dark.items()))
        others = f" (and {len(dark) - 1} more)" if len(dark) > 1 else ""
        detail = f"{name} answered nothing for {first[1] - first[0]:.2f} s{others}"
        return Observation("dark", detail, dark)
    judged = {name: deciding(samples.get(name, ()), opened_s, judged_until_s, closed_s) for name in watched}
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
