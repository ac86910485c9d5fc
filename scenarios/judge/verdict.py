"""One judge: from the raw record of a scenario to its verdict, in the live run and for a stored report.

The record's guards hold what only the run can know (whether the fault bit, what the calls did, what leaked),
and they are not changed. This module derives the rest from the samples: lit or dark, the gaps, the latencies
of every phase, the state of every series, the kubelet's view, and the guards that follow from them.

The verdict is `pass` if what was observed is what was expected and every guard held. A *proof* that is
missing (the fault did not bite, the baseline was not lit, there were too few samples, a control stayed lit)
makes a scenario `unproven`; a *claim* that does not hold makes it `fail`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Final, Literal

from msgspec.structs import replace

from scenarios.judge import kubelet
from scenarios.judge.admission import admission, with_admission
from scenarios.judge.latency import fault_window_latency, ratio, stretch_latency
from scenarios.judge.observation import Observation, observe, series_states
from scenarios.judge.wording import in_words
from scenarios.record import (
    Expectation,
    FaultWindow,
    Guard,
    Latency,
    Observed,
    PhaseLatencies,
    Sample,
    ScenarioRecord,
    Verdict,
)

_HELD: Final[dict[Expectation, str]] = {
    "lit": "stayed lit",
    "dark": "went dark",
    "partial": "was partial",
    "lying": "was lying",
}
_BROKEN: Final[dict[Expectation, str]] = {
    "lit": "had to stay lit",
    "dark": "had to go dark",
    "partial": "had to be partial",
    "lying": "had to be lying",
}
_FOUND: Final[dict[Observed, str]] = {
    "lit": "it stayed lit",
    "dark": "it went dark",
    "partial": "it was partial",
    "lying": "it was lying",
    "unproven": "it was neither lit nor dark",
}
"""The claim about what was observed: its name by what was expected, when it held and when it did not."""


def proof(name: str, held: bool, detail: str, about: Literal["target", "machine"] = "target") -> Guard:
    """A guard of the run without which nothing is proven."""
    return Guard(name=name, kind="proof", held=held, detail=detail, about=about)


def claim(name: str, held: bool, detail: str) -> Guard:
    """A guard of the run that the target has to hold."""
    return Guard(name=name, kind="claim", held=held, detail=detail)


def judge(record: ScenarioRecord) -> ScenarioRecord:
    """The record with everything that follows from its samples and from the guards of its run.

    Judging a judged record again changes nothing, except that it removes the guard on the controls: these are
    other scenarios, which `with_controls` handles. A record without guards stays as it is.
    """
    if not record.guards:
        return record
    guards = [guard for guard in record.guards if guard.by == "run"]
    window = record.window
    if window.closed_s is None or window.judged_until_s is None or not record.samples:
        return with_verdict(replace(record, states=series_states(record)), guards, None)
    seen = observe(
        record.series,
        record.samples,
        window.opened_s,
        window.judged_until_s,
        window.closed_s,
        in_part=record.processes.in_part,
    )
    if record.admission is not None:
        admitted = admission(record.admission, record.series, record.samples, window.closed_s)
        seen, record = with_admission(seen, admitted), replace(record, admission=admitted)
    phases = _phases(record, seen, window.judged_until_s, window.closed_s)
    measured = replace(
        record,
        dark_gaps=dict(seen.dark_gaps),
        phases=phases,
        ratios={
            name: ratio(phases.baseline[name], faulted)
            for name, faulted in phases.faulted.items()
            if name in phases.baseline
        },
        kubelet=kubelet.replay(
            record.series,
            record.samples,
            window.closed_s,
            record.kubelet.rules,
            record.kubelet.readiness_rules,
            record.kubelet.source,
            kubelet.recorded_series(record),
            kubelet.recorded_reasons(record),
        ),
    )
    if words := record.processes.words:
        seen = dataclasses.replace(seen, detail=f"{words}: {seen.detail}")
    measured = replace(measured, states=series_states(measured))
    watch = (
        Guard(name="watched", kind="proof", held=True, detail=seen.detail, by="judge", about="watch"),
        Guard(
            name="enough probes",
            kind="proof",
            held=not seen.too_few,
            detail=seen.probes,
            by="judge",
            about="probes",
        ),
    )
    return with_verdict(measured, [*guards, *watch], seen)


def with_verdict(record: ScenarioRecord, guards: Iterable[Guard], seen: Observation | None) -> ScenarioRecord:
    """The record with `observed`, `verdict`, `guards` and `reasons` filled in.

    `seen` is what the watch saw; None if the scenario ended before. It counts only if every proof held.
    """
    guards = tuple(guards)
    missing = any(guard.kind == "proof" and not guard.held for guard in guards)
    watched = seen.observed if seen is not None else None
    observed: Observed = "unproven" if missing or watched is None else watched
    if not missing:
        guards = (*guards, _expectation(record, observed, seen))
    broken = [guard for guard in guards if not guard.held]
    verdict: Verdict = "unproven" if missing else "fail" if broken else "pass"
    return replace(record, observed=observed, verdict=verdict, guards=guards, reasons=reasons(guards))


def reasons(guards: Iterable[Guard]) -> tuple[str, ...]:
    """Every guard that did not hold, a line each."""
    return tuple(in_words(guard) for guard in guards if not guard.held)


def _expectation(record: ScenarioRecord, observed: Observed, seen: Observation | None) -> Guard:
    """The claim that what was observed is what the row expects."""
    held = observed == record.expected
    detail = seen.detail if seen is not None else ""
    if not held:
        detail = f"{_FOUND[observed]} ({detail})" if detail else _FOUND[observed]
        if record.pinned:
            detail += (
                f"; [expect] of its target file says {record.pinned}: `wedge pin` writes what is seen now"
            )
    return Guard(
        name=(_HELD if held else _BROKEN)[record.expected],
        kind="claim",
        held=held,
        detail=detail,
        by="judge",
        about="expectation",
    )


def _phases(
    record: ScenarioRecord, seen: Observation, judged_until_s: float, closed_s: float
) -> PhaseLatencies:
    """The latencies of every phase. Where a report does not say in which stretch the baseline and the
    recovery were measured, their latencies stay as they are."""
    window: FaultWindow = record.window

    def over(stretch: tuple[float, float] | None, recorded: dict[str, Latency]) -> dict[str, Latency]:
        return recorded if stretch is None else _over(record.samples, *stretch)

    return PhaseLatencies(
        baseline=over(window.baseline_s, record.phases.baseline),
        faulted={
            name: fault_window_latency(samples, seen.observed, judged_until_s, closed_s, window.opened_s)
            for name, samples in record.samples.items()
        },
        recovered=over(window.recovered_s, record.phases.recovered),
    )


def _over(samples: dict[str, tuple[Sample, ...]], from_s: float, to_s: float) -> dict[str, Latency]:
    return {name: stretch_latency(found, from_s, to_s, math.inf) for name, found in samples.items()}
