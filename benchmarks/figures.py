"""Figures and how they are taken: subjects and floors in alternating batches, so that noise hits both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Shot = Callable[[], object]
"""One timed request. Raises on any answer that is not the expected one: a fast wrong answer is no figure."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Round trips of one subject, in seconds."""

    samples_s: tuple[float, ...]

    def quantile_ms(self, q: float) -> float:
        """Nearest-rank quantile in milliseconds. `q` in (0, 1]."""
        ordered = sorted(self.samples_s)
        return ordered[max(0, math.ceil(q * len(ordered)) - 1)] * 1e3

    @property
    def p50_ms(self) -> float:
        return self.quantile_ms(0.5)

    @property
    def p99_ms(self) -> float:
        return self.quantile_ms(0.99)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. `limit` is the bound from the design; None where a figure is only shown."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the bound holds; None without a bound."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(slots=True)
class Section:
    """The rows of one benchmark under one heading."""

    title: str
    about: str
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        limit: float | None = None,
        at_least: bool = False,
        note: str = "",
    ) -> None:
        """Append a row."""
        self.rows.append(Row(what, value, unit, limit, at_least, note))


def alternate(subjects: Mapping[str, Shot], *, rounds: int, batch: int) -> dict[str, Latencies]:
    """Time every subject in turns: `rounds` rounds of `batch` shots each, after one untimed batch."""
    for shot in subjects.values():
        for _ in range(batch):
            shot()
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    clock = time.perf_counter
    for _ in range(rounds):
        for name, shot in subjects.items():
            taken = samples[name]
            for _ in range(batch):
                begun = clock()
                shot()
                taken.append(clock() - begun)
    return {name: Latencies(tuple(taken)) for name, taken in samples.items()}


def render(sections: Sequence[Section]) -> str:
    """Markdown tables, one a section; a bound that does not hold is said so in words."""
    lines: list[str] = []
    for section in sections:
        lines += [
            f"## {section.title}",
            "",
            section.about,
            "",
            "| what | figure | bound | |",
            "|---|---:|---:|---|",
        ]
        for row in section.rows:
            sign = "≥" if row.at_least else "≤"
            bound = "" if row.limit is None else f"{sign} {row.limit:g}"
            verdict = {None: row.note, True: f"holds. {row.note}", False: f"**falls short**. {row.note}"}[
                row.holds
            ]
            lines.append(f"| {row.what} | {row.value:,.3g} {row.unit} | {bound} | {verdict.strip()} |")
        lines.append("")
    return "\n".join(lines)
