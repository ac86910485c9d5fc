"""A target's probes as series: one for each endpoint and kind of connection, staggered by the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scenarios.prober.messages import GrpcSeries, HttpSeries, ProbedSeries, TcpSeries
from scenarios.record import Series
from scenarios.spec import GrpcProbe, HttpProbe, Probe, Target, TcpProbe, address
from scenarios.spec.placeholders import fill, parse_bytes
from scenarios.spec.target import ConnectionKind

_KINDS: Mapping[type[Probe], Literal["http", "grpc", "tcp"]] = {
    HttpProbe: "http",
    GrpcProbe: "grpc",
    TcpProbe: "tcp",
}
_GIVE_UP_BUDGETS = 1.5
"""A probe is given up after this many budgets: late enough to see that it is late and not lost."""


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """The series in the report's form, by name, and in the prober's form, in the same order."""

    described: Mapping[str, Series]
    probed: tuple[ProbedSeries, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names in the prober's order."""
        return tuple(self.described)


def series_set(target: Target, names: Mapping[str, str], seed: int) -> SeriesSet:
    """All series of a target; `names` are the values of its placeholders.

    The seed decides when in its period each series probes: the same seed gives the same moments, other seeds
    others.
    """
    order = random.Random(f"{seed} {target.name}")
    described: dict[str, Series] = {}
    probed: list[ProbedSeries] = []
    for probe in target.probe:
        for connection in probe.connections:
            at = fill(address(probe), names)
            described[series_name(probe.name, connection)] = Series(
                endpoint=probe.name,
                kind=_KINDS[type(probe)],
                connection=connection,
                address=at,
                budget_s=probe.budget_s,
                period_s=probe.period_s,
                watched=probe.watched,
                role=probe.role,
            )
            probed.append(_probed(probe, connection, at, order.random() * probe.period_s, names))
    return SeriesSet(described, tuple(probed))


def series_name(probe: str, connection: ConnectionKind) -> str:
    """`http /health`, or `http /health (kept-alive)`."""
    return probe if connection == "fresh" else f"{probe} (kept-alive)"


def _probed(
    probe: Probe, connection: ConnectionKind, address: str, offset_s: float, names: Mapping[str, str]
) -> ProbedSeries:
    kept, give_up_s = connection == "kept", probe.budget_s * _GIVE_UP_BUDGETS
    if isinstance(probe, GrpcProbe):
        return GrpcSeries(
            address, kept, probe.period_s, offset_s, give_up_s, probe.service, probe.expect, probe.method
        )
    if isinstance(probe, TcpProbe):
        send = parse_bytes(fill(probe.send, names))
        return TcpSeries(address, kept, probe.period_s, offset_s, give_up_s, send, probe.expect)
    expect = probe.expect
    return HttpSeries(
        address, kept, probe.period_s, offset_s, give_up_s, expect.status, expect.body, probe.headers
    )
