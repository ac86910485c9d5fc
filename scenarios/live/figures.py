"""Figures in the width of a column: two or three digits, and a dash where there is none."""

from __future__ import annotations

from scenarios.report.numbers import NONE, duration


def latency(seconds: float | None) -> str:
    """As `0.31 ms`, `12 ms`, `2.6 s`: nine characters at most below an hour."""
    if seconds is None:
        return NONE
    return duration(seconds) if seconds < 59.95 else age(seconds)


def pair(one_s: float | None, other_s: float | None) -> str:
    """Two latencies in milliseconds, without the unit: `0.3/1.2`, `12/340`."""
    return f"{_ms(one_s)}/{_ms(other_s)}" if one_s is not None else NONE


def age(seconds: float) -> str:
    """How long something lasts: `12.3 s`, `123 s`, `12 min`, `3.4 h`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    ms = seconds * 1e3
    return f"{ms:.2f}" if ms < 0.995 else f"{ms:.1f}" if ms < 9.95 else f"{ms:.0f}"
