"""The report as Markdown for a CI job's page (`$GITHUB_STEP_SUMMARY`): what did not pass first.

GitHub cuts a step's summary at 1 MiB, so this one stays well below: what passes is one folded table, and the
rows that do not fit are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from scenarios.record import Report, ScenarioRecord
from scenarios.record.stability import in_words
from scenarios.report import headline, numbers, summary

SIGNS: Final = {"pass": "✅", "fail": "❌", "unproven": "⚠️"}
LIMIT_BYTES: Final = 900 * 1024
_DETAILED: Final = 50
_LEGEND: Final = (
    "A time is the worst endpoint's p99 under the fault, of what stayed lit; ✅ with a word: it had to be so."
)
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$@!])")


def render(report: Report) -> str:
    """The summary, ending in a newline."""
    counts = summary.verdict_counts(report)
    about = [
        f"{numbers.count(counts.total, 'scenario')} in {numbers.duration(report.duration_s)}",
        f"seed {report.seed}",
        *([f"suite {_text(report.suite.name)}"] if report.suite.name else []),
        *([_text(report.host.platform)] if report.host.platform else []),
        *([_text(overhead)] if (overhead := summary.overhead(report)) else []),
    ]
    if report.stability is not None:
        about.append(_text(in_words(report.stability)))
    lines = [f"## {SIGNS[counts.verdict]} wedge: {counts.words()}", "", " · ".join(about), ""]
    if sentence := headline.sentence(report):
        lines += [f"**{_text(sentence)}**", ""]
    notes = [f"- {SIGNS['fail']} {_text(p)}" for p in summary.suite_problems(report)]
    notes += [f"- {SIGNS['unproven']} {_text(r)}" for r in summary.remarks(report)]
    lines += [*notes, *([""] if notes else [])]
    crossed = summary.grid(report.scenarios)
    if crossed is not None:
        lines += [*_crossed(crossed), "", _LEGEND, ""]
    ordered = summary.worst_first(report)
    bad = [s for s in ordered if s.verdict != "pass"]
    if bad:
        lines += [*_table(bad), ""]
        for scenario in bad[:_DETAILED]:
            lines += _detail(scenario)
        if len(bad) > _DETAILED:
            lines += [f"and {numbers.count(len(bad) - _DETAILED, 'more', 'more')}: see the table.", ""]
        lines += ["Reproduce:", "", *_fenced(s.reproduce for s in bad[:_DETAILED]), ""]
    if report.pooled:
        lines += [*_pooled(report), ""]
    good = [s for s in ordered if s.verdict == "pass"]
    if good:
        heading = f"{numbers.count(len(good), 'scenario')} passed"
        lines += [
            f"<details{'' if bad or crossed else ' open'}><summary>{heading}</summary>",
            "",
            *_table(good),
            "",
            "</details>",
            "",
        ]
    return _bounded(lines)


def _crossed(crossed: summary.Grid) -> Iterable[str]:
    """The scenarios as a table, faults down and targets across."""
    prefix = _code(f"{crossed.prefix}…") if crossed.prefix else "scenario"
    yield f"| {prefix} | {' | '.join(_text(crossed.short(target)) for target in crossed.targets)} |"
    yield "|---" * (1 + len(crossed.targets)) + "|"
    for row in crossed.rows:
        found = (crossed.cells.get((row, target)) for target in crossed.targets)
        yield f"| {_code(row)} | {' | '.join(_cell(s) if s is not None else '' for s in found)} |"


def _cell(scenario: ScenarioRecord) -> str:
    word = summary.cell_label(scenario)
    return f"✅ {word}" if scenario.verdict == "pass" else f"{SIGNS[scenario.verdict]} **{word}**"


def _pooled(report: Report) -> Iterable[str]:
    """The latencies of the run, added up by target and endpoint."""
    yield "| all scenarios that had to stay lit | answered | baseline p50 / p99 / p99.9 | under the fault |"
    yield "|---|---:|---:|---:|"
    for line in summary.pooled_lines(report):
        scenarios = numbers.count(line.scenarios, "scenario")
        name = f"&emsp;{_text(line.endpoint)}" if line.endpoint else f"{_code(line.target)}, {scenarios}"
        answered = f"{line.faulted.ok:,} / {line.faulted.sent:,}"
        figures = (
            " / ".join(map(numbers.milliseconds, summary.reliable_percentiles(found)))
            for found in (line.baseline, line.faulted)
        )
        yield f"| {name} | {answered} | {' | '.join(figures)} |"


def _table(scenarios: Iterable[ScenarioRecord]) -> Iterable[str]:
    yield (
        "| | scenario | expected | observed | admitted after | worst endpoint | in the fault window "
        "| × p50 / p99 | time |"
    )
    yield "|---|---|---|---|---:|---|---|---:|---:|"
    for s in scenarios:
        series = summary.worst_series(s)
        cells = [
            SIGNS[s.verdict],
            _code(s.name),
            s.expected,
            summary.seen_words(s) if s.observed == s.expected else f"**{summary.seen_words(s)}**",
            summary.time_to_admit(s) or numbers.NONE,
            _text(series) if series else numbers.NONE,
            _state(s, series) if series else numbers.NONE,
            _ratios(s, series),
            numbers.duration(s.duration_s),
        ]
        yield f"| {' | '.join(cells)} |"


def _state(scenario: ScenarioRecord, series: str) -> str:
    seen = scenario.phases.faulted.get(series)
    match summary.state(scenario, series):
        case "dark":
            return f"dark for {numbers.duration(summary.longest_gap_s(scenario, series))}"
        case "missed":
            return f"{seen.sent - seen.ok:,} of {seen.sent:,} missed" if seen else "missed"
        case "lit":
            return f"lit, p99 {numbers.milliseconds(seen.p99_ms if seen else None)}"
        case _:
            return numbers.NONE


def _ratios(scenario: ScenarioRecord, series: str | None) -> str:
    found = scenario.ratios.get(series) if series else None
    if found is None or (found.p50 is None and found.p99 is None):
        return numbers.NONE
    return f"{numbers.ratio(found.p50)} / {numbers.ratio(found.p99)}"


def _detail(scenario: ScenarioRecord) -> Iterable[str]:
    """The reasons of one scenario, and the evidence of its bite."""
    yield f"**{SIGNS[scenario.verdict]} {_code(scenario.name, cell=False)}**"
    yield ""
    for reason in scenario.reasons or (summary.why(scenario),):
        yield f"- {_text(reason)}"
    for line in scenario.bite.evidence:
        yield f"- bite: {_text(line)}"
    yield ""


def _text(text: str) -> str:
    """The text on one line, escaped so that it contains no markup, no HTML and no mention of a user."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str, *, cell: bool = True) -> str:
    """A code span, fenced by more backticks than it holds; in a table even there a bar has to be escaped."""
    text = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text.replace('|', chr(92) + '|') if cell else text}{pad}{fence}"


def _fenced(lines: Iterable[str]) -> Iterable[str]:
    text = [" ".join(line.split()) for line in lines]
    fence = "`" * max(3, 1 + max((len(run) for line in text for run in re.findall("`+", line)), default=0))
    yield f"{fence}sh"
    yield from text
    yield fence


def _bounded(lines: list[str]) -> str:
    """The lines that fit, and a count of those that do not."""
    whole = "\n".join(lines).rstrip() + "\n"
    if len(whole.encode()) <= LIMIT_BYTES:
        return whole
    kept, size = [], 0
    for line in lines:
        size += len(line.encode()) + 1
        if size > LIMIT_BYTES:
            break
        kept.append(line)
    left = len(lines) - len(kept)
    note = f"Cut here: {numbers.count(left, 'more line')}; see the HTML or JSON report."
    return "\n".join(kept).rstrip() + f"\n\n{note}\n"
