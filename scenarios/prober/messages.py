"""The messages between the runner and the prober: one JSON line each, all times in `time.monotonic()`
seconds.

CLOCK_MONOTONIC is one clock for the whole machine, so the two processes need no other agreement on time.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["ok", "wrong", "timeout", "refused", "reset", "error", "cut"]


class HttpSeries(msgspec.Struct, frozen=True, tag="http", tag_field="kind"):
    """A request for `url` over fresh or kept connections, to `address` (unix:/PATH) where it is given, every
    `period_s` from `offset_s` on, given up after `give_up_s`. Good is a status in `status` with a body in
    which the regex `body` is found. `content` is sent along, and is JSON (`json`) unless the headers say
    otherwise."""

    url: str
    kept: bool
    period_s: float
    offset_s: float
    give_up_s: float
    status: tuple[int, ...] = (200,)
    body: str | None = None
    headers: dict[str, str] = {}
    method: str = "GET"
    content: bytes = b""
    json: bool = False
    address: str | None = None


class GrpcSeries(msgspec.Struct, frozen=True, tag="grpc", tag_field="kind"):
    """A health check of `service` over fresh or kept channels. Good is a serving status in `serving`. With a
    `method`, that method with an empty message; good is any answer, and its status is SERVING."""

    address: str
    kept: bool
    period_s: float
    offset_s: float
    give_up_s: float
    service: str = ""
    serving: tuple[str, ...] = ("SERVING",)
    method: str | None = None


class TcpSeries(msgspec.Struct, frozen=True, tag="tcp", tag_field="kind"):
    """A connection to `address` (HOST:PORT or unix:/PATH), fresh or kept. Good is that it is accepted; or,
    with `expect`, that this regex is found in what comes back, after `send` was sent."""

    address: str
    kept: bool
    period_s: float
    offset_s: float
    give_up_s: float
    send: bytes = b""
    expect: str | None = None


class CommandSeries(msgspec.Struct, frozen=True, tag="command", tag_field="kind"):
    """A command, started in the folder `cwd` (None: where the prober is) every `period_s` and killed after
    `give_up_s`. Good is that it ends with status 0."""

    command: tuple[str, ...]
    period_s: float
    offset_s: float
    give_up_s: float
    cwd: str | None = None


ProbedSeries = HttpSeries | GrpcSeries | TcpSeries | CommandSeries


class StartWatch(msgspec.Struct, frozen=True, tag="watch"):
    """Probe these series, by number, from `start_s` on, until `Pause`."""

    series: tuple[ProbedSeries, ...]
    start_s: float


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Stop, close every connection, and say `Paused`. Probes under way are reported as `cut`."""


ProberCommand = StartWatch | Pause


class Probed(msgspec.Struct, frozen=True, array_like=True):
    """One probe: the number of its series, intended start, actual send, end, outcome, status."""

    series: int
    at_s: float
    sent_s: float | None
    ended_s: float | None
    outcome: Outcome
    status: int


class Began(msgspec.Struct, frozen=True, array_like=True):
    """A probe began: the number of its series, its intended start, and its actual start."""

    series: int
    at_s: float
    taken_up_s: float


class Batch(msgspec.Struct, frozen=True, tag="batch"):
    """The probes that began or ended since the last batch, and the prober's CPU time so far.

    Sent every `HEARTBEAT_S`, even if empty, so silence means that something is wrong with the prober.
    """

    now_s: float
    began: tuple[Began, ...]
    probed: tuple[Probed, ...]
    cpu_s: float


class Paused(msgspec.Struct, frozen=True, tag="paused"):
    """Everything is reported; `open_connections` could not be closed, and should be 0."""

    open_connections: int


ProberReport = Batch | Paused

HEARTBEAT_S = 0.05
