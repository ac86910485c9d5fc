"""A kubelet's view of a fault window."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from scenarios.judge.kubelet import replay, with_probe_rules
from scenarios.record import (
    FaultRecord,
    FaultWindow,
    KubeletReplay,
    KubeletRules,
    Sample,
    ScenarioRecord,
    Series,
)

SERIES = {
    "http /health": Series(
        endpoint="http /health",
        kind="http",
        connection="fresh",
        address="x",
        budget_s=2.0,
        period_s=0.1,
        role="liveness",
    ),
    "grpc health": Series(
        endpoint="grpc health",
        kind="grpc",
        connection="fresh",
        address="x",
        budget_s=2.0,
        period_s=0.1,
        role="readiness",
    ),
}


def window(
    live: Sample, ready: Sample, rules: KubeletRules | None = None, window_s: float = 2.2
) -> KubeletReplay:
    def repeated(sample: Sample) -> list[Sample]:
        def moved(value: float | None, by_s: float) -> float | None:
            return None if value is None else value + by_s

        return [
            Sample(
                sample.at_s + t,
                moved(sample.sent_s, t),
                moved(sample.ended_s, t),
                sample.outcome,
                sample.status,
            )
            for t in (i / 10 for i in range(int(window_s * 10)))
        ]

    samples = {"http /health": repeated(live), "grpc health": repeated(ready)}
    return replay(SERIES, samples, window_s, rules)


GOOD = Sample(0.0, 0.0, 0.001, "ok", 200)
SERVING = Sample(0.0, 0.0, 0.001, "ok", 1)


def test_a_server_that_answers_is_left_alone() -> None:
    found = window(GOOD, SERVING)
    assert (found.liveness_restarts, found.readiness_flips) == (0, 0)


def test_a_server_that_is_silent_is_restarted_and_taken_out_of_rotation() -> None:
    found = window(Sample(0.0, 0.0, None, "cut"), Sample(0.0, 0.0, None, "timeout"))
    assert (found.liveness_restarts, found.readiness_flips) == (1, 1)


def test_an_answer_that_takes_longer_than_the_timeout_is_a_failure_for_the_kubelet() -> None:
    found = window(Sample(0.0, 0.0, 1.5, "ok", 200), SERVING)
    assert found.liveness_restarts == 1


def test_an_answer_that_came_with_the_release_is_none_for_a_fault_that_goes_on() -> None:
    released = {
        "http /health": [Sample(i / 10, i / 10, 2.3, "ok", 200) for i in range(22)],
        "grpc health": [Sample(i / 10, i / 10, 2.3, "ok", 1) for i in range(22)],
    }
    found = replay(SERIES, released, 2.2, KubeletRules(timeout_s=3.0))
    assert (found.liveness_restarts, found.readiness_flips) == (1, 1)


def test_a_timeout_longer_than_the_window_does_not_hide_a_dark_series_nor_darken_a_lit_one() -> None:
    patient = KubeletRules(timeout_s=5.0)
    assert window(Sample(0.0, 0.0, None, "cut"), SERVING, patient).liveness_restarts == 1
    under_way = [Sample(i / 10, i / 10, i / 10 + 0.001, "ok", 200) for i in range(21)]
    under_way.append(Sample(2.15, 2.15, None, "cut"))
    samples = {"http /health": under_way}
    assert replay(SERIES, samples, 2.2, patient).liveness_restarts == 0


def test_any_status_below_400_pleases_a_kubelet_and_503_does_not() -> None:
    assert window(Sample(0.0, 0.0, 0.001, "wrong", 302), SERVING).liveness_restarts == 0
    assert window(Sample(0.0, 0.0, 0.001, "ok", 503), SERVING).liveness_restarts == 1


def test_a_server_that_is_not_serving_is_only_taken_out_of_rotation() -> None:
    found = window(GOOD, Sample(0.0, 0.0, 0.001, "ok", 2))
    assert (found.liveness_restarts, found.readiness_flips) == (0, 1)


def test_a_short_window_is_extrapolated_and_says_so() -> None:
    found = window(GOOD, SERVING)
    assert found.extrapolated
    assert found.assumed_fault_s == 40
    assert "as if the fault had lasted 40 s" in found.note


def test_a_window_that_is_long_enough_is_taken_as_it_was() -> None:
    found = window(GOOD, SERVING, KubeletRules(period_s=0.4, timeout_s=0.2))
    assert not found.extrapolated


@pytest.mark.parametrize(("threshold", "restarts"), [(3, 1), (30, 1)])
def test_the_threshold_is_a_parameter(threshold: int, restarts: int) -> None:
    rules = KubeletRules(failure_threshold=threshold)
    assert window(Sample(0.0, 0.0, None, "timeout"), SERVING, rules).liveness_restarts == restarts


def test_a_deployment_s_own_rules_and_endpoints_replace_the_target_s() -> None:
    samples = {
        "http /health": tuple(Sample(i / 10, i / 10, None, "timeout") for i in range(22)),
        "grpc health": tuple(Sample(i / 10, i / 10, i / 10 + 0.001, "ok", 1) for i in range(22)),
    }
    scenario = ScenarioRecord(
        name="f@t",
        target="t",
        fault=FaultRecord(name="f"),
        expected="dark",
        observed="dark",
        verdict="pass",
        series=SERIES,
        samples=samples,
        window=FaultWindow(closed_s=2.2),
    )
    rules = KubeletRules(failure_threshold=1, period_s=0.5)
    asks_grpc = with_probe_rules(scenario, {"liveness": rules}, {"liveness": "grpc health"}, "d.yaml")
    asks_http = with_probe_rules(scenario, {"liveness": rules}, {"liveness": "http /health"}, "d.yaml")
    assert (asks_grpc.kubelet.liveness_restarts, asks_http.kubelet.liveness_restarts) == (0, 1)
    assert asks_grpc.kubelet.readiness_series is None
    assert (asks_http.kubelet.rules, asks_http.kubelet.source) == (rules, "d.yaml")
    one_path = {"liveness": "http /health", "readiness": "http /health"}
    both = with_probe_rules(scenario, {"liveness": rules, "readiness": rules}, one_path, "d.yaml").kubelet  # type: ignore[arg-type]
    assert both.liveness_series == both.readiness_series == asks_http.kubelet.liveness_series
    assert both.liveness_restarts == 1


@pytest.mark.parametrize("given", ["reason of the series", "reason of the manifest", "no role"])
def test_what_cannot_be_replayed_has_a_reason_and_no_figure(given: str) -> None:
    silent = {name: [Sample(i / 10, i / 10, None, "timeout") for i in range(22)] for name in SERIES}
    series, reasons = dict(SERIES), None
    if given == "reason of the series":
        series["http /health"] = replace(series["http /health"], not_replayed="asks by POST")
    elif given == "no role":
        series["http /health"] = replace(series["http /health"], role=None)
    else:
        reasons = {"liveness": "livenessProbe runs a command"}
    found = replay(series, silent, 2.2, reasons=reasons)  # type: ignore[arg-type]
    assert (found.liveness_restarts, found.liveness_series, found.readiness_flips) == (None, None, 1)
    said = found.not_replayed["liveness"]
    assert said in (
        "http /health asks by POST",
        *(reasons or {}).values(),
        'no endpoint has role = "liveness"',
    )


def test_a_deployment_without_a_probe_never_restarts_and_that_is_a_figure() -> None:
    samples = {"grpc health": (SERVING,) * 3}
    found = replay(SERIES, samples, 2.2, source="d.yaml", asked={"readiness": "grpc health"})
    assert (found.liveness_restarts, found.not_replayed) == (0, {})


def test_a_probe_that_was_given_up_before_a_kubelet_would_have_says_nothing() -> None:
    late = [Sample(i / 10, i / 10, i / 10 + 0.5, "timeout") for i in range(20)]
    samples = {"http /health": [*late, Sample(2.1, 2.1, 2.15, "ok", 200)]}
    assert replay(SERIES, samples, 2.2, KubeletRules(timeout_s=5.0, period_s=0.2)).liveness_restarts == 0
    assert replay(SERIES, samples, 2.2, KubeletRules(timeout_s=0.4, period_s=0.2)).liveness_restarts == 1
