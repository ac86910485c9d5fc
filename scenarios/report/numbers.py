"""Numbers as people read them: two or three digits, the unit beside them, and a dash where there is none."""

from __future__ import annotations

import math
from typing import Final

NONE: Final = "–"


def duration(seconds: float | None) -> str:
    """`0.56 ms`, `340 ms`, `2.6 s`, `1 min 04 s`; a dash for None."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 0:
        return f"−{duration(-seconds)}"
    ms = 1000 * seconds
    if ms < 9.95:
        return f"{ms:.2f} ms" if 0 < ms < 0.995 else f"{ms:.1f} ms" if ms else "0 ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def milliseconds(ms: float | None) -> str:
    """As `duration`, of a number of milliseconds."""
    return duration(None if ms is None else ms / 1000)


def power_of_ten(power: int) -> str:
    """10 to the power of `power` seconds, as an axis has it: `10 ms`, `0.1 s`, `1 s`."""
    label = {-6: "1 µs", -5: "10 µs", -4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "0.1 s"}.get(power)
    return label or f"{10**power} s"


def ratio(value: float | None) -> str:
    """`1.2×`, `340×`; a dash for None."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.2f}×" if value < 2 else f"{value:.1f}×" if value < 10 else f"{value:,.0f}×"


def moment(seconds: float) -> str:
    """A time relative to the opening of the window: `−0.4 s`, `0 s`, `+2.4 s`."""
    text = f"{abs(seconds):.2f}".rstrip("0").rstrip(".")
    return "0 s" if text == "0" else f"{'−' if seconds < 0 else '+'}{text} s"


def count(n: int, noun: str, plural: str = "") -> str:
    """`1 scenario`, `1,000 scenarios`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def value(given: object) -> str:
    """A parameter's value on one line, as a command line would have it."""
    match given:
        case bool():
            return "true" if given else "false"
        case str():
            return given
        case float():
            return f"{given:g}"
        case list() | tuple():
            return ",".join(value(v) for v in given)
        case dict():
            return "{" + ", ".join(f"{k}={value(v)}" for k, v in given.items()) + "}"
        case _:
            return str(given)
