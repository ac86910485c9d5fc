"""The rules, on made-up samples: lit, dark, neither; verdicts; controls; gaps and percentiles."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.judge.controls import with_controls
from scenarios.judge.latency import faulted, percentile, summary
from scenarios.judge.observe import Observation, observe
from scenarios.judge.verdict import claim, judged, proof
from scenarios.record.figures import microsecond, relative
from scenarios.record.model import Fault, Lane, Outcome, Sample, Scenario

BUDGET_S, JUDGED_S, PERIOD_S = 2.0, 2.2, 0.1
LANE = Lane(
    endpoint="http /health",
    kind="http",
    connection="fresh",
    address="http://x",
    budget_s=BUDGET_S,
    period_s=PERIOD_S,
)


def at(at_s: float, latency_s: float | None = 0.001, outcome: Outcome = "ok") -> Sample:
    return Sample(at_s, at_s, None if latency_s is None else at_s + latency_s, outcome, 200)


def lane() -> list[Sample]:
    """A lane that answers at once from -1 to 4 s."""
    return [at(i * PERIOD_S) for i in range(-10, 40)]


def seen(samples: list[Sample], closed_s: float = 2.25, **lanes: Lane) -> Observation:
    return observe({"a": LANE, **lanes}, {"a": samples}, 0.0, JUDGED_S, closed_s)


def test_a_lane_that_answers_everything_is_lit() -> None:
    assert seen(lane()).light == "lit"


def test_a_lane_that_is_silent_for_longer_than_its_budget_is_dark() -> None:
    silent = [at(s.at_s, 3.0) if s.at_s >= 0 else s for s in lane()]
    found = seen(silent)
    assert found.light == "dark"
    ((from_s, to_s),) = found.dark_gaps["a"]
    assert (from_s, to_s) == (0.0, 2.25)


def test_a_lane_that_only_refuses_is_dark() -> None:
    assert seen([at(s.at_s, 0.001, "refused") for s in lane()]).light == "dark"


def test_a_lane_that_answers_the_wrong_thing_is_dark() -> None:
    assert seen([at(s.at_s, 0.001, "wrong") for s in lane()]).light == "dark"


def test_a_probe_that_was_sent_after_the_window_had_closed_is_not_judged() -> None:
    late = Sample(2.1995, 2.26, 2.27, "ok", 200)
    assert seen([*lane(), late], closed_s=2.25).light == "lit"
    in_time = Sample(2.1995, 2.24, 2.27, "ok", 200)
    assert seen([*lane(), in_time], closed_s=2.25).light is None


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
    run = observe({"a": LANE}, {"a": live}, opened_s, until_s, closed_s)

    def moved(at_s: float | None) -> float:
        return relative(at_s or 0.0, opened_s)

    stored = [Sample(moved(s.at_s), moved(s.sent_s), moved(s.ended_s), "ok", 200) for s in live]
    again = observe({"a": LANE}, {"a": stored}, 0.0, moved(until_s), moved(closed_s))
    assert (again.light, again.fewest) == (run.light, run.fewest)
    assert run.light == "lit" or not waited_for


def test_one_missed_probe_is_neither_lit_nor_dark() -> None:
    samples = [at(s.at_s, 0.001, "reset") if 0.95 < s.at_s < 1.05 else s for s in lane()]
    found = seen(samples)
    assert found.light is None
    assert "1 of 23 probes missed (1 reset)" in found.detail


def test_a_probe_that_waited_for_its_turn_is_late_although_it_was_sent_and_answered_at_once() -> None:
    samples = [s for s in lane() if s.at_s < 2.15]
    samples[15] = Sample(samples[15].at_s, 2.99, 3.0, "ok", 200)
    assert seen(samples, closed_s=3.1).light is None


def test_a_probe_under_way_when_the_window_closes_is_not_lit() -> None:
    samples = [at(s.at_s, None, "cut") if s.at_s > 1.5 else s for s in lane()]
    assert seen(samples).light is None


def test_an_answer_after_the_window_closed_does_not_light_the_window() -> None:
    samples = [at(s.at_s, 1.9) if s.at_s > 1.0 else s for s in lane()]
    assert seen(samples).light is None


def test_a_lane_that_is_not_watched_may_be_dark() -> None:
    other = Lane(
        endpoint="b", kind="http", connection="fresh", address="x", budget_s=2.0, period_s=0.1, watched=False
    )
    assert seen(lane(), b=other).light == "lit"


def test_a_watched_lane_without_samples_is_dark_rather_than_lit() -> None:
    assert seen(lane(), b=LANE).light == "dark"


def test_too_few_probes_are_told() -> None:
    assert seen(lane()[::8]).too_few


@given(st.lists(st.floats(0, 2.2), max_size=40), st.lists(st.floats(0, 5), min_size=40, max_size=40))
def test_no_window_is_lit_with_a_probe_over_its_budget(starts: list[float], latencies: list[float]) -> None:
    samples = [at(start_s, latency_s) for start_s, latency_s in zip(starts, latencies, strict=False)]
    found = seen(samples)
    late = [
        s for s in samples if s.ended_s is not None and (s.ended_s - s.at_s > BUDGET_S or s.ended_s > 2.25)
    ]
    assert not (found.light == "lit" and late)


@given(st.lists(st.tuples(st.floats(0, 2.2), st.floats(0, 5)), max_size=60))
def test_no_window_is_dark_with_an_answer_in_every_stretch_of_a_budget(
    probes: list[tuple[float, float]],
) -> None:
    samples = [at(start_s, latency_s) for start_s, latency_s in probes]
    ends = sorted(s.ended_s for s in samples if s.ended_s is not None and s.ended_s <= 2.25)
    bounds = [0.0, *ends, 2.25]
    silent = any(b - a > BUDGET_S for a, b in itertools.pairwise(bounds))
    assert (seen(samples).light == "dark") == silent


def scenario(name: str = "f@t", expected: str = "lit") -> Scenario:
    return Scenario(
        name=name,
        target="t",
        fault=Fault(name="f"),
        expected="lit" if expected == "lit" else "dark",
        observed="unproven",
        verdict="unproven",
    )


GUARDS = [proof("the fault bit", True, "it did"), claim("nothing leaked", True, "nothing")]


def test_as_expected_and_every_guard_held_is_a_pass() -> None:
    found = judged(scenario(), [*GUARDS, proof("watched", True, "all 60 probes answered")], "lit")
    assert found.verdict == "pass"
    assert (found.guards[-1].name, found.guards[-1].detail) == ("stayed lit", "all 60 probes answered")


@pytest.mark.parametrize("light", ["dark", "unproven"])
def test_another_light_than_expected_is_a_fail_that_says_which(light: str) -> None:
    found = judged(scenario(), GUARDS, "dark" if light == "dark" else "unproven")
    assert found.verdict == "fail"
    said = "it went dark" if light == "dark" else "it was neither lit nor dark"
    assert found.reasons[0] == f"had to stay lit: {said}"


def test_a_missing_proof_is_unproven_whatever_was_seen() -> None:
    found = judged(scenario(), [proof("the fault bit", False, "nothing reached it"), *GUARDS[1:]], "lit")
    assert (found.observed, found.verdict) == ("unproven", "unproven")
    assert found.reasons == ("the fault bit: nothing reached it",)


def test_a_claim_that_does_not_hold_is_a_fail_although_the_light_is_as_expected() -> None:
    found = judged(scenario(), [*GUARDS[:1], claim("nothing leaked", False, "1 mapping")], "lit")
    assert (found.observed, found.verdict) == ("lit", "fail")


def test_a_wedge_whose_control_stayed_lit_is_unproven_and_fails_the_suite() -> None:
    wedge = judged(scenario("f@good"), GUARDS, "lit")
    control = judged(scenario("f@bad", "dark"), GUARDS, "lit")
    (found, _), failures, missing = with_controls([wedge, control], {"f@good": ("f@bad",)})
    assert found.verdict == "unproven"
    assert failures == ("the control f@bad was lit, not dark: it vouches for f@good",)
    assert not missing


def test_a_wedge_whose_control_went_dark_stands() -> None:
    wedge = judged(scenario("f@good"), GUARDS, "lit")
    control = judged(scenario("f@bad", "dark"), GUARDS, "dark")
    (found, _), failures, _ = with_controls([wedge, control], {"f@good": ("f@bad",)})
    assert (found.verdict, failures) == ("pass", ())


def test_a_control_that_was_not_run_is_told() -> None:
    wedge = judged(scenario("f@good"), GUARDS, "lit")
    _, failures, missing = with_controls([wedge], {"f@good": ("f@bad",)})
    assert (failures, missing) == ((), ("f@bad",))


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0
    assert percentile([], 0.5) is None


def test_latency_counts_from_the_intended_start() -> None:
    found = summary([Sample(1.0, 1.5, 1.6, "ok", 200)], 0.0, 2.0)
    assert found.max_ms == pytest.approx(600)


def test_the_longest_gap_is_the_stretch_without_a_good_answer() -> None:
    found = summary([at(0.5), at(1.0, 0.001, "wrong"), at(1.9)], 0.0, 2.0)
    assert found.longest_gap_ms == pytest.approx(1400)


def test_probes_after_the_judged_ones_of_a_lit_window_are_not_missed() -> None:
    samples = [at(s.at_s, None, "cut") if s.at_s > JUDGED_S else s for s in lane()]
    found = faulted(samples, "lit", JUDGED_S, 2.25)
    assert found.sent == found.ok == 23


def test_probes_under_way_in_a_dark_window_are_missed() -> None:
    samples = [at(s.at_s, 2.5) for s in lane()]
    found = faulted(samples, "dark", JUDGED_S, 2.25)
    assert (found.sent, found.ok) == (23, 0)
