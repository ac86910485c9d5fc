"""The report as one HTML file that needs nothing else: styles, script and drawings are inside it.

The page works without its script (everything is there, folded) and reaches no network. A policy that the
browser enforces lets only this style and this script run, by their hashes, so that a hostile scenario name
that got past the escaping still could not.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from scenarios.judge.wording import title
from scenarios.record import Report, ScenarioRecord, SeriesState, Verdict, stability
from scenarios.report import curves, headline, numbers, summary, timeline

OPEN_AT_FIRST: Final = 6
"""So many scenarios that did not pass are unfolded when the page opens."""
ROWS_SHOWN: Final = 12
"""With more scenarios than this, the endpoints of what passed are folded away under the matrix."""
CALLS_LISTED: Final = 40
LOG_LINES: Final = 200
STACK_CHARACTERS: Final = 24_000

WORDS: Final[dict[Verdict, str]] = {"pass": "passed", "fail": "failed", "unproven": "unproven"}


@dataclass(frozen=True, slots=True)
class CellPart:
    """One series in a cell of the overview."""

    connection: str
    state: SeriesState
    watched: bool
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class Section:
    """One scenario: where it stands on the page, its overview cells by endpoint, and its drawing."""

    anchor: str
    scenario: ScenarioRecord
    why: str
    cells: tuple[tuple[CellPart, ...], ...]
    drawing: timeline.Timeline | None
    series: tuple[str, ...]
    open: bool


def render(report: Report) -> str:
    """The whole page. Its size depends on the number of scenarios and hardly on that of samples."""
    ordered = summary.worst_first(report)
    crossed = summary.grid(report.scenarios)
    endpoints = tuple(dict.fromkeys(_endpoint(s, name) for s in ordered for name in summary.series_names(s)))
    unfold = [s for s in ordered if s.verdict != "pass"][:OPEN_AT_FIRST] or list(ordered[:1])
    rows = tuple(
        Section(
            anchor=f"s{number}",
            scenario=s,
            why=summary.why(s),
            cells=tuple(_cell(s, endpoint) for endpoint in endpoints),
            drawing=timeline.draw(s),
            series=summary.series_names(s),
            open=any(s is other for other in unfold),
        )
        for number, s in enumerate(ordered, 1)
    )
    style, script = _text("report.css"), _text("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            tally=summary.verdict_counts(report),
            problems=summary.suite_problems(report),
            remarks=summary.remarks(report),
            sentence=headline.sentence(report),
            rows=rows,
            endpoints=endpoints,
            targets=sorted({s.target for s in ordered}),
            faults=sorted({s.fault.name for s in ordered}),
            cross=crossed,
            labels={s.name: summary.cell_label(s) for s in report.scenarios},
            curves=curves.draw(report.pooled),
            overhead=summary.overhead(report),
            steady=stability.in_words(report.stability) if report.stability else "",
            anchors={row.scenario.name: row.anchor for row in rows},
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )


def _endpoint(scenario: ScenarioRecord, name: str) -> str:
    known = scenario.series.get(name)
    return known.endpoint if known else name.removesuffix(" (kept-alive)")


def _cell(scenario: ScenarioRecord, endpoint: str) -> tuple[CellPart, ...]:
    return tuple(
        _part(scenario, name)
        for name in summary.series_names(scenario)
        if _endpoint(scenario, name) == endpoint
    )


def _part(scenario: ScenarioRecord, name: str) -> CellPart:
    state = summary.state(scenario, name)
    known, seen = scenario.series.get(name), scenario.phases.faulted.get(name)
    watched = known is None or known.watched
    match state:
        case "dark":
            text = numbers.duration(summary.longest_gap_s(scenario, name))
            title = f"{name}: dark, no expected answer for {text}"
        case "missed":
            text = f"{seen.sent - seen.ok:,} of {seen.sent:,}" if seen else "missed"
            title = f"{name}: probes failed, were late or got another answer ({text})"
        case "lit":
            text = numbers.milliseconds(seen.p99_ms if seen else None)
            title = f"{name}: lit, p99 in the fault window {text}"
        case _:
            text, title = "", f"{name}: no probes in the fault window"
    connection = (
        "kept" if (known and known.connection == "kept") or name.endswith("(kept-alive)") else "fresh"
    )
    return CellPart(connection, state, watched, text, title if watched else f"{title}; not judged")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("scenarios.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": numbers.duration,
        "ms": numbers.milliseconds,
        "ratio": numbers.ratio,
        "moment": numbers.moment,
        "value": numbers.value,
        "count": numbers.count,
    }
    environment.globals |= {
        "WORDS": WORDS,
        "CALLS_LISTED": CALLS_LISTED,
        "ROWS_SHOWN": ROWS_SHOWN,
        "LOG_LINES": LOG_LINES,
        "STACK_CHARACTERS": STACK_CHARACTERS,
        "state": summary.state,
        "time_to_admit": summary.time_to_admit,
        "seen_words": summary.seen_words,
        "title": title,
    }
    return environment


def _text(name: str) -> str:
    """The text of a template that goes into the page unchanged."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _policy(style: str, script: str) -> str:
    """The content security policy, which allows only this style and this script."""
    allowed = {
        "default": "'none'",
        "img": "data:",
        "style": f"'{_hash(style)}'",
        "script": f"'{_hash(script)}'",
    }
    sources = "; ".join(f"{kind}-src {source}" for kind, source in allowed.items())
    return f"{sources}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    """The hash by which a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
