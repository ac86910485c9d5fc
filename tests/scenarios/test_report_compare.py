"""Two runs compared: what counts as a regression, and its twin that does not."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from scenarios.judge.latency import stretch_latency
from scenarios.record import Latency, PhaseLatencies, Report, Sample, ScenarioRecord, SeriesState
from scenarios.report.compare import Comparison, compare, encode, lines
from tests.scenarios.sample_reports import one_of_each, report, scenario

SERIES = "http /health"


def timed(
    baseline_ms: float, faulted_ms: float, *, answers: int = 200, state: SeriesState = "lit"
) -> ScenarioRecord:
    """A scenario in which every latency of one series is this, without samples."""

    def phase(ms: float) -> dict[str, Latency]:
        return {SERIES: Latency(sent=answers, ok=answers, p50_ms=ms, p99_ms=ms, max_ms=ms, longest_gap_ms=ms)}

    given = scenario()
    return replace(
        given,
        series={SERIES: given.series[SERIES]},
        samples={},
        states={SERIES: state},
        phases=PhaseLatencies(baseline=phase(baseline_ms), faulted=phase(faulted_ms)),
    )


def against(old: ScenarioRecord, new: ScenarioRecord) -> Comparison:
    return compare(report(old), report(new))


def test_a_run_is_no_regression_of_itself() -> None:
    found = compare(report(), report())
    assert not found.regressed
    assert (found.verdicts, found.latencies, found.added, found.removed) == ((), (), (), ())
    assert found.compared == 6
    assert list(lines(found)) == ["no regression in 6 scenarios that both runs have"]


def test_a_pass_that_is_lost_is_a_regression() -> None:
    found = against(scenario(), scenario(server="stalled"))
    assert found.regressed
    (change,) = found.verdicts
    assert (change.kind, change.old, change.new, change.new_observed) == ("regressed", "pass", "fail", "dark")
    told = "\n".join(lines(found))
    assert "regressed  gil.hold@pegaref-process: pass (lit) → fail (dark)" in told
    assert "wedge run gil.hold@pegaref-process --seed 0" in told


def test_a_pass_that_became_unproven_is_a_regression_too() -> None:
    assert against(scenario(), scenario(bites=False)).regressed


def test_a_failure_that_is_gone_is_none() -> None:
    found = against(scenario(server="stalled"), scenario())
    assert not found.regressed
    assert [change.kind for change in found.verdicts] == ["fixed"]


def test_a_failure_that_is_now_unproven_is_a_change_and_no_regression() -> None:
    found = against(scenario(server="stalled"), scenario(bites=False))
    assert not found.regressed
    assert [change.kind for change in found.verdicts] == ["changed"]


def test_a_pass_that_is_only_kept_by_expecting_darkness_is_shown_as_weaker() -> None:
    found = against(scenario(), scenario(server="stalled", expected="dark"))
    assert [change.kind for change in found.verdicts] == ["weaker"]
    assert "it was expected lit and now dark" in "\n".join(lines(found))


def test_new_and_removed_scenarios_are_listed() -> None:
    lit, dark, *_ = one_of_each()
    found = compare(report(lit), report(dark))
    assert [listed.name for listed in found.added] == [dark.name]
    assert [listed.name for listed in found.removed] == [lit.name]
    assert not found.regressed


def test_a_ratio_that_grew_beyond_the_noise_is_a_regression() -> None:
    found = against(timed(1.0, 1.2), timed(1.0, 40.0))
    assert found.regressed
    assert {(c.percentile, c.kind, c.series) for c in found.latencies} == {
        ("p50", "slower", SERIES),
        ("p99", "slower", SERIES),
    }
    assert found.latencies[0].factor == 33.333
    assert "was 1.20× its baseline, is 40× (1.2 ms then, 40 ms now)" in next(iter(lines(found)))


def test_a_slower_machine_is_no_regression() -> None:
    assert not against(timed(1.0, 1.2), timed(30.0, 36.0)).regressed
    assert not against(timed(1.0, 1.2), timed(100.0, 140.0)).regressed
    assert against(timed(1.0, 1.2), timed(100.0, 300.0)).regressed


def test_a_difference_below_the_noise_or_below_the_floor_is_none() -> None:
    assert not against(timed(10.0, 10.0), timed(10.0, 19.0)).regressed
    assert against(timed(10.0, 10.0), timed(10.0, 21.0)).regressed
    assert not against(timed(0.5, 0.5), timed(0.5, 4.0)).regressed
    assert compare(report(timed(0.5, 0.5)), report(timed(0.5, 4.0)), floor_ms=1.0).regressed
    assert compare(report(timed(10.0, 10.0)), report(timed(10.0, 19.0)), noise=1.5).regressed


def test_a_baseline_that_was_only_noisier_is_no_reason_for_a_regression() -> None:
    assert not against(timed(40.0, 8.0), timed(8.0, 14.0)).regressed
    assert against(timed(40.0, 8.0), timed(8.0, 24.0)).regressed


def test_getting_faster_is_shown_and_no_regression() -> None:
    found = against(timed(1.0, 40.0), timed(1.0, 1.2))
    assert not found.regressed
    assert {c.kind for c in found.latencies} == {"faster"}


def test_a_percentile_of_few_answers_is_not_compared() -> None:
    assert {c.percentile for c in against(timed(1, 1, answers=50), timed(1, 40, answers=50)).latencies} == {
        "p50"
    }
    assert against(timed(1, 1, answers=7), timed(1, 40, answers=7)).latencies == ()


def test_the_latency_of_a_dark_endpoint_is_not_compared() -> None:
    assert against(timed(1, 1), timed(1, 40, state="dark")).latencies == ()


def test_the_json_is_the_whole_comparison() -> None:
    found = against(scenario(), scenario(server="stalled"))
    assert msgspec.json.decode(encode(found), type=Comparison) == found
    assert msgspec.json.decode(encode(found))["schema"] == "wedge-compare/1"


def pooled(baseline_ms: float, faulted_ms: float, *, slow_ms: float | None = None) -> Report:
    """60 scenarios of 20 answers a phase, of which one in the fault window may be slow."""

    def phase(ms: float, last_ms: float) -> dict[str, Latency]:
        took = [*[ms] * 19, last_ms]
        return {
            SERIES: stretch_latency(
                [Sample(n, n, n + each / 1e3, "ok", 200) for n, each in enumerate(took)], 0, 99
            )
        }

    given = scenario()
    return report(
        *(
            replace(
                given,
                name=f"{n}@pegaref-process",
                series={SERIES: given.series[SERIES]},
                samples={},
                phases=PhaseLatencies(
                    baseline=phase(baseline_ms, baseline_ms),
                    faulted=phase(faulted_ms, faulted_ms if slow_ms is None or n % 2 else slow_ms),
                ),
            )
            for n in range(60)
        )
    )


def test_a_tail_that_no_scenario_has_answers_enough_for_shows_in_all_together() -> None:
    found = compare(pooled(1.0, 1.0), pooled(1.0, 1.0, slow_ms=200.0))
    assert found.latencies == ()
    assert found.regressed
    assert [(c.percentile, c.kind, c.series, c.scenarios) for c in found.pooled] == [
        ("p99", "slower", SERIES, 60),
        ("p999", "slower", SERIES, 60),
    ]
    assert (
        "slower     pegaref-process, 60 scenarios together: http /health p99.9 under the fault was 1.00×"
        in "\n".join(lines(found))
    )


def test_all_together_a_slower_machine_is_no_regression_either() -> None:
    assert not compare(pooled(1.0, 1.0), pooled(20.0, 24.0)).regressed
    assert not compare(pooled(1.0, 1.0, slow_ms=200.0), pooled(1.0, 1.0)).regressed


def test_only_scenarios_that_both_runs_have_are_taken_together() -> None:
    new = pooled(1.0, 1.0, slow_ms=200.0)
    renamed = tuple(
        replace(s, name=f"new-{s.name}") if n % 2 == 0 else s for n, s in enumerate(new.scenarios)
    )
    assert not compare(pooled(1.0, 1.0), replace(new, scenarios=renamed)).regressed


def test_a_few_scenarios_together_have_nothing_to_add_to_what_each_says() -> None:
    def few(given: Report) -> Report:
        return replace(given, scenarios=given.scenarios[:4])

    assert compare(few(pooled(1.0, 1.0)), few(pooled(1.0, 40.0))).pooled == ()
    assert compare(pooled(1.0, 1.0), pooled(1.0, 40.0)).pooled


def test_what_only_one_run_could_judge_is_taken_together_in_neither() -> None:
    """As many scenarios in both pools would not make them the same ones."""

    def unproven(given: Report, n: int) -> Report:
        row = list(given.scenarios)
        row[n] = replace(row[n], verdict="unproven")
        return replace(given, scenarios=tuple(row))

    old, new = pooled(1.0, 1.0), pooled(1.0, 1.0)
    slow = replace(new.scenarios[1], phases=pooled(1.0, 200.0).scenarios[1].phases)
    new = replace(new, scenarios=(new.scenarios[0], slow, *new.scenarios[2:]))
    assert compare(unproven(old, 1), unproven(new, 0)).pooled == ()
    assert compare(old, new).pooled
