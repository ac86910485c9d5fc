"""The figures of a report: samples, lanes, and what is made of their latencies."""

from __future__ import annotations

from typing import Literal, overload

import msgspec

Outcome = Literal["ok", "wrong", "timeout", "refused", "reset", "error", "cut"]
"""What became of one probe: `ok` the expected answer; `wrong` another answer (its status is in the sample);
`timeout` none before the prober gave up; `refused`/`reset`/`error` the connection failed; `cut` the watch
ended before the answer could be due, so it speaks neither for nor against the endpoint."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One probe, written as `[at_s, sent_s, ended_s, outcome, status]`.

    `at_s` is when the schedule meant it to start. Latency is always `ended_s - at_s`, never
    `ended_s - sent_s`: what a probe waited for its turn is part of what a user would have waited.
    `status` is the HTTP status or the gRPC serving status, 0 where there was none.
    """

    at_s: float
    sent_s: float | None
    ended_s: float | None
    outcome: Outcome
    status: int = 0

    @property
    def latency_s(self) -> float | None:
        """Seconds from the intended start to the end; None for a probe that never ended."""
        return None if self.ended_s is None else self.ended_s - self.at_s


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """What one row of samples is: an endpoint over one kind of connection. Lanes may share an `endpoint`."""

    endpoint: str
    kind: Literal["http", "grpc", "tcp"]
    connection: Literal["fresh", "kept"]
    address: str
    budget_s: float
    period_s: float
    watched: bool = True
    role: Literal["liveness", "readiness"] | None = None


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of the good answers, from the intended start of each. Percentiles by nearest rank: of too few
    answers (100 for `p99_ms`, 1,000 for `p999_ms`) one is the maximum. `hdr` is the HDR histogram of the same
    answers in microseconds (1 to 60,000,000, three digits; V2, compressed, base64), so that scenarios and
    runs can be added up; empty in reports from before it was kept.
    """

    sent: int
    ok: int
    p50_ms: float | None
    p90_ms: float | None = None
    p99_ms: float | None
    p999_ms: float | None = None
    max_ms: float | None
    hdr: str = ""


class Latency(Distribution, frozen=True, kw_only=True):
    """One lane in one phase. `longest_gap_ms`: the longest stretch of the phase without a good answer."""

    longest_gap_ms: float


class Pooled(msgspec.Struct, frozen=True, kw_only=True):
    """One lane of one target over many scenarios: those with a fault that were expected to be lit and could
    be judged. Each gave its baseline and its fault window, so that like is held against like.
    """

    endpoint: str
    connection: Literal["fresh", "kept"]
    scenarios: int
    baseline: Distribution
    faulted: Distribution


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Faulted over baseline latency; None where either side has no answers."""

    p50: float | None
    p99: float | None


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Latency by lane name. A lane's name is its endpoint, with ` (kept-alive)` for kept connections."""

    baseline: dict[str, Latency] = {}
    faulted: dict[str, Latency] = {}
    recovered: dict[str, Latency] = {}


def microsecond(at_s: float) -> float:
    """The nearest whole microsecond. What is judged is on this grid from the start, so that a stored report
    has the same times as its run, and ties stay ties."""
    return round(at_s, 6)


@overload
def relative(at_s: float, origin_s: float) -> float: ...
@overload
def relative(at_s: None, origin_s: float) -> None: ...
@overload
def relative(at_s: float | None, origin_s: float) -> float | None: ...
def relative(at_s: float | None, origin_s: float) -> float | None:
    """A time as a report has it: seconds since `origin_s`, to the microsecond; None stays None."""
    return None if at_s is None else microsecond(at_s - origin_s)
