"""Judging a stored report again: the samples decide, what only the live run could know stands."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from scenarios.judge import judge, judge_report, revised_verdicts
from scenarios.judge.kubelet import Role, with_probe_rules
from scenarios.record import FaultRecord, KubeletRules, Report, Sample, ScenarioRecord, decode, encode
from scenarios.report.load import load
from tests.scenarios.sample_reports import one_of_each, report, scenario

SERIES = "http /health"


def verdict(given: ScenarioRecord) -> tuple[str, str]:
    (again,) = judge_report(report(given)).scenarios
    return again.verdict, again.observed


def test_a_stored_report_is_judged_as_the_run_was() -> None:
    stored = decode(encode(report()))
    again = judge_report(stored)
    assert revised_verdicts(stored, again) == ()
    assert [s.observed for s in again.scenarios] == [s.observed for s in stored.scenarios]
    assert [s.dark_gaps for s in again.scenarios] == [s.dark_gaps for s in stored.scenarios]
    assert [s.ratios for s in again.scenarios] == [s.ratios for s in stored.scenarios]


def test_what_follows_from_the_samples_is_worked_out_anew() -> None:
    honest = scenario(server="stalled")
    stripped = replace(
        honest,
        dark_gaps={},
        ratios={},
        phases=replace(honest.phases, faulted={}),
        kubelet=replace(honest.kubelet, liveness_restarts=99),
    )
    (again,) = judge_report(report(stripped)).scenarios
    for name in ("dark_gaps", "ratios", "phases", "kubelet", "samples", "bite", "stuck", "leaks"):
        assert getattr(again, name) == getattr(honest, name)


def test_a_manifest_that_asks_one_endpoint_for_both_roles_is_replayed_the_same_again() -> None:
    one_path: dict[Role, str] = {"liveness": "http /health", "readiness": "http /health"}
    rules: dict[Role, KubeletRules] = dict.fromkeys(one_path, KubeletRules(failure_threshold=1, period_s=0.5))
    given = with_probe_rules(scenario(server="stalled"), rules, one_path, "deployment.yaml")
    assert given.kubelet.liveness_series == given.kubelet.readiness_series == SERIES
    assert judge(given).kubelet == given.kubelet


def older(given: Report) -> bytes:
    """The report as it was written before guards said who filed them, and faults whether they are
    controls."""
    tables = msgspec.to_builtins(given)
    for record in tables["scenarios"]:
        del record["fault"]["is_control"], record["states"]
        del record["window"]["baseline_s"], record["window"]["recovered_s"]
        for guard in record["guards"]:
            del guard["by"], guard["about"]
    return msgspec.json.encode(tables)


def test_a_report_from_before_guards_said_who_filed_them_is_judged_the_same(tmp_path: Path) -> None:
    nothing = scenario("noop@pegaref-process", fault=FaultRecord(name="noop", is_control=True))
    given = judge_report(report(*one_of_each(), nothing))
    (path := tmp_path / "older.json").write_bytes(older(given))
    stored = load(path)
    assert [s.states for s in stored.scenarios] == [s.states for s in given.scenarios]
    again = judge_report(stored)
    assert revised_verdicts(given, again) == ()
    assert again.pooled == given.pooled
    for now, then in zip(again.scenarios, given.scenarios, strict=True):
        assert (now.guards, now.reasons, now.phases) == (then.guards, then.reasons, then.phases)


def test_judging_twice_changes_nothing_more() -> None:
    once = judge_report(report())
    assert judge_report(once) == once


def test_a_verdict_that_the_samples_do_not_bear_out_does_not_stand() -> None:
    honest = scenario(server="stalled")
    assert verdict(honest) == ("fail", "dark")
    assert verdict(replace(honest, verdict="pass", observed="lit", dark_gaps={}, reasons=())) == (
        "fail",
        "dark",
    )


def test_another_budget_makes_another_verdict() -> None:
    lit = scenario()
    assert verdict(lit) == ("pass", "lit")
    strict = {name: replace(one, budget_s=0.0001) for name, one in lit.series.items()}
    assert verdict(replace(lit, series=strict))[0] != "pass"


def test_one_late_probe_is_enough_to_be_neither_lit_nor_dark() -> None:
    lit = scenario()
    row = lit.samples[SERIES]
    n = next(i for i, s in enumerate(row) if s.at_s > 0.1)
    late = Sample(row[n].at_s, row[n].sent_s, row[n].at_s + 2.1, "ok", 200)
    assert verdict(replace(lit, samples={**lit.samples, SERIES: (*row[:n], late, *row[n + 1 :])})) == (
        "fail",
        "unproven",
    )


def test_a_fault_that_did_not_bite_stays_unproven_however_lit_it_was() -> None:
    assert verdict(scenario(bites=False)) == ("unproven", "unproven")


def test_a_lit_verdict_whose_control_stayed_lit_is_unproven_and_fails_the_suite() -> None:
    control = scenario("gil.hold@pegaref-inline")
    wedge = scenario(controls=(control.name,))
    again = judge_report(report(wedge, control))
    assert again.scenarios[0].verdict == "unproven"
    assert again.suite.failures
    assert not again.suite.passed
    dark = scenario("gil.hold@pegaref-inline", server="stalled", expected="dark")
    twin = judge_report(report(wedge, dark))
    assert twin.scenarios[0].verdict == "pass"
    assert twin.suite.passed


def test_a_changed_verdict_is_named_with_its_reasons() -> None:
    stored = report(replace(one_of_each()[4], verdict="pass", reasons=()))
    (change,) = revised_verdicts(stored, judge_report(stored))
    assert (change.was, change.now) == ("pass", "fail")
    assert any("had to stay lit: it went dark (" in reason for reason in change.why)


def test_a_report_without_guards_has_nothing_to_be_judged_on_and_stays_as_it_is() -> None:
    bare = replace(scenario(), guards=(), samples={})
    assert verdict(bare) == ("pass", "lit")
    assert not judge_report(Report()).suite.passed
