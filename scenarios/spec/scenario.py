"""A scenario: a row of a suite fitted to one target, whose calls, probes, sites and processes it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from faults import UnknownFault, fault_info
from scenarios.record import Expectation
from scenarios.spec import loads
from scenarios.spec.document import Document, Key
from scenarios.spec.suite import After, Assertion, CallsDo, FurtherFault, Row, Timing, Traffic
from scenarios.spec.target import Call, CommandProbe, GrpcProbe, HttpProbe, Pin, Probe, TcpProbe
from scenarios.spec.target_file import LoadedTarget

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ExtraCalls:
    """Calls of a row besides its own traffic: the numbers `first` to `first + traffic.count - 1`."""

    call: Call
    traffic: Traffic
    first: int


@dataclass(frozen=True, slots=True)
class ProbeAssertion:
    """What one endpoint has to say, and the probe that asks it."""

    probe: HttpProbe | GrpcProbe
    say: Assertion


@dataclass(frozen=True, slots=True)
class Scenario:
    """`row@target`. `controls` are the names of scenarios that must go dark in the same run. `pinned`: what
    `[expect]` of the target says of the row, in words. `seeks_site`: a row that names no process means those
    that have its site, not the main one."""

    name: str
    row: Row
    target: LoadedTarget
    expected: Expectation
    after: After
    calls: CallsDo
    call: Call | None
    controls: tuple[str, ...]
    timing: Timing
    beside: tuple[ExtraCalls, ...] = ()
    says: tuple[ProbeAssertion, ...] = ()
    pinned: str = ""
    seeks_site: bool = False

    @property
    def admits_within_s(self) -> float:
        """How soon the server has to say that it is not ready, once its calls are stuck."""
        return self.timing.admits_within_s or self.target.start.admits_within_s

    @property
    def hangs_by_itself(self) -> bool:
        """Whether the server has to go dark although nothing is broken in it: nothing that is released can
        make it recover."""
        try:
            return self.expected != "lit" and fault_info(self.row.fault).is_control
        except UnknownFault:
            return False

    @property
    def destroys(self) -> bool:
        """Whether the target's server no longer exists afterwards."""
        return self.after == "gone"

    @property
    def timed_by_judge(self) -> bool:
        """Whether the judge's own clock decides any of it: what an endpoint says in time, or how soon a call
        ends.
        """
        traffic = (self.row.traffic, *(beside.traffic for beside in self.beside))
        return bool(self.says) or any(calls.within_s is not None for calls in traffic)


class RowOnTarget:
    """One row on one target. Problems are reported at the row's own keys."""

    def __init__(self, document: Document, index: int, row: Row, loaded: LoadedTarget) -> None:
        self._document, self._index, self._row, self._loaded = document, index, row, loaded
        self._calls = {call.name: call for call in loaded.spec.call}
        self._probes = {probe.name: probe for probe in loaded.spec.probe}

    def missing(self) -> tuple[Key, str] | None:
        """The first site or process that the row names and the target does not have: its key, and the problem
        in words. None when the target has all of them."""
        target = self._loaded.spec
        own = FurtherFault(self._row.fault, self._row.params, self._row.process)
        faults: list[tuple[Key, FurtherFault]] = [((), own)]
        faults += [(("also", i), also) for i, also in enumerate(self._row.also)]
        for key, fault in faults:
            params, process = fault.params, fault.process
            site = params.get("site")
            if isinstance(site, str) and ":" not in site and site not in target.sites:
                return (*key, "params"), self._no("site", site, target.sites)
            if process is not None and process not in target.processes:
                return (*key, "process"), self._no("process", process, target.processes)
        return None

    def scenario(self, timing: Timing) -> Scenario:
        """The row on the target as a scenario. Raises `Malformed` where it does not fit."""
        row, name = self._row, self._loaded.name
        pinned = self._loaded.spec.expect.get(row.name)
        expected = (pinned.seen if isinstance(pinned, Pin) else pinned) or per_target(row.expect, name)
        if expected is None:
            raise self._malformed(
                ("expect",), f'nothing is expected of target {name}: give it a value, or "*" for any other'
            )
        after: After = per_target(row.after, name) or "recovers"
        if row.stop is not None and after != "gone":
            raise self._malformed(("stop",), 'the server is gone after it: say `after = "gone"`')
        for i, load in enumerate(row.load):
            if (problem := loads.problem(load, self._loaded.spec)) is not None:
                raise self._malformed(("load", i), problem)
        return Scenario(
            name=f"{row.name}@{name}",
            row=row,
            target=self._loaded,
            expected=expected,
            pinned=pinned.words if isinstance(pinned, Pin) else pinned or "",
            after=after,
            calls=per_target(row.calls, name) or row.traffic.calls,
            call=self._call(row.traffic, ("traffic",)),
            controls=tuple(
                f"{row.controls_row or row.name}@{control}" for control in row.controls if expected == "lit"
            ),
            timing=timing,
            beside=tuple(self._beside()),
            says=tuple(self._wanted(say, i) for i, say in enumerate(row.says)),
        )

    def _call(self, traffic: Traffic, key: Key) -> Call | None:
        if traffic.count and traffic.call is not None and traffic.call not in self._calls:
            raise self._malformed(key, self._no("call", traffic.call, self._calls))
        if not traffic.count or not self._calls:
            return None
        return self._calls[traffic.call] if traffic.call is not None else next(iter(self._calls.values()))

    def _beside(self) -> Iterable[ExtraCalls]:
        first = self._row.traffic.count + 1
        for i, traffic in enumerate(self._row.beside):
            if (call := self._call(traffic, ("beside", i))) is not None:
                yield ExtraCalls(call, traffic, first)
                first += traffic.count

    def _wanted(self, say: Assertion, index: int) -> ProbeAssertion:
        probe: Probe | None = self._probes.get(say.probe)
        if probe is None:
            raise self._malformed(("says", index), self._no("probe", say.probe, self._probes))
        if isinstance(probe, TcpProbe | CommandProbe):
            kind = "TCP" if isinstance(probe, TcpProbe) else "a command"
            raise self._malformed(("says", index), f"{say.probe!r} is {kind}: it has no status and no body")
        if isinstance(probe, GrpcProbe) != isinstance(say.status, str):
            kind = 'a serving status, such as "NOT_SERVING"' if isinstance(probe, GrpcProbe) else "a number"
            raise self._malformed(("says", index), f"the status that {say.probe!r} says is {kind}")
        if say.body is not None and isinstance(probe, GrpcProbe):
            raise self._malformed(("says", index), f"{say.probe!r} is gRPC: it has a status and no body")
        return ProbeAssertion(probe, say)

    def _no(self, what: str, name: str, known: Iterable[str]) -> str:
        return loads.has_no(self._loaded.spec, what, name, known)

    def _malformed(self, key: Key, problem: str) -> Exception:
        return self._document.malformed(("row", self._index, *key), problem)


def per_target(value: V | Mapping[str, V], target: str) -> V | None:
    """The value for the target, where there is one for each, or for `*`."""
    if isinstance(value, Mapping):
        return value.get(target, value.get("*"))
    return value
