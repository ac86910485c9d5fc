"""The timeline's geometry: what reducing may drop, and what it must not."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from scenarios.record import CallRecord, Sample, ScenarioRecord, StuckCalls
from scenarios.report import timeline
from tests.scenarios.sample_reports import CLOSED_S, ENDPOINTS, scenario

SERIES = "http /health"


def drawn(given: ScenarioRecord, series: str = SERIES) -> tuple[timeline.Timeline, timeline.DrawnSeries]:
    found = timeline.draw(given)
    assert found is not None
    return found, next(each for each in found.series if each.name == series)


def strokes(path: str) -> list[tuple[int, int, int]]:
    return [(int(x), int(a), int(b)) for x, a, b in re.findall(r"M(\d+) (\d+)V(\d+)", path)]


def dense(count: int = 20_000, **odd: Sample) -> ScenarioRecord:
    """A series of very many fast probes, with a few odd ones in their place."""
    step_s = 4.0 / count
    samples = [
        Sample(-1.0 + n * step_s, -1.0 + n * step_s, -1.0 + n * step_s + 0.001, "ok", 200)
        for n in range(count)
    ]
    samples[count // 2] = odd.get("half", samples[count // 2])
    given = scenario(endpoints=ENDPOINTS[:1])
    return replace(given, samples={SERIES: tuple(samples)})


def test_one_slow_probe_among_twenty_thousand_is_drawn_at_its_full_height() -> None:
    slow = Sample(1.0, 1.0, 2.5, "ok", 200)
    plain, plain_series = drawn(dense())
    assert min(min(a, b) for _, a, b in strokes(plain_series.good)) > timeline.FAIL_STRIP + 100
    found, series = drawn(dense(half=slow))
    assert found.ceiling_s == plain.ceiling_s == 10.0
    highest = min(min(a, b) for _, a, b in strokes(series.good))
    span = timeline.HEIGHT - timeline.FAIL_STRIP
    latency_s = found.floor_s * (found.ceiling_s / found.floor_s) ** ((timeline.HEIGHT - highest) / span)
    assert latency_s == pytest.approx(1.5, rel=0.05)


def test_one_failed_probe_among_twenty_thousand_keeps_its_tick() -> None:
    _, healthy = drawn(dense())
    assert healthy.failed == ""
    _, series = drawn(dense(half=Sample(1.0, 1.0, 1.001, "refused")))
    assert series.failed.count("M") == 1


def test_a_series_never_has_more_strokes_than_columns_and_says_when_it_was_reduced() -> None:
    found, series = drawn(dense())
    assert len(strokes(series.good)) == found.columns
    assert found.reduced
    sparse, _ = drawn(scenario(endpoints=ENDPOINTS[:1]))
    assert not sparse.reduced


def test_dark_gaps_are_drawn_where_the_report_has_them_and_only_there() -> None:
    found, series = drawn(scenario(server="stalled", expected="dark"))
    (gap,) = series.gaps
    assert found.window is not None
    assert (gap.start, gap.width) == (found.window.start, found.window.width)
    assert gap.label == "2.40 s"
    _, lit = drawn(scenario())
    assert lit.gaps == ()


def test_late_answers_are_drawn_apart_from_those_in_time() -> None:
    _, stalled = drawn(scenario(server="stalled", expected="dark"))
    assert strokes(stalled.late)
    _, lit = drawn(scenario())
    assert lit.late == ""


def test_another_answer_than_the_expected_one_is_not_drawn_as_no_answer() -> None:
    _, ready = drawn(scenario(), "http /ready")
    assert ready.wrong
    assert ready.failed == ""
    _, gone = drawn(scenario(server="gone", expected="dark"))
    assert gone.failed
    assert gone.wrong == ""


def test_phases_are_spans_and_moments_inside_them_are_not() -> None:
    found, _ = drawn(scenario())
    labels = [phase.label for phase in found.phases]
    assert labels == ["baseline", "arm", "bite", "watch", "release", "recover"]
    assert [event.label for event in found.events] == ["bites", "released"]


def test_a_thousand_calls_are_thinned_out_and_the_longest_stays() -> None:
    calls = tuple(
        CallRecord(n=n, name="register", began_s=0.0, ended_s=1.0, outcome="answered") for n in range(1000)
    )
    stubborn = replace(calls[777], ended_s=None, outcome="pending")
    stuck = StuckCalls(started=1000, calls=(*calls[:777], stubborn, *calls[778:]))
    found, _ = drawn(scenario(stuck=stuck))
    assert len(found.calls) <= timeline.CALLS_DRAWN
    assert [call.title for call in found.calls if call.open] == ["register 777: never ended"]


def test_the_zero_of_the_axis_is_the_opening_of_the_window() -> None:
    found, _ = drawn(scenario())
    assert found.window is not None
    (zero,) = [tick for tick in found.ticks if tick.label == "0 s"]
    assert zero.at == found.window.start
    assert found.window.title == "fault window, 2.40 s"
    assert found.end_s > CLOSED_S


def test_a_scenario_without_samples_has_no_drawing() -> None:
    assert timeline.draw(scenario(samples={})) is None
