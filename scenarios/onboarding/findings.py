"""The findings of `wedge target check` as values, and what is missing in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from faults import tell_apart
from scenarios.record import Outcome, Series
from scenarios.spec import Suite
from scenarios.spec.document import read
from scenarios.spec.overlay import shipped
from scenarios.spec.suite_file import ANY, find
from scenarios.spec.target import TcpProbe
from scenarios.spec.target_file import LoadedTarget

_SLOW_SHARE = 0.5
_LONG_CALL_S = 2.0


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """One endpoint over one kind of connection. `says`: the answer, where it was not the expected one."""

    name: str
    lane: Series
    outcome: Outcome
    status: int
    latency_s: float
    says: str = ""

    @property
    def good(self) -> bool:
        """Whether it was the expected answer, within the budget."""
        return self.outcome == "ok" and self.latency_s <= self.lane.budget_s


@dataclass(frozen=True, slots=True)
class ProcessCheck:
    """A process of the target. `agent`: the Python version its agent reported, None where there is no agent;
    `names`: those of the file's selectors that select it; `helper`: it is multiprocessing's own."""

    pid: int
    command: str
    agent: str | None
    names: tuple[str, ...]
    helper: bool = False


@dataclass(frozen=True, slots=True)
class SiteCheck:
    """A site. `pids`: processes in which it resolves; `late`: those that could import it and have not;
    `refusal`: why it resolves nowhere; `remarks`: which calls go past it."""

    name: str
    site: str
    pids: tuple[int, ...]
    late: tuple[int, ...]
    refusal: str
    reached_by: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallCheck:
    """A call, made once. `error` is None when it had the answer that it should have."""

    name: str
    answer: str
    error: str | None
    took_s: float


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """A target, tried once. `selected`: the processes that each name selects; `torch`: those that have
    imported it; `left_running`: those that run although the command has ended, in words."""

    target: LoadedTarget
    ready_s: float
    stop_s: float = 0.0
    probes: tuple[ProbeCheck, ...] = ()
    processes: tuple[ProcessCheck, ...] = ()
    selected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sites: tuple[SiteCheck, ...] = ()
    calls: tuple[CallCheck, ...] = ()
    torch: tuple[int, ...] = ()
    left_running: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What must be fixed before a verdict about this target means anything."""
        return tuple(_problems(self))

    @property
    def advice(self) -> tuple[str, ...]:
        """What would make verdicts say more."""
        return tuple(_advice(self))


def _problems(checked: TargetCheck) -> Iterator[str]:
    document = checked.target.document

    def at(*key: str | int) -> str:
        place = document.position(key)
        return f"{place.path.name}:{place.line}" if place.line else place.path.name

    endpoints = [probe.name for probe in checked.target.spec.probe]
    for probe in checked.probes:
        if not probe.good:
            place = at("probe", endpoints.index(probe.lane.endpoint))
            yield f"{place}: probe {probe.name!r} had no good answer: {probe.says or probe.outcome}"
    calls = [call.name for call in checked.target.spec.call]
    for call in checked.calls:
        if call.error is not None:
            yield f"{at('call', calls.index(call.name))}: call {call.name!r} failed: {call.error}"
    if checked.left_running:
        yield f"{at('target', 'command')}: the command ended and {checked.left_running}"
    if not any(seen.agent for seen in checked.processes):
        yield (
            f"{at('target', 'command')}: no process has an agent, so only process.* faults can be armed: the "
            "command must start a Python that reads PYTHONPATH (no -I, -E or -S) and hand its environment on"
        )
        return
    for name, pids in checked.selected.items():
        if not pids:
            yield f"{at('processes', name)}: {name!r} selects no process; {_seen(checked)}"
    for site in checked.sites:
        if site.refusal:
            yield f"{at('sites', site.name)}: {site.name!r} resolves in no process: {site.refusal}"


def _advice(checked: TargetCheck) -> Iterator[str]:
    target = checked.target.spec
    if not any(probe.role == "liveness" for probe in target.probe):
        yield 'no probe has role = "liveness": reports cannot say when a kubelet would restart this server'
    if not target.call:
        yield "there is no [[call]]: nothing can be piled up, and call.* faults cannot bite"
    if reason := _of_suite_any(checked):
        yield reason
    for site in checked.sites:
        if not site.refusal and target.call and not site.reached_by:
            when = " (its module is not imported yet)" if not site.pids else ""
            yield f"no call reaches site {site.name!r}{when}: a fault in it would never bite"
        for remark in site.remarks:
            yield f"site {site.name!r}: {remark}"
    if checked.torch and not any("torch" in site.site for site in checked.sites):
        yield (
            f"process {checked.torch[0]} has imported torch: torch.cuda:synchronize and "
            "torch.cuda:empty_cache could be sites"
        )
    for asked in target.probe:
        if isinstance(asked, TcpProbe) and asked.expect is None and asked.watched:
            yield (
                f"probe {asked.name!r} only connects, and the kernel accepts connections for a stuck process "
                "too: give it `send` and `expect`"
            )
    agents = {seen.pid for seen in checked.processes if seen.agent and not seen.helper}
    unnamed = agents.difference(*checked.selected.values())
    if unnamed and len(agents) > 1:
        yield (
            f"of {len(agents)} processes that can be broken {len(unnamed)} have no name: give them one in "
            '[processes], say worker = { parent = "server" }'
        )
    for probe in checked.probes:
        if probe.good and probe.latency_s > probe.lane.budget_s * _SLOW_SHARE:
            yield (
                f"probe {probe.name!r} took {probe.latency_s:.2f} s of its {probe.lane.budget_s:g} s with "
                "nothing broken: raise budget_s, or verdicts will waver"
            )
    for call in checked.calls:
        if call.error is None and call.took_s > _LONG_CALL_S:
            yield f"call {call.name!r} took {call.took_s:.1f} s; every scenario makes it several times"
    if checked.stop_s > target.start.stop_within_s:
        yield (
            f"it did not end within {target.start.stop_within_s:g} s of SIGTERM and was killed: raise "
            "stop_within_s, or see why"
        )


def _of_suite_any(checked: TargetCheck) -> str | None:
    """What the target lacks for the suite that `wedge run --target` takes. Shipped targets have their own."""
    if checked.target.path in shipped().values():
        return None
    rows = find(ANY)
    target = checked.target.spec
    missing: dict[str, None] = {}
    for row in read(rows).convert(Suite).row:
        site = row.params.get("site")
        if row.process is not None and row.process not in target.processes:
            missing[f"{row.process!r} in [processes]"] = None
        if isinstance(site, str) and ":" not in site and site not in target.sites:
            missing[f"{site!r} in [sites]"] = None
    if not missing:
        return None
    return f"give it {' and '.join(missing)}, and all of the suite for any server can run on it"


def _seen(checked: TargetCheck) -> str:
    return f"there are {'; '.join(tell_apart((seen.pid, seen.command) for seen in checked.processes))}"
