"""Prints which fault bit by which way of getting in, on which Python, when the run is over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

MATRIX = "fault × way of getting in × Python"
PRINTED = pytest.StashKey[list[str]]()


class MatrixReport:
    """A pytest plugin that a test module registers and fills in."""

    def __init__(self, faults: Sequence[str]) -> None:
        self._faults = tuple(faults)
        self._cells: dict[tuple[str, str, str], str] = {}
        self._columns: list[tuple[str, str]] = []
        self._skipped: dict[str, list[str]] = {}

    def add(self, way: str, version: str, fault: str, *, bit: bool) -> None:
        """One cell."""
        if (way, version) not in self._columns:
            self._columns.append((way, version))
        self._cells[fault, way, version] = "✓" if bit else "✗"

    def skipped(self, what: str, reason: str) -> None:
        """A row or a column that cannot be had here."""
        self._skipped.setdefault(reason, []).append(what)

    def lines(self) -> list[str]:
        """The table: a row for each fault, a column for each way, the versions side by side in it."""
        ways = list(dict.fromkeys(way for way, _ in self._columns))
        versions = {way: [version for other, version in self._columns if other == way] for way in ways}
        width = max(map(len, self._faults), default=0)
        heads = {way: " ".join(versions[way]) for way in ways}
        wide = {way: max(len(way), len(heads[way])) for way in ways}
        lines = [
            " ".join([" " * width, *(f"│ {way:<{wide[way]}}" for way in ways)]),
            " ".join([" " * width, *(f"│ {heads[way]:<{wide[way]}}" for way in ways)]),
        ]
        for fault in self._faults:
            row = [f"{fault:<{width}}"]
            for way in ways:
                cells = " ".join(
                    f"{self._cells.get((fault, way, version), ' '):^{len(version)}}"
                    for version in versions[way]
                )
                row.append(f"│ {cells:<{wide[way]}}")
            lines.append(" ".join(row))
        return [*lines, *(f"not here: {', '.join(cells)}: {why}" for why, cells in self._skipped.items())]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand it to who prints it: to the process that started this worker, if this is one."""
        if workeroutput := getattr(session.config, "workeroutput", None):
            workeroutput[MATRIX] = self.lines()
        else:
            session.config.stash[PRINTED] = self.lines()
