"""`wedge watch`: endpoints of a server that runs already, on a screen, as lines, or as JSON."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console
from rich.text import Text

from scenarios.live import series_table
from scenarios.live.arguments import WatchRequest
from scenarios.live.endpoints import Endpoints, EndpointStatus, StateChange
from scenarios.live.screen import Screen, TerminalGone, forget_stdout
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.series import SeriesSet

DRAW_EVERY_S = 0.2
LATE_S = 0.5
"""From here on the prober's own lateness is shown: it looks like the server's."""

Output = Callable[[Endpoints], None]


@asynccontextmanager
async def probing(prober: ProberHandle, series: SeriesSet) -> AsyncIterator[Endpoints]:
    """Probe the series for as long as the context lasts. Raises `ProberFailed`."""
    # wait for the prober: one that is still starting would be late, which looks like dark
    await prober.news()
    began_s = soon()
    endpoints = Endpoints(series, began_s)
    prober.on_batch = endpoints.add
    await prober.watch(series.probed, began_s)
    try:
        yield endpoints
    finally:
        prober.on_batch = None


async def watch(asked: WatchRequest, tell: Output, for_s: float | None) -> None:
    """Probe, and hand the endpoints to `tell` after every batch; for `for_s` seconds, or until cancelled
    where it is None. Raises `ProberFailed`.
    """
    async with ProberHandle() as prober, probing(prober, asked.series) as endpoints:
        while for_s is None or endpoints.now_s < endpoints.began_s + for_s:
            await prober.news()
            tell(endpoints)


class ScreenOutput:
    """Draws the endpoints on the screen, five times a second."""

    def __init__(self, screen: Screen, title: str) -> None:
        self._screen, self._title = screen, title
        self._drawn_s = -math.inf

    def __call__(self, endpoints: Endpoints) -> None:
        """Draw, unless the last drawing is more recent than `DRAW_EVERY_S`. Raises `TerminalGone`."""
        if endpoints.now_s - self._drawn_s < DRAW_EVERY_S:
            return
        self._drawn_s = endpoints.now_s
        lasts = series_table.age(max(0.0, endpoints.now_s - endpoints.began_s))
        title = Text(f"wedge watch · {self._title} · {lasts}", style="bold")
        foot = [Text("▇ lit  ▄ missed  ▁ dark  · waiting      Ctrl-C leaves", style="dim")]
        foot += lateness(endpoints)
        self._screen.draw([title, Text(), *series_table.rows(endpoints, self._screen.width), Text(), *foot])


class LineOutput:
    """Prints a line whenever an endpoint goes dark or comes back."""

    def __call__(self, endpoints: Endpoints) -> None:
        """Print the changes. Raises `TerminalGone`."""
        for change in endpoints.changes():
            _echo(f"{datetime.now().astimezone():%H:%M:%S} {describe(change)}")


class JsonOutput:
    """Prints a JSON object every second."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, endpoints: Endpoints) -> None:
        """Print the object, once in every second of the watch. Raises `TerminalGone`."""
        elapsed_s = endpoints.now_s - endpoints.began_s
        if elapsed_s < self._told + 1:
            return
        self._told = math.floor(elapsed_s)
        _echo(msgspec.json.encode(as_value(endpoints)).decode())


def describe(change: StateChange) -> str:
    """`http /health: lit → dark (no answer for 2.0 s; the last probe: timeout)`."""
    if change.first:
        way = "dark" if change.dark else "lit"
    else:
        way = "lit → dark" if change.dark else "dark → lit"
    told = []
    if change.after_s is not None:
        told.append(f"{'no answer for' if change.dark else 'after'} {series_table.age(change.after_s)}")
    if change.dark and change.outcome is not None:
        told.append(f"the last probe: {change.outcome}")
    return f"{change.name}: {way}" + (f" ({'; '.join(told)})" if told else "")


def as_value(endpoints: Endpoints) -> dict[str, object]:
    """What `--json` prints. Units are in the keys; null: there is no such figure."""
    seen = endpoints.seen()
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "elapsed_s": round(endpoints.now_s - endpoints.began_s, 3),
        "lit": all(endpoint.state in ("lit", "missed") for endpoint in seen),
        "endpoints": [_endpoint(endpoint) for endpoint in seen],
        "prober": {"late_max_ms": _ms(endpoints.late_s())},
    }


def lateness(endpoints: Endpoints) -> list[Text]:
    """A warning if the prober itself is so late that its figures mean little."""
    late_s = endpoints.late_s()
    if late_s < LATE_S:
        return []
    return [Text(f"the prober itself was up to {series_table.latency(late_s)} late: this machine is too busy",
                 style="yellow")]  # fmt: skip


def summary(endpoints: Endpoints, console: Console) -> None:
    """Print the last state, which stays in the terminal after the screen is closed."""
    for line in series_table.rows(endpoints, console.width):
        console.print(line, soft_wrap=True, highlight=False)


def _endpoint(seen: EndpointStatus) -> dict[str, object]:
    return {
        "name": seen.name,
        "state": seen.state,
        "dark_s": None if seen.dark_s is None else round(seen.dark_s, 3),
        "outcome": seen.outcome,
        "status": seen.status,
        "last_ms": _ms(seen.last_s),
        "p50_ms": _ms(seen.p50_s),
        "p99_ms": _ms(seen.p99_s),
        "longest_gap_ms": _ms(seen.longest_gap_s),
        "sent": seen.sent,
        "ok": seen.ok,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _echo(line: str) -> None:
    try:
        click.echo(line)
    except OSError:
        forget_stdout()
        raise TerminalGone from None
