"""Scenarios as faults by targets: many on several targets are read faster across than down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scenarios.record.model import Scenario


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows are scenarios' names without their target. `prefix`: what all targets' names begin with."""

    prefix: str
    rows: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[tuple[str, str], Scenario]

    def short(self, target: str) -> str:
        """A target's name without what all have."""
        return target.removeprefix(self.prefix)


def grid(scenarios: Iterable[Scenario]) -> Grid | None:
    """The scenarios crossed, in the order of the run; None where that takes as many rows as there are
    scenarios.
    """
    cells = {(s.name.removesuffix(f"@{s.target}"), s.target): s for s in scenarios}
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    targets = tuple(dict.fromkeys(target for _, target in cells))
    return Grid(_prefix(targets), rows, targets, cells) if len(rows) < len(cells) else None


def _prefix(targets: Sequence[str]) -> str:
    """Up to a hyphen."""
    first, last = min(targets), max(targets)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common, hyphen, _ = first[:same].rpartition("-")
    return common + hyphen
