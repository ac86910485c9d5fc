"""The facts about a load, and whether it was there."""

from __future__ import annotations

from dataclasses import dataclass

from scenarios.spec.loads import Idle, Scrape, SlowLoris, Storm
from scenarios.traffic.load.messages import GeneratedLoad, LoadTally

_KEPT_PACE = 0.5
"""A storm that started fewer than this share of what it should, or slow connections that sent less, were
not the load that was asked for."""

_KEPT_CONNECTIONS = 0.8


@dataclass(frozen=True, slots=True)
class LoadFacts:
    """One load over its life. `sustained`: it was what it should be for as long as the window was open, and
    `detail` says by what that is known, or what was missing. `started`, `answered`, `errors`: calls,
    requests, connections or clients. `open`: those at the window's end. `closed`: connections that the
    server closed, or clients that were killed. `left`: what it left behind in the server although the
    fault was released: nothing, if the server is sound. `left_detail`: how that is known.
    """

    kind: str
    name: str
    started: int
    answered: int
    errors: int
    open: int
    closed: int
    sustained: bool
    detail: str
    left: tuple[str, ...] = ()
    left_detail: str = ""


def facts(
    load: GeneratedLoad, opened: LoadTally, closed: LoadTally, window_s: float, left: tuple[str, ...]
) -> LoadFacts:
    """From a load's tallies when the window opened and when it closed."""
    match load:
        case Storm():
            kind, name, missing, detail = "storm", load.call, *_storm(load, opened, closed, window_s)
        case Scrape():
            kind, name, missing, detail = "scrape", load.probe, *_scrape(load, opened, closed, window_s)
        case SlowLoris():
            kind, name, missing, detail = "slow-loris", load.probe, *_slow(load, opened, closed, window_s)
        case Idle():
            kind, name, missing, detail = "idle", load.probe, *_held(load, closed)
    if closed.said:
        detail += f"; errors: {', '.join(closed.said)}"
    return LoadFacts(
        kind=kind,
        name=name,
        started=closed.started,
        answered=closed.answered,
        errors=closed.errors,
        open=closed.open,
        closed=closed.closed,
        sustained=not missing,
        detail="; ".join([*missing, detail]),
        left=left,
    )


def absent(load: GeneratedLoad, problem: str) -> LoadFacts:
    """The facts of a load about which nothing is known: it counts as not sustained."""
    name = load.call if isinstance(load, Storm) else load.probe
    kind = str(load.__struct_config__.tag)
    return LoadFacts(kind, name, 0, 0, 0, 0, 0, sustained=False, detail=problem)


def _storm(load: Storm, opened: LoadTally, closed: LoadTally, window_s: float) -> tuple[list[str], str]:
    started = closed.started - opened.started
    throttled = closed.throttled - opened.throttled
    missing = []
    if started + throttled + 1 < _KEPT_PACE * load.rate_hz * window_s:
        missing.append("too few calls were started")
    if not closed.answered and (closed.errors or not closed.open):
        missing.append("not one call was answered")
    return missing, (
        f"{started:,} calls started in the window's {window_s:.1f} s ({load.rate_hz:g} a second were due), "
        f"{closed.answered - opened.answered:,} answered, {closed.errors - opened.errors:,} in error, "
        f"{closed.open:,} under way at its end, {throttled:,} held back at {load.at_most:,} at once"
    )


def _scrape(load: Scrape, opened: LoadTally, closed: LoadTally, window_s: float) -> tuple[list[str], str]:
    asked = closed.started - opened.started
    waiting = closed.started - closed.answered - closed.errors
    wanted = _KEPT_CONNECTIONS * load.connections
    missing = []
    if min(closed.least_open, closed.established) < wanted:
        missing.append(f"too few connections: at one time {closed.least_open:,} of {load.connections:,}")
    if not asked and waiting < wanted:
        missing.append("nothing was asked")
    elif closed.errors and not closed.answered:
        missing.append("not one request was answered as the probe expects")
    return missing, (
        f"{_ends(closed)}; {asked:,} requests in the window's {window_s:.1f} s (at most {load.rate_hz:g} a "
        f"second), {closed.answered - opened.answered:,} answered, {max(0, waiting):,} waiting at its end, "
        f"{closed.errors - opened.errors:,} in error; the server closed {closed.closed:,} connections"
    )


def _slow(load: SlowLoris, opened: LoadTally, closed: LoadTally, window_s: float) -> tuple[list[str], str]:
    missing, detail = _held(load, closed)
    sent = closed.sent_bytes - opened.sent_bytes
    due = window_s / load.every_s - 1  # of each connection; one byte is due also where none must be held
    if sent < max(_KEPT_PACE * closed.least_open * due, float(due >= 1)):
        missing.append("too few bytes were sent")
    return missing, f"{detail}; {sent:,} bytes sent in the window's {window_s:.1f} s"


def _held(load: Idle | SlowLoris, closed: LoadTally) -> tuple[list[str], str]:
    wanted = load.count if load.held is None else load.held
    least = min(closed.least_open, closed.established)
    missing = []
    if closed.answered < load.count:
        missing.append(f"only {closed.answered:,} connections could be made")
    if least < wanted:
        hint = (
            ""
            if not closed.closed
            else f": the server let no more stay (`held = {least}`, if that is its limit)"
        )
        missing.append(f"at one time only {least:,} of {wanted:,} were open{hint}")
    replaced = f"; the server closed {closed.closed:,}, which were opened again" if closed.closed else ""
    return missing, (
        f"{closed.answered:,} connections made for {load.count:,}, never fewer than {closed.least_open:,} "
        f"open in the window; {_ends(closed)}{replaced}"
    )


def _ends(closed: LoadTally) -> str:
    accepted = "" if closed.accepted is None else f", of which the server has accepted {closed.accepted:,}"
    return f"at its end the kernel has {closed.established:,} established{accepted}"
