"""A target's probes as series: one for each endpoint and kind of connection, staggered by the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from scenarios.prober.messages import CommandSeries, GrpcSeries, HttpSeries, ProbedSeries, TcpSeries
from scenarios.record import Series
from scenarios.spec import CommandProbe, GrpcProbe, HttpProbe, Probe, Target, TcpProbe, address
from scenarios.spec.placeholders import fill, parse_bytes
from scenarios.spec.target import ConnectionKind, not_replayed

_KINDS: Mapping[type[Probe], Literal["http", "grpc", "tcp", "command"]] = {
    HttpProbe: "http",
    GrpcProbe: "grpc",
    TcpProbe: "tcp",
    CommandProbe: "command",
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


def series_set(
    target: Target, names: Mapping[str, str], seed: int, fresh_period_s: float | None = None
) -> SeriesSet:
    """All series of a target; `names` are the values of its placeholders.

    The seed decides when in its period each series probes: the same seed gives the same moments, other seeds
    others. `fresh_period_s`: every watched endpoint is asked over a fresh connection at least so often.
    """
    order = random.Random(f"{seed} {target.name}")
    described: dict[str, Series] = {}
    probed: list[ProbedSeries] = []
    for probe in target.probe:
        kinds: tuple[ConnectionKind, ...] = probe.connections
        if fresh_period_s is not None and probe.watched and not isinstance(probe, CommandProbe):
            kinds = ("fresh", *(kind for kind in kinds if kind != "fresh"))
        for connection in kinds:
            asked = probe
            if kinds is not probe.connections and connection == "fresh" and fresh_period_s is not None:
                asked = msgspec.structs.replace(probe, period_s=min(probe.period_s, fresh_period_s))
            at = fill(address(probe), names)
            described[series_name(probe.name, connection)] = Series(
                endpoint=probe.name,
                kind=_KINDS[type(probe)],
                connection=connection,
                address=at,
                budget_s=probe.budget_s,
                period_s=asked.period_s,
                watched=probe.watched,
                role=probe.role,
                not_replayed=not_replayed(probe),
            )
            probed.append(probed_series(asked, connection, order.random() * asked.period_s, names))
    return SeriesSet(described, tuple(probed))


def series_name(probe: str, connection: ConnectionKind) -> str:
    """`http /health`, or `http /health (kept-alive)`."""
    return probe if connection == "fresh" else f"{probe} (kept-alive)"


def probed_series(
    probe: Probe, connection: ConnectionKind, offset_s: float, names: Mapping[str, str]
) -> ProbedSeries:
    """One series as the prober wants it."""
    kept, give_up_s = connection == "kept", probe.budget_s * _GIVE_UP_BUDGETS
    match probe:
        case GrpcProbe():
            at, service, method = fill(probe.address, names), probe.service, probe.method
            return GrpcSeries(at, kept, probe.period_s, offset_s, give_up_s, service, probe.expect, method)
        case TcpProbe():
            at, send = fill(probe.address, names), parse_bytes(fill(probe.send, names))
            return TcpSeries(at, kept, probe.period_s, offset_s, give_up_s, send, probe.expect)
        case CommandProbe():
            command = tuple(fill(probe.command, names))
            return CommandSeries(command, probe.period_s, offset_s, give_up_s, names.get("here"))
    json = fill(probe.json, names)
    return HttpSeries(
        url=fill(probe.url, names),
        kept=kept,
        period_s=probe.period_s,
        offset_s=offset_s,
        give_up_s=give_up_s,
        status=probe.expect.status,
        body=probe.expect.body,
        headers=fill(probe.headers, names),
        method=probe.method,
        content=msgspec.json.encode(json) if json is not None else parse_bytes(fill(probe.body or "", names)),
        json=json is not None,
        address=fill(probe.address, names),
    )
