"""Connections that are made and then never send a byte."""

from __future__ import annotations

from collections.abc import Mapping

from scenarios.spec import Probe
from scenarios.spec.loads import Idle
from scenarios.traffic.load.crowd import Address, Crowd, Member


class IdleConnections(Crowd):
    """An `idle` load: a crowd that does nothing. It does not even shake hands where the probe is TLS."""

    def __init__(self, load: Idle, probe: Probe, names: Mapping[str, str]) -> None:
        super().__init__(Address.of(probe, names)._replace(tls=False), load.count, Member)
