"""A target's probes as lanes: one for each endpoint and kind of connection, staggered by the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from grpc_health.v1 import health_pb2

from scenarios.prober.messages import GrpcLane, HttpLane, TcpLane
from scenarios.prober.messages import Lane as ProbedLane
from scenarios.record.model import Lane
from scenarios.spec import GrpcProbe, HttpProbe, Probe, Target, TcpProbe, address
from scenarios.spec.placeholders import as_bytes, fill
from scenarios.spec.target import ConnectionKind

_KINDS: Mapping[type[Probe], Literal["http", "grpc", "tcp"]] = {
    HttpProbe: "http",
    GrpcProbe: "grpc",
    TcpProbe: "tcp",
}
_GIVE_UP_BUDGETS = 1.5
"""A probe is given up after this many budgets: late enough to see that it is late and not lost."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes as the report describes them, by name, and as the prober wants them, in the same order."""

    described: Mapping[str, Lane]
    probed: tuple[ProbedLane, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Lane names in the prober's order."""
        return tuple(self.described)


def lanes(target: Target, names: Mapping[str, str], seed: int) -> Lanes:
    """All lanes of a target whose placeholders have these values.

    The seed decides when in its period each lane probes, so that runs with other seeds meet the target at
    other moments, and the same seed at the same ones.
    """
    order = random.Random(f"{seed} {target.name}")
    described: dict[str, Lane] = {}
    probed: list[ProbedLane] = []
    for probe in target.probe:
        for connection in probe.connections:
            at = fill(address(probe), names)
            described[lane_name(probe.name, connection)] = Lane(
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
    return Lanes(described, tuple(probed))


def lane_name(probe: str, connection: ConnectionKind) -> str:
    """`http /health`, or `http /health (kept-alive)`."""
    return probe if connection == "fresh" else f"{probe} (kept-alive)"


def _probed(
    probe: Probe, connection: ConnectionKind, address: str, offset_s: float, names: Mapping[str, str]
) -> ProbedLane:
    kept, give_up_s = connection == "kept", probe.budget_s * _GIVE_UP_BUDGETS
    if isinstance(probe, GrpcProbe):
        serving = tuple(health_pb2.HealthCheckResponse.ServingStatus.Value(name) for name in probe.expect)
        return GrpcLane(
            address, kept, probe.period_s, offset_s, give_up_s, probe.service, serving, probe.method
        )
    if isinstance(probe, TcpProbe):
        send = as_bytes(fill(probe.send, names))
        return TcpLane(address, kept, probe.period_s, offset_s, give_up_s, send, probe.expect)
    expect = probe.expect
    return HttpLane(
        address, kept, probe.period_s, offset_s, give_up_s, expect.status, expect.body, probe.headers
    )
