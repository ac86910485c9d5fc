"""The measurements: the probes of each series, and the latencies derived from them."""

from __future__ import annotations

from typing import Literal, overload

import msgspec

Outcome = Literal["ok", "wrong", "timeout", "refused", "reset", "error", "cut"]
"""What became of one probe. `ok`: the expected answer came, however late. `wrong`: another answer came; its
status is in the sample. `timeout`: no answer came before the prober gave up. `refused`, `reset`, `error`: the
connection failed. `cut`: the watch ended while the probe was under way, so it counts neither for nor against
the endpoint."""

SeriesState = Literal["lit", "missed", "dark", "unknown"]
"""How a series took the fault. `lit`: every probe that counted was answered as expected within its budget.
`dark`: the series is watched and got no expected answer for longer than its budget. `missed`: neither; some
probes failed, were late, or got another answer. `unknown`: nothing was measured in the fault window."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One probe, written as `[at_s, sent_s, ended_s, outcome, status]`.

    `at_s` is when the schedule meant it to start. Latency is always `ended_s - at_s`, never
    `ended_s - sent_s`: what a probe waited for its turn is part of what a user would have waited.
    `status` is the HTTP status, the gRPC serving status or a command's exit status, 0 where there was none.
    `sent_s` is None for a probe that was never sent, `ended_s` for one that never ended.
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


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One series of probes: an endpoint over one kind of connection, on a fixed schedule.

    Two series may share an `endpoint`, one over fresh connections and one over a kept connection. The verdict
    depends on `watched` series only. `role` says which of a kubelet's probes asks this endpoint;
    `not_replayed`, in words for after its name, why its answers are not those that a kubelet would get.
    """

    endpoint: str
    kind: Literal["http", "grpc", "tcp", "command"]
    connection: Literal["fresh", "kept"]
    address: str
    budget_s: float
    period_s: float
    watched: bool = True
    role: Literal["liveness", "readiness"] | None = None
    not_replayed: str | None = None


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of the good answers, each from the intended start of its probe.

    Percentiles are by nearest rank, so with fewer than 100 answers `p99_ms` is the maximum, and with fewer
    than 1,000 so is `p999_ms`. `hdr` is the HDR histogram of the same answers in microseconds (1 to
    60,000,000, three significant digits; V2 encoding, compressed, base64), so that scenarios and runs can be
    added up. It is empty where a report holds none.
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
    """One series in one phase. `longest_gap_ms` is the longest stretch of the phase without a good answer."""

    longest_gap_ms: float


class PooledLatency(msgspec.Struct, frozen=True, kw_only=True):
    """One series of one target over many scenarios: those with a fault that were expected to stay lit and
    whose verdict is not `unproven`. Each contributes both its baseline and its fault window, so that the two
    sums are of the same scenarios. `scenarios` is how many there are.
    """

    endpoint: str
    connection: Literal["fresh", "kept"]
    scenarios: int
    baseline: Distribution
    faulted: Distribution


class LatencyRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Latency in the fault window divided by that of the baseline; None where either has no answers."""

    p50: float | None
    p99: float | None


class PhaseLatencies(msgspec.Struct, frozen=True, kw_only=True):
    """Latency by phase and series. A series is named for its endpoint, with ` (kept-alive)` added where the
    connection is kept."""

    baseline: dict[str, Latency] = {}
    faulted: dict[str, Latency] = {}
    recovered: dict[str, Latency] = {}


def microsecond(at_s: float) -> float:
    """The nearest whole microsecond. All times that are judged lie on this grid, so that a stored report has
    the same times as its run, and equal times stay equal."""
    return round(at_s, 6)


@overload
def relative(at_s: float, origin_s: float) -> float: ...
@overload
def relative(at_s: None, origin_s: float) -> None: ...
@overload
def relative(at_s: float | None, origin_s: float) -> float | None: ...
def relative(at_s: float | None, origin_s: float) -> float | None:
    """A time as a report has it: seconds since `origin_s`, rounded to the microsecond. None stays None."""
    return None if at_s is None else microsecond(at_s - origin_s)
