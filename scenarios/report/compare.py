"""Two runs side by side: what changed its verdict, what is new or gone, what became slower under the fault.

Latencies of two machines, or of one machine on two days, cannot be compared. The ratio of an endpoint's
latency under the fault to that just before it can. So a slow machine is not a regression, and neither is a
difference within the noise threshold or the floor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from scenarios.judge.pool import belongs_in_pool, pool
from scenarios.record import Distribution, Expectation, Observed, Report, ScenarioRecord, Verdict
from scenarios.report import numbers, summary

SCHEMA: Final = "wedge-compare/1"
NOISE: Final = 2.0
FLOOR_MS: Final = 5.0
_ADMISSION_FLOOR_S: Final = 0.5

Percentile = Literal["p50", "p99", "p999"]
MIN_ANSWERS: Final[dict[Percentile, int]] = {"p50": 8, "p99": 100, "p999": 1_000}
"""With fewer answers on either side the number is no percentile but a single probe's luck."""


class VerdictChange(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario whose verdict, expectation or observation differs. Only a pass that is lost is a regression;
    one that still passes because it is no longer expected to stay lit is shown as `weaker`.
    """

    name: str
    kind: Literal["regressed", "fixed", "weaker", "changed"]
    old: Verdict
    new: Verdict
    old_expected: Expectation
    new_expected: Expectation
    old_observed: Observed
    new_observed: Observed
    reasons: tuple[str, ...] = ()
    reproduce: str = ""


class LatencyShift(msgspec.Struct, frozen=True, kw_only=True):
    """A series whose faulted over baseline ratio moved by more than `noise`. `factor` is the new ratio over
    the old one: above 1 it became slower under the fault. `old_ms` and `new_ms` are the faulted latencies.
    """

    series: str = msgspec.field(name="lane")
    percentile: Percentile
    kind: Literal["slower", "faster"]
    factor: float
    old_ratio: float
    new_ratio: float
    old_ms: float
    new_ms: float


class LatencyChange(LatencyShift, frozen=True, kw_only=True):
    """A shift in one scenario, by its `name`."""

    name: str


class PooledChange(LatencyShift, frozen=True, kw_only=True):
    """A shift in the latencies of a target's series, added up over the `scenarios` that both runs have."""

    target: str
    scenarios: int


class AdmissionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario whose time to admit moved by more than `noise`; None is a server that never did. It is shown
    and no regression by itself: a limit is `admits_within_s`."""

    name: str
    old_s: float | None
    new_s: float | None


class UnmatchedScenario(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario that only one of the runs has. `not_run` is the other run's reason, if it gives one."""

    name: str
    verdict: Verdict
    not_run: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What `wedge compare --json` prints. The exit code is 1 if `regressed`."""

    schema: Literal["wedge-compare/1"] = SCHEMA
    regressed: bool
    noise: float
    floor_ms: float
    compared: int
    verdicts: tuple[VerdictChange, ...]
    latencies: tuple[LatencyChange, ...]
    pooled: tuple[PooledChange, ...] = ()
    admissions: tuple[AdmissionChange, ...] = ()
    added: tuple[UnmatchedScenario, ...]
    removed: tuple[UnmatchedScenario, ...]


def compare(old: Report, new: Report, *, noise: float = NOISE, floor_ms: float = FLOOR_MS) -> Comparison:
    """Compare two runs, scenario by scenario, by name.

    A latency counts as slower when its ratio is more than `noise` times the old one *and* the faulted
    latency is more than `floor_ms` above what the old ratio would have made of the new baseline. Endpoints
    that were not lit on both sides have no latency to compare. A ratio below 1 counts as 1: no fault makes a
    server faster, so a baseline that was slower than the fault window was only noisier.

    The same rule is applied to each target's series over all scenarios that both runs have; together they
    have enough answers to judge the tail. Raises `UnreadableHistogram`.
    """
    before = {s.name: s for s in old.scenarios}
    after = {s.name: s for s in new.scenarios}
    both = [(before[name], s) for name, s in after.items() if name in before]
    verdicts = tuple(change for a, b in both if (change := _verdict(a, b)) is not None)
    latencies = tuple(change for a, b in both for change in _latencies(a, b, noise, floor_ms))
    in_sum = tuple(_pooled_changes(both, noise, floor_ms))
    slower = any(c.kind == "slower" for c in (*latencies, *in_sum))
    return Comparison(
        regressed=slower or any(c.kind == "regressed" for c in verdicts),
        noise=noise,
        floor_ms=floor_ms,
        compared=len(both),
        verdicts=tuple(sorted(verdicts, key=lambda c: c.kind != "regressed")),
        latencies=tuple(sorted(latencies, key=lambda c: (c.kind == "faster", -c.factor))),
        pooled=tuple(sorted(in_sum, key=lambda c: (c.kind == "faster", -c.factor))),
        admissions=tuple(said for a, b in both if (said := _admission(a, b, noise)) is not None),
        added=_unmatched(new, old),
        removed=_unmatched(old, new),
    )


def _unmatched(one: Report, other: Report) -> tuple[UnmatchedScenario, ...]:
    """The scenarios of one run that the other has not."""
    has = {s.name for s in other.scenarios}
    reasons = {left.name: left.reason for left in other.not_run}
    return tuple(
        UnmatchedScenario(name=s.name, verdict=s.verdict, not_run=reasons.get(s.name, ""))
        for s in one.scenarios
        if s.name not in has
    )


def _verdict(old: ScenarioRecord, new: ScenarioRecord) -> VerdictChange | None:
    same = (old.verdict, old.expected, old.observed) == (new.verdict, new.expected, new.observed)
    if same:
        return None
    kind: Literal["regressed", "fixed", "weaker", "changed"] = "changed"
    if old.verdict == "pass" and new.verdict != "pass":
        kind = "regressed"
    elif old.verdict != "pass" and new.verdict == "pass" and old.expected == new.expected:
        kind = "fixed"
    elif new.verdict == "pass" and old.expected == "lit" != new.expected:
        kind = "weaker"
    return VerdictChange(
        name=new.name,
        kind=kind,
        old=old.verdict,
        new=new.verdict,
        old_expected=old.expected,
        new_expected=new.expected,
        old_observed=old.observed,
        new_observed=new.observed,
        reasons=new.reasons,
        reproduce=new.reproduce,
    )


def _admission(old: ScenarioRecord, new: ScenarioRecord, noise: float) -> AdmissionChange | None:
    both = (old.admission, new.admission)
    known = [one for one in both if one is not None and one.outcome in ("admitted", "lying")]
    if len(known) < 2:
        return None
    then_s, now_s = (found.took_s for found in known)
    if then_s is None or now_s is None:
        moved = then_s is not now_s
    else:
        moved = max(then_s, now_s) > noise * min(then_s, now_s) and abs(then_s - now_s) > _ADMISSION_FLOOR_S
    return AdmissionChange(name=new.name, old_s=then_s, new_s=now_s) if moved else None


def _latencies(
    old: ScenarioRecord, new: ScenarioRecord, noise: float, floor_ms: float
) -> Iterable[LatencyChange]:
    then, now = old.phases, new.phases
    for series in summary.watched_series(new):
        lit = summary.state(old, series) == summary.state(new, series) == "lit"
        if lit and series in then.baseline and series in now.baseline:
            moved = _shifts(
                series,
                (then.baseline[series], then.faulted[series]),
                (now.baseline[series], now.faulted[series]),
                noise,
                floor_ms,
            )
            yield from (LatencyChange(name=new.name, **msgspec.structs.asdict(change)) for change in moved)


def _pooled_changes(
    both: Sequence[tuple[ScenarioRecord, ScenarioRecord]], noise: float, floor_ms: float
) -> Iterable[PooledChange]:
    """The changes over the scenarios that are in the pool of both runs. Series with too few answers for a p99
    are left out, since they say less than the single scenarios.
    """
    pairs = [(a, b) for a, b in both if belongs_in_pool(a) and belongs_in_pool(b)]
    before, after = pool(a for a, _ in pairs), pool(b for _, b in pairs)
    for target, series, now in (
        (target, series, now) for target, pooled in after.items() for series, now in pooled.items()
    ):
        then = before.get(target, {}).get(series)
        if then is None or then.scenarios != now.scenarios:
            continue
        if (
            min(phase.ok for run in (then, now) for phase in (run.baseline, run.faulted))
            >= MIN_ANSWERS["p99"]
        ):
            moved = _shifts(
                series, (then.baseline, then.faulted), (now.baseline, now.faulted), noise, floor_ms
            )
            yield from (
                PooledChange(target=target, scenarios=now.scenarios, **msgspec.structs.asdict(change))
                for change in moved
            )


def _pair(phases: tuple[Distribution, Distribution], percentile: Percentile) -> tuple[float, float] | None:
    """Baseline and faulted latency in ms; None if too few probes were answered for this percentile."""
    if min(phase.ok for phase in phases) < MIN_ANSWERS[percentile]:
        return None
    below, above = (
        {"p50": phase.p50_ms, "p99": phase.p99_ms, "p999": phase.p999_ms}[percentile] for phase in phases
    )
    return (below, above) if below and above is not None else None


def _shifts(
    series: str,
    then: tuple[Distribution, Distribution],
    now: tuple[Distribution, Distribution],
    noise: float,
    floor_ms: float,
) -> Iterable[LatencyShift]:
    """The shifts of one series. `then` and `now` are its baseline and its fault window in either run."""
    for percentile in MIN_ANSWERS:
        before, after = _pair(then, percentile), _pair(now, percentile)
        if before is None or after is None:
            continue
        (old_base_ms, old_ms), (new_base_ms, new_ms) = before, after
        old_ratio, new_ratio = max(1.0, old_ms / old_base_ms), max(1.0, new_ms / new_base_ms)
        slower = new_ratio > noise * old_ratio and new_ms - old_ratio * new_base_ms > floor_ms
        faster = old_ratio > noise * new_ratio and old_ms - new_ratio * old_base_ms > floor_ms
        if slower or faster:
            yield LatencyShift(
                series=series,
                percentile=percentile,
                kind="slower" if slower else "faster",
                factor=round(new_ratio / old_ratio, 3),
                old_ratio=round(old_ratio, 3),
                new_ratio=round(new_ratio, 3),
                old_ms=old_ms,
                new_ms=new_ms,
            )


def encode(comparison: Comparison) -> bytes:
    """As JSON, indented by one space, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=1) + b"\n"


def lines(found: Comparison) -> Iterable[str]:
    """The comparison in words, regressions first, a change a line."""
    for change in found.verdicts:
        yield f"{change.kind:9}  {change.name}: {_moves(change)}"
        yield from (f"           {reason}" for reason in change.reasons)
        if change.kind == "regressed" and change.reproduce:
            yield f"           {change.reproduce}"
    yield from (_slowness(moved.name, moved) for moved in found.latencies)
    for change_in_sum in found.pooled:
        where = f"{change_in_sum.target}, {numbers.count(change_in_sum.scenarios, 'scenario')} together"
        yield _slowness(where, change_in_sum)
    for admitted in found.admissions:
        then, now = (
            "never" if s is None else f"after {numbers.duration(s)}" for s in (admitted.old_s, admitted.new_s)
        )
        yield f"admits     {admitted.name}: that its calls hang it admitted {then}, and now {now}"
    yield from (f"new        {listed.name}: {listed.verdict}" for listed in found.added)
    for listed in found.removed:
        reason = f"; not run: {listed.not_run}" if listed.not_run else ""
        yield f"removed    {listed.name}: was {listed.verdict}{reason}"
    lost = sum(c.kind == "regressed" for c in found.verdicts)
    lost += sum(c.kind == "slower" for c in (*found.latencies, *found.pooled))
    verdict = numbers.count(lost, "regression") if lost else "no regression"
    yield f"{verdict} in {numbers.count(found.compared, 'scenario')} that both runs have"


def _slowness(where: str, moved: LatencyShift) -> str:
    percentile = "p99.9" if moved.percentile == "p999" else moved.percentile
    return (
        f"{moved.kind:9}  {where}: {moved.series} {percentile} under the fault was "
        f"{numbers.ratio(moved.old_ratio)} its baseline, is {numbers.ratio(moved.new_ratio)} "
        f"({numbers.milliseconds(moved.old_ms)} then, {numbers.milliseconds(moved.new_ms)} now)"
    )


def _moves(change: VerdictChange) -> str:
    """`pass (lit) → fail (dark)`, with the expectation where it is another one."""
    expectation = ""
    if change.old_expected != change.new_expected:
        expectation = f"; it was expected {change.old_expected} and now {change.new_expected}"
    return f"{change.old} ({change.old_observed}) → {change.new} ({change.new_observed}){expectation}"
