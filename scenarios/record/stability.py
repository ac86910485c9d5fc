"""How steady the verdicts are when the same suite runs again and again. Pure: reports in, figures out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from scenarios.record.model import Report, Stability, Turn


def turn(report: Report, load: float) -> Turn:
    """What a run adds to the stability of its suite."""
    return Turn(
        seed=report.seed,
        duration_s=report.duration_s,
        load=round(load, 2),
        verdicts={scenario.name: scenario.verdict for scenario in report.scenarios},
        failures=report.suite.failures,
    )


def stability(turns: Sequence[Turn]) -> Stability:
    """Count flips, and runs in which a scenario did not pass, by scenario; those without any are left out."""
    names = dict.fromkeys(name for one in turns for name in one.verdicts)
    series = {name: [one.verdicts[name] for one in turns if name in one.verdicts] for name in names}
    return Stability(
        turns=tuple(turns),
        flips=_counted({name: _changes(given) for name, given in series.items()}),
        failing=_counted({name: sum(v != "pass" for v in given) for name, given in series.items()}),
    )


def turn_in_words(one: Turn) -> str:
    """`62 pass · 58.1 s · seed 2 · load 7.1`."""
    given = list(one.verdicts.values())
    counts = ", ".join(f"{given.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(given)))
    return f"{counts or 'nothing ran'} · {one.duration_s:.1f} s · seed {one.seed} · load {one.load:.1f}"


def in_words(found: Stability) -> str:
    """`20 runs × 62 scenarios, 1,240 verdicts: 0 flips, 0 not pass · 51 to 58 s a run · load 3.1 to 9.8`."""
    turns = found.turns
    took, loads = [one.duration_s for one in turns], [one.load for one in turns]
    most = max((len(one.verdicts) for one in turns), default=0)
    return (
        f"{len(turns)} runs × {most} scenarios, {found.verdicts:,} verdicts: "
        f"{sum(found.flips.values())} flips, {sum(found.failing.values())} not pass · "
        f"{min(took):.0f} to {max(took):.0f} s a run · load {min(loads):.1f} to {max(loads):.1f}"
    )


def _changes(given: Sequence[str]) -> int:
    return sum(a != b for a, b in itertools.pairwise(given))


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
