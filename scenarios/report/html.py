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

from scenarios.record import stability
from scenarios.record.model import Report, Scenario, Verdict
from scenarios.report import curves, numbers, summary, timeline
from scenarios.report.grid import grid

OPEN_AT_FIRST: Final = 6
"""So many scenarios that did not pass are unfolded when the page opens."""
ROWS_SHOWN: Final = 12
"""With more scenarios than this, the endpoints of what passed are folded away under the matrix."""
CALLS_LISTED: Final = 40
LOG_LINES: Final = 200
STACK_CHARACTERS: Final = 24_000

WORDS: Final[dict[Verdict, str]] = {"pass": "passed", "fail": "failed", "unproven": "unproven"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One lane in a cell of the overview."""

    connection: str
    state: summary.LaneState
    watched: bool
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario: where it stands on the page, its overview cells by endpoint, and its drawing."""

    anchor: str
    scenario: Scenario
    why: str
    cells: tuple[tuple[Piece, ...], ...]
    drawing: timeline.Timeline | None
    lanes: tuple[str, ...]
    open: bool


def render(report: Report) -> str:
    """The whole page. Its size follows the number of scenarios, hardly that of their samples."""
    ordered = summary.worst_first(report)
    crossed = grid(report.scenarios)
    endpoints = tuple(dict.fromkeys(_endpoint(s, lane) for s in ordered for lane in summary.lanes(s)))
    unfold = [s for s in ordered if s.verdict != "pass"][:OPEN_AT_FIRST] or list(ordered[:1])
    rows = tuple(
        Row(
            anchor=f"s{number}",
            scenario=s,
            why=summary.why(s),
            cells=tuple(_cell(s, endpoint) for endpoint in endpoints),
            drawing=timeline.draw(s),
            lanes=summary.lanes(s),
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
            tally=summary.tally(report),
            problems=summary.wider_problems(report),
            remarks=summary.remarks(report),
            rows=rows,
            endpoints=endpoints,
            targets=sorted({s.target for s in ordered}),
            faults=sorted({s.fault.name for s in ordered}),
            cross=crossed,
            spots={s.name: summary.spot(s) for s in report.scenarios},
            curves=curves.draw(report.pooled),
            overhead=summary.overhead(report),
            steady=stability.in_words(report.stability) if report.stability else "",
            anchors={row.scenario.name: row.anchor for row in rows},
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )


def _endpoint(scenario: Scenario, lane: str) -> str:
    known = scenario.lanes.get(lane)
    return known.endpoint if known else lane.removesuffix(" (kept-alive)")


def _cell(scenario: Scenario, endpoint: str) -> tuple[Piece, ...]:
    return tuple(
        _piece(scenario, lane) for lane in summary.lanes(scenario) if _endpoint(scenario, lane) == endpoint
    )


def _piece(scenario: Scenario, lane: str) -> Piece:
    state = summary.lane_state(scenario, lane)
    known, seen = scenario.lanes.get(lane), scenario.phases.faulted.get(lane)
    watched = known is None or known.watched
    match state:
        case "dark":
            text = numbers.duration(summary.longest_gap_s(scenario, lane))
            title = f"{lane}: dark, no expected answer for {text}"
        case "missed":
            text = f"{seen.sent - seen.ok:,} of {seen.sent:,}" if seen else "missed"
            title = f"{lane}: probes failed, were late or got another answer ({text})"
        case "lit":
            text = numbers.milliseconds(seen.p99_ms if seen else None)
            title = f"{lane}: lit, p99 in the fault window {text}"
        case _:
            text, title = "", f"{lane}: no probes in the fault window"
    connection = (
        "kept" if (known and known.connection == "kept") or lane.endswith("(kept-alive)") else "fresh"
    )
    return Piece(connection, state, watched, text, title if watched else f"{title}; not judged")


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
        "lane_state": summary.lane_state,
    }
    return environment


def _text(name: str) -> str:
    """A file that goes into the page as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _policy(style: str, script: str) -> str:
    """The content security policy: nothing from anywhere, but for this very style and script."""
    allowed = {
        "default": "'none'",
        "img": "data:",
        "style": f"'{_hash(style)}'",
        "script": f"'{_hash(script)}'",
    }
    sources = "; ".join(f"{kind}-src {source}" for kind, source in allowed.items())
    return f"{sources}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    """As a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
