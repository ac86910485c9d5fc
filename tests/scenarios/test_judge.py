"""The rules, on made-up samples: lit, dark, neither; verdicts; controls; gaps and percentiles."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from scenarios.judge import claim, judge, proof, with_controls
from scenarios.judge.latency import fault_window_latency, percentile, stretch_latency
from scenarios.judge.observation import Observation, observe
from scenarios.judge.verdict import with_verdict
from scenarios.record import (
    FaultRecord,
    FaultWindow,
    Guard,
    Outcome,
    Report,
    Sample,
    ScenarioRecord,
    Series,
    decode,
    encode,
    microsecond,
    relative,
)

BUDGET_S, JUDGED_S, PERIOD_S = 2.0, 2.2, 0.1
SERIES = Series(
    endpoint="http /health",
    kind="http",
    connection="fresh",
    address="http://x",
    budget_s=BUDGET_S,
    period_s=PERIOD_S,
)


def at(at_s: float, latency_s: float | None = 0.001, outcome: Outcome = "ok") -> Sample:
    return Sample(at_s, at_s, None if latency_s is None else at_s + latency_s, outcome, 200)


def good_probes() -> list[Sample]:
    """A series that is answered at once from -1 to 4 s."""
    return [at(i * PERIOD_S) for i in range(-10, 40)]


def seen(samples: list[Sample], closed_s: float = 2.25, **series: Series) -> Observation:
    return observe({"a": SERIES, **series}, {"a": samples}, 0.0, JUDGED_S, closed_s)


def test_a_series_that_answers_everything_is_lit() -> None:
    assert seen(good_probes()).observed == "lit"


def test_a_series_that_is_silent_for_longer_than_its_budget_is_dark() -> None:
    silent = [at(s.at_s, 3.0) if s.at_s >= 0 else s for s in good_probes()]
    found = seen(silent)
    assert found.observed == "dark"
    ((from_s, to_s),) = found.dark_gaps["a"]
    assert (from_s, to_s) == (0.0, 2.25)


def test_a_series_that_only_refuses_is_dark() -> None:
    assert seen([at(s.at_s, 0.001, "refused") for s in good_probes()]).observed == "dark"


def test_a_series_that_answers_the_wrong_thing_is_dark() -> None:
    assert seen([at(s.at_s, 0.001, "wrong") for s in good_probes()]).observed == "dark"


def test_a_probe_that_was_sent_after_the_window_had_closed_is_not_judged() -> None:
    late = Sample(2.1995, 2.26, 2.27, "ok", 200)
    assert seen([*good_probes(), late], closed_s=2.25).observed == "lit"
    in_time = Sample(2.1995, 2.24, 2.27, "ok", 200)
    assert seen([*good_probes(), in_time], closed_s=2.25).observed is None


NS = st.integers(-3_000, 3_000).map(lambda ns: ns * 1e-9)


@given(st.floats(1e3, 1e6), st.lists(st.tuples(NS, NS), min_size=23, max_size=23), st.booleans())
def test_a_stored_report_is_judged_as_its_run_was_to_the_microsecond(
    origin_s: float, jitters: list[tuple[float, float]], waited_for: bool
) -> None:
    """Probes at both bounds, give or take nanoseconds; the window closes with the last answer that counts, or
    before it."""
    opened_s = microsecond(origin_s)
    until_s = microsecond(opened_s + JUDGED_S)
    live = [
        Sample(start_s, start_s, microsecond(start_s + 0.001 + more_s), "ok", 200)
        for i, (early_s, more_s) in enumerate(jitters)
        for start_s in (microsecond(origin_s + i * PERIOD_S + early_s),)
    ]
    closed_s = max([until_s, *(s.ended_s or 0.0 for s in live if waited_for and s.at_s <= until_s)])
    run = observe({"a": SERIES}, {"a": live}, opened_s, until_s, closed_s)

    def moved(at_s: float | None) -> float:
        return relative(at_s or 0.0, opened_s)

    stored = [Sample(moved(s.at_s), moved(s.sent_s), moved(s.ended_s), "ok", 200) for s in live]
    again = observe({"a": SERIES}, {"a": stored}, 0.0, moved(until_s), moved(closed_s))
    assert (again.observed, again.fewest) == (run.observed, run.fewest)
    assert run.observed == "lit" or not waited_for


def test_one_missed_probe_is_neither_lit_nor_dark() -> None:
    samples = [at(s.at_s, 0.001, "reset") if 0.95 < s.at_s < 1.05 else s for s in good_probes()]
    found = seen(samples)
    assert found.observed is None
    assert "1 of 23 probes missed (1 reset)" in found.detail


def test_a_probe_that_waited_for_its_turn_is_late_although_it_was_sent_and_answered_at_once() -> None:
    samples = [s for s in good_probes() if s.at_s < 2.15]
    samples[15] = Sample(samples[15].at_s, 2.99, 3.0, "ok", 200)
    assert seen(samples, closed_s=3.1).observed is None


def test_a_probe_under_way_when_the_window_closes_is_not_lit() -> None:
    samples = [at(s.at_s, None, "cut") if s.at_s > 1.5 else s for s in good_probes()]
    assert seen(samples).observed is None


def test_an_answer_after_the_window_closed_does_not_light_the_window() -> None:
    samples = [at(s.at_s, 1.9) if s.at_s > 1.0 else s for s in good_probes()]
    assert seen(samples).observed is None


def test_a_series_that_is_not_watched_may_be_dark() -> None:
    other = Series(
        endpoint="b", kind="http", connection="fresh", address="x", budget_s=2.0, period_s=0.1, watched=False
    )
    assert seen(good_probes(), b=other).observed == "lit"


def test_a_watched_series_without_samples_is_dark_rather_than_lit() -> None:
    assert seen(good_probes(), b=SERIES).observed == "dark"


def test_too_few_probes_are_told() -> None:
    assert seen(good_probes()[::8]).too_few


@given(st.lists(st.floats(0, 2.2), max_size=40), st.lists(st.floats(0, 5), min_size=40, max_size=40))
def test_no_window_is_lit_with_a_probe_over_its_budget(starts: list[float], latencies: list[float]) -> None:
    samples = [at(start_s, latency_s) for start_s, latency_s in zip(starts, latencies, strict=False)]
    found = seen(samples)
    late = [
        s for s in samples if s.ended_s is not None and (s.ended_s - s.at_s > BUDGET_S or s.ended_s > 2.25)
    ]
    assert not (found.observed == "lit" and late)


@given(st.lists(st.tuples(st.floats(0, 2.2), st.floats(0, 5)), max_size=60))
def test_no_window_is_dark_with_an_answer_in_every_stretch_of_a_budget(
    probes: list[tuple[float, float]],
) -> None:
    samples = [at(start_s, latency_s) for start_s, latency_s in probes]
    ends = sorted(s.ended_s for s in samples if s.ended_s is not None and s.ended_s <= 2.25)
    bounds = [0.0, *ends, 2.25]
    silent = any(b - a > BUDGET_S for a, b in itertools.pairwise(bounds))
    assert (seen(samples).observed == "dark") == silent


def scenario(name: str = "f@t", expected: str = "lit", *controls: str) -> ScenarioRecord:
    return ScenarioRecord(
        name=name,
        target="t",
        fault=FaultRecord(name="f"),
        expected="lit" if expected == "lit" else "dark",
        controls=controls,
    )


def judged(
    given: ScenarioRecord, guards: list[Guard], observed: Literal["lit", "dark"] | None
) -> ScenarioRecord:
    """With this seen in its window."""
    return with_verdict(given, guards, Observation(observed, "all 60 probes answered", {}))


RAW_SAMPLES = st.lists(
    st.builds(
        lambda at_s, late_s, took_s, outcome, status: Sample(
            microsecond(at_s),
            microsecond(at_s + late_s),
            None if outcome == "cut" else microsecond(at_s + late_s + took_s),
            outcome,
            status,
        ),
        st.floats(-1.0, 3.5),
        st.floats(0.0, 0.3),
        st.floats(0.0, 3.0),
        st.sampled_from(["ok", "ok", "ok", "wrong", "timeout", "refused", "cut"]),
        st.sampled_from([200, 503, 0]),
    ),
    max_size=40,
).map(tuple)
RAW = st.builds(
    lambda samples, unwatched, closed_s, expected, guards: ScenarioRecord(
        name="f@t",
        target="t",
        fault=FaultRecord(name="f"),
        expected=expected,
        guards=tuple(guards),
        window=FaultWindow(
            judged_until_s=JUDGED_S, closed_s=closed_s, baseline_s=(-1.0, -0.2), recovered_s=(2.6, 3.0)
        ),
        series={"a": SERIES, "b": replace(SERIES, watched=False, role="liveness")},
        samples={"a": samples, "b": unwatched},
    ),
    RAW_SAMPLES,
    RAW_SAMPLES,
    st.none() | st.floats(JUDGED_S, 3.0).map(microsecond),
    st.sampled_from(["lit", "dark"]),
    st.lists(
        st.builds(
            Guard,
            name=st.sampled_from(["it bit", "nothing leaked"]),
            kind=st.sampled_from(["proof", "claim"]),
            held=st.booleans(),
        ),
        max_size=3,
    ),
)


@given(RAW)
def test_judging_a_judged_record_changes_nothing_and_a_stored_one_is_judged_the_same(
    raw: ScenarioRecord,
) -> None:
    once = judge(raw)
    assert judge(once) == once
    (stored,) = decode(encode(Report(scenarios=(once,)))).scenarios
    assert judge(stored) == once
    assert raw.samples == once.samples
    assert raw.guards == tuple(guard for guard in once.guards if guard.by == "run")


def test_every_series_has_a_state_whether_it_is_watched_or_not() -> None:
    silent = tuple(at(s.at_s, None, "timeout") for s in good_probes())
    odd = tuple(at(s.at_s, 0.001, "wrong" if 0.95 < s.at_s < 1.05 else "ok") for s in good_probes())
    found = judge(
        replace(
            scenario(),
            guards=tuple(GUARDS),
            window=FaultWindow(judged_until_s=JUDGED_S, closed_s=2.25),
            series={
                **dict.fromkeys(("good", "silent", "odd"), SERIES),
                "unwatched": replace(SERIES, watched=False),
            },
            samples={"good": tuple(good_probes()), "silent": silent, "odd": odd, "unwatched": silent},
        )
    )
    assert found.states == {"good": "lit", "silent": "dark", "odd": "missed", "unwatched": "missed"}


GUARDS = [proof("the fault bit", True, "it did"), claim("nothing leaked", True, "nothing")]


def test_as_expected_and_every_guard_held_is_a_pass() -> None:
    found = judged(scenario(), GUARDS, "lit")
    assert found.verdict == "pass"
    assert (found.guards[-1].name, found.guards[-1].detail) == ("stayed lit", "all 60 probes answered")


@pytest.mark.parametrize(
    ("observed", "said"), [("dark", "it went dark"), (None, "it was neither lit nor dark")]
)
def test_another_light_than_expected_is_a_fail_that_says_which(
    observed: Literal["dark"] | None, said: str
) -> None:
    found = judged(scenario(), GUARDS, observed)
    assert found.verdict == "fail"
    assert found.reasons == (f"had to stay lit: {said} (all 60 probes answered)",)


def test_a_missing_proof_is_unproven_whatever_was_seen() -> None:
    found = judged(scenario(), [proof("the fault bit", False, "nothing reached it"), *GUARDS[1:]], "lit")
    assert (found.observed, found.verdict) == ("unproven", "unproven")
    assert found.reasons == ("the fault did not bite: nothing reached it",)


def test_a_claim_that_does_not_hold_is_a_fail_although_the_light_is_as_expected() -> None:
    found = judged(scenario(), [*GUARDS[:1], claim("nothing leaked", False, "1 mapping")], "lit")
    assert (found.observed, found.verdict) == ("lit", "fail")


def test_a_wedge_whose_control_stayed_lit_is_unproven_and_fails_the_suite() -> None:
    wedge = judged(scenario("f@good", "lit", "f@bad"), GUARDS, "lit")
    control = judged(scenario("f@bad", "dark"), GUARDS, "lit")
    found = with_controls([wedge, control])
    assert found.scenarios[0].verdict == "unproven"
    assert found.failures == ("the control f@bad was lit, not dark: it vouches for f@good",)
    assert not found.missing


def test_a_wedge_whose_control_went_dark_stands() -> None:
    wedge = judged(scenario("f@good", "lit", "f@bad"), GUARDS, "lit")
    control = judged(scenario("f@bad", "dark"), GUARDS, "dark")
    found = with_controls([wedge, control])
    assert (found.scenarios[0].verdict, found.failures) == ("pass", ())


def test_a_control_that_was_not_run_is_told() -> None:
    wedge = judged(scenario("f@good", "lit", "f@bad"), GUARDS, "lit")
    found = with_controls([wedge])
    assert (found.failures, found.missing) == ((), ("f@bad",))


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0
    assert percentile([], 0.5) is None


def test_latency_counts_from_the_intended_start() -> None:
    found = stretch_latency([Sample(1.0, 1.5, 1.6, "ok", 200)], 0.0, 2.0)
    assert found.max_ms == pytest.approx(600)


def test_the_longest_gap_is_the_stretch_without_a_good_answer() -> None:
    found = stretch_latency([at(0.5), at(1.0, 0.001, "wrong"), at(1.9)], 0.0, 2.0)
    assert found.longest_gap_ms == pytest.approx(1400)


def test_probes_after_the_judged_ones_of_a_lit_window_are_not_missed() -> None:
    samples = [at(s.at_s, None, "cut") if s.at_s > JUDGED_S else s for s in good_probes()]
    found = fault_window_latency(samples, "lit", JUDGED_S, 2.25)
    assert found.sent == found.ok == 23


def test_probes_under_way_in_a_dark_window_are_missed() -> None:
    samples = [at(s.at_s, 2.5) for s in good_probes()]
    found = fault_window_latency(samples, "dark", JUDGED_S, 2.25)
    assert (found.sent, found.ok) == (23, 0)
