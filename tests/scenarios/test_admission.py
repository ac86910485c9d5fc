"""Lying: calls hang, and readiness goes on saying ready. On made-up samples, and on a real server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from scenarios.judge.admission import admission, readiness_series
from scenarios.record import Admission, Outcome, Report, Sample, Series
from scenarios.report import compare, html, junit, markdown, summary
from tests.scenarios.test_run import row, suite

GIVEN = Admission(within_s=3.0, series=("ready",), armed_s=-0.1, stuck_s=0.0)
Word = tuple[float, int | None, Outcome]
READY: Word = (-1.0, 200, "ok")
NOT_READY: Word = (1.0, 503, "ok")
Kind = Literal["http", "grpc", "tcp", "command"]


def series(kind: Kind = "http") -> dict[str, Series]:
    one = Series(
        endpoint="ready",
        kind=kind,
        connection="fresh",
        address="x",
        budget_s=2.0,
        period_s=0.1,
        role="readiness",
    )
    return {"ready": one}


def said(*words: Word) -> list[Sample]:
    """A probe every 0.1 s from -1 to 4 s. Each word (since when, status, outcome) holds until the next; no
    status is no answer, given up after 0.5 s."""
    samples = []
    for i in range(-10, 40):
        _, status, outcome = next(word for word in reversed(words) if word[0] <= i / 10)
        ended_s = i / 10 + (0.001 if status is not None else 0.5)
        samples.append(Sample(i / 10, i / 10, ended_s, outcome, status or 0))
    return samples


def found(samples: list[Sample], known_until_s: float = 4.0, kind: Kind = "http", **given: Any) -> Admission:
    return admission(replace(GIVEN, **given), series(kind), {"ready": samples}, known_until_s)


def test_a_server_that_says_not_ready_in_time_admits_and_the_time_is_told() -> None:
    got = found(said(READY, NOT_READY))
    assert (got.outcome, got.took_s) == ("admitted", 1.001)


@pytest.mark.parametrize(
    ("kind", "status", "outcome"),
    [("http", 200, "ok"), ("http", 204, "wrong"), ("grpc", 1, "ok"), ("tcp", 0, "ok"), ("command", 0, "ok")],
)
def test_a_server_that_says_ready_all_the_time_lies_whatever_its_probe_expects(
    kind: Kind, status: int, outcome: Outcome
) -> None:
    assert found(said((-1.0, status, outcome)), kind=kind).outcome == "lying"


@pytest.mark.parametrize(
    ("kind", "status", "outcome"),
    [
        ("http", 302, "ok"),
        ("http", 503, "ok"),
        ("grpc", 2, "ok"),
        ("http", None, "timeout"),
        ("tcp", 0, "refused"),
        ("command", 1, "wrong"),
    ],
)
def test_what_is_not_ready_is_no_lie_although_the_probe_expects_it(
    kind: Kind, status: int | None, outcome: Outcome
) -> None:
    ready = 1 if kind == "grpc" else 200
    assert found(said((-1.0, ready, "ok"), (0.5, status, outcome)), kind=kind).outcome == "admitted"


def test_an_admission_that_comes_too_late_is_a_lie() -> None:
    assert found(said(READY, (3.1, 503, "ok"))).outcome == "lying"


def test_a_window_that_ends_sooner_says_so_and_gives_no_verdict() -> None:
    got = found(said(READY), known_until_s=2.9)
    assert got.outcome == "undecided"
    assert got.detail.startswith("not watched long enough")


def test_what_was_not_ready_before_the_fault_admits_nothing_by_saying_so_again() -> None:
    assert found(said((-1.0, 503, "ok"))).outcome == "unready"


def test_without_stuck_calls_or_a_probe_that_asks_there_is_nothing_to_admit() -> None:
    assert found(said(READY), stuck_s=None).outcome == "nothing stuck"
    assert found([], series=()).outcome == "unwatched"


def test_an_answer_to_a_probe_of_before_the_calls_were_stuck_is_no_lie() -> None:
    before = [sample for sample in said(READY) if sample.at_s < 0]
    assert found([*before, Sample(-0.05, -0.05, 0.2, "ok", 200)]).outcome == "undecided"


def test_the_kept_connection_is_asked_only_where_there_is_no_fresh_one() -> None:
    kept = replace(series()["ready"], connection="kept")
    assert readiness_series({"a (kept-alive)": kept, "a": series()["ready"]}) == ("a",)
    assert readiness_series({"a (kept-alive)": kept}) == ("a (kept-alive)",)


TARGET = """
[target]
name = "{name}"
command = ["{{python}}", "{server}", "{{port:http}}"{says}]
ready = {{ url = "http://127.0.0.1:{{port:http}}/health" }}
admits_within_s = 1

[[probe]]
kind = "http"
name = "/health"
url = "http://127.0.0.1:{{port:http}}/health"

[[probe]]
kind = "http"
name = "/ready"
url = "http://127.0.0.1:{{port:http}}/ready"
expect = {{ status = [200, 503] }}
role = "readiness"

[[call]]
kind = "http"
method = "GET"
name = "work"
url = "http://127.0.0.1:{{port:http}}/work"

[processes]
registry = {{ main = true }}

[leaks]
threads = 9
because = "a thread for each connection"
"""
STALL = ("bites = 'on-traffic'", "params = { site = '__main__:on_gpu' }", "traffic = { call = 'work' }")


@pytest.mark.once
async def test_a_server_that_lies_is_told_from_one_that_admits_and_is_its_control(
    servers: Path, tmp_path: Path, run_suite: Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]
) -> None:
    paths = []
    for name, says in (("liar", ""), ("frank", ', "0.3"')):
        path = tmp_path / f"{name}.toml"
        path.write_text(TARGET.format(name=name, server=servers / "frank.py", says=says))
        paths.append(str(path))
    rows = row("stall", "call.stall", "lit", *STALL, "controls = ['liar']")
    rows = rows.replace("expect = 'lit'", "expect = { liar = 'lying', '*' = 'lit' }")
    rows += row(
        "noop", "noop", "lit", "traffic = { call = 'work', calls = 'answered' }", "targets = ['liar']"
    )
    report, _ = await run_suite(suite(servers, tmp_path, rows, *paths))
    seen = {record.name: record for record in report.scenarios}
    assert {name: (record.observed, record.verdict) for name, record in seen.items()} == {
        "stall@liar": ("lying", "pass"),
        "noop@liar": ("lit", "pass"),
        "stall@frank": ("lit", "pass"),
    }
    frank = seen["stall@frank"].admission
    assert frank is not None
    assert frank.took_s is not None
    assert 0.2 < frank.took_s < 1.0

    figure = summary.time_to_admit(seen["stall@frank"])
    for shown in (markdown.render(report), junit.render(report), html.render(report)):
        assert figure in shown
        assert "never" in shown
    lied = replace(seen["stall@frank"], admission=seen["stall@liar"].admission)
    worse = replace(report, scenarios=(lied,))
    (line,) = (line for line in compare.lines(compare.compare(report, worse)) if line.startswith("admits"))
    assert line == f"admits     stall@frank: that its calls hang it admitted after {figure}, and now never"
