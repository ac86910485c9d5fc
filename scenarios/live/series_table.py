"""The endpoints as rows: state, a moving strip of lit and dark, latencies and the longest gap; and figures in
the width of a column, two or three digits, with a dash where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.text import Text

from scenarios.live.endpoints import Endpoints, EndpointStatus, Mark
from scenarios.record import SeriesState
from scenarios.report.numbers import NONE, duration
from scenarios.terminal.rows import COLOURS

_MARKS: dict[Mark | None, tuple[str, str]] = {
    "lit": ("▇", COLOURS["lit"]),
    "missed": ("▄", "yellow"),
    "dark": ("▁", "bold red"),
    "waiting": ("·", "dim"),
    None: (" ", ""),
}
_STATES: dict[SeriesState, tuple[str, str]] = {
    "lit": ("● lit", COLOURS["lit"]),
    "missed": ("◐ missed", "yellow"),
    "dark": ("○ dark", "bold red"),
    "unknown": ("· waiting", "dim"),
}
_STATE, _LAST, _PAIR, _GAP, _BETWEEN = 13, 9, 11, 9, 2
_LONGEST_NAME_SHARE = 4
_FEWEST_CELLS = 8


def rows(endpoints: Endpoints, width: int) -> list[Text]:
    """A heading and one row an endpoint, each `width` cells at most."""
    longest = max(12, width // _LONGEST_NAME_SHARE)
    name_width = min(longest, max(len(name) for name in endpoints.names))
    fixed = name_width + _STATE + _LAST + _PAIR + _GAP + 5 * _BETWEEN
    cells = max(_FEWEST_CELLS, width - fixed)
    span = f"{cells * endpoints.slice_s:.0f} s"
    heading = _row(
        ("endpoint", name_width, str.ljust), ("state", _STATE, str.ljust), (span, cells, str.ljust),
        ("last", _LAST, str.rjust), ("p50/p99 ms", _PAIR, str.rjust), ("worst gap", _GAP, str.rjust),
    )  # fmt: skip
    heading.stylize("dim")
    return [heading, *(_lane(seen, name_width, cells) for seen in endpoints.seen(cells))]


def strip(marks: Iterable[Mark | None]) -> Text:
    """High for lit, half for missed, low for dark, so that the shape alone tells the state."""
    text = Text()
    for mark in marks:
        text.append(*_MARKS[mark])
    return text


def last(seen: EndpointStatus) -> str:
    """The last answer's latency, or the outcome of a probe without an answer."""
    if seen.outcome is None or seen.outcome == "ok":
        return latency(seen.last_s)
    return f"{seen.outcome} {seen.status}" if seen.outcome == "wrong" and seen.status else seen.outcome


def _lane(seen: EndpointStatus, name_width: int, cells: int) -> Text:
    state, style = _STATES[seen.state]
    if seen.dark_s is not None:
        state += f" {age(seen.dark_s)}"
    text = _row((seen.name, name_width, str.ljust))
    text.append(" " * _BETWEEN)
    text.append(state.ljust(_STATE), style=style)
    text.append(" " * _BETWEEN)
    text.append_text(strip(seen.strip))
    text.append(" " * (cells - len(seen.strip)))
    for word, width in (
        (last(seen), _LAST),
        (pair(seen.p50_s, seen.p99_s), _PAIR),
        (latency(seen.longest_gap_s), _GAP),
    ):
        text.append(" " * _BETWEEN + word[:width].rjust(width))
    return text


def _row(*cells: tuple[str, int, Callable[[str, int], str]]) -> Text:
    gap = " " * _BETWEEN
    return Text(gap.join(pad(_cut(word, width), width) for word, width, pad in cells), no_wrap=True)


def _cut(word: str, width: int) -> str:
    return word if len(word) <= width else word[: width - 1] + "…"


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
