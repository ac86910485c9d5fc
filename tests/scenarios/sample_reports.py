"""Reports made up for the renderers' tests: probes of a server that is simulated, phase by phase, from a
seed.

Every number in them follows from the samples, as it does in a real run, so that a renderer that draws
from the samples and one that prints the statistics can be held against each other.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from scenarios.judge.pool import pool
from scenarios.judge.verdict import claim, judge, proof
from scenarios.record import (
    Bite,
    CallRecord,
    FaultRecord,
    FaultWindow,
    Host,
    LeakRecord,
    Outcome,
    ProberHealth,
    Report,
    Resources,
    Sample,
    ScenarioRecord,
    Series,
    Stack,
    StuckCalls,
    SuiteRecord,
)

BASELINE_S: Final = -1.6
ARM_S: Final = -0.8
BITES_S: Final = -0.4
JUDGED_S: Final = 2.2
CLOSED_S: Final = 2.4
RECOVERED_S: Final = 2.7
END_S: Final = 4.0
GIVES_UP_S: Final = 5.0
BUDGET_S: Final = 2.0
MARKS_S: Final = {
    "start": BASELINE_S - 1.1,
    "baseline": BASELINE_S,
    "arm": ARM_S,
    "armed": ARM_S + 0.08,
    "bite": ARM_S + 0.08,
    "piled up": -0.3,
    "watch": 0.0,
    "releasing": CLOSED_S,
    "released": CLOSED_S + 0.004,
    "release": CLOSED_S + 0.005,
    "calls ended": CLOSED_S + 0.04,
    "recover": CLOSED_S + 0.05,
}

Server = Literal["lit", "stalled", "gone"]
"""How the simulated server takes the fault: not at all; answers nothing until release; never again."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One series, with the median latency it has while nothing is wrong."""

    name: str
    kind: Literal["http", "grpc", "tcp"]
    connection: Literal["fresh", "kept"]
    median_ms: float
    watched: bool = True
    role: Literal["liveness", "readiness"] | None = None

    @property
    def series(self) -> str:
        return self.name + (" (kept-alive)" if self.connection == "kept" else "")


ENDPOINTS = (
    Endpoint("http /health", "http", "fresh", 0.62, role="liveness"),
    Endpoint("http /health", "http", "kept", 0.31),
    Endpoint("http /metrics", "http", "fresh", 1.10),
    Endpoint("http /metrics", "http", "kept", 0.74),
    Endpoint("grpc health", "grpc", "kept", 0.66),
    Endpoint("http /ready", "http", "fresh", 0.60, watched=False, role="readiness"),
)


def samples_of(
    endpoint: Endpoint, server: Server, seed: int, period_s: float = 0.05, offset_s: float = 0.0
) -> tuple[Sample, ...]:
    """An open-loop probe of a simulated server, from baseline to the end of recovery."""
    rng = random.Random(f"{seed}/{endpoint.series}/{server}")
    found = []
    for n in range(int((END_S - BASELINE_S) / period_s)):
        at_s = BASELINE_S + offset_s + n * period_s
        sent_s = at_s + rng.uniform(0.00002, 0.0002)
        own_s = endpoint.median_ms / 1000 * math.exp(rng.gauss(0, 0.25))
        if rng.random() < 0.01:
            own_s *= rng.uniform(3, 9)
        ended_s: float = at_s + own_s
        outcome: Outcome = "ok"
        status = 200 if endpoint.kind == "http" else 1
        hit = ended_s >= BITES_S and at_s < CLOSED_S
        if server == "stalled" and hit:
            answered_s = CLOSED_S + rng.uniform(0.001, 0.02)
            if answered_s - at_s > GIVES_UP_S:
                ended_s, outcome, status = at_s + GIVES_UP_S, "timeout", 0
            else:
                ended_s = answered_s
        elif server == "gone" and ended_s >= BITES_S:
            ended_s = at_s + rng.uniform(0.0001, 0.0004)
            outcome, status = ("reset" if at_s < BITES_S + period_s else "refused"), 0
        if ended_s > END_S:
            ended_s, outcome, status = END_S, "cut", 0
        if endpoint.name == "http /ready" and outcome == "ok" and BITES_S < at_s < CLOSED_S:
            outcome, status = "wrong", 503
        found.append(Sample(round(at_s, 6), round(sent_s, 6), round(ended_s, 6), outcome, status))
    return tuple(found)


def scenario(
    name: str = "gil.hold@pegaref-process",
    *,
    server: Server = "lit",
    expected: Literal["lit", "dark"] = "lit",
    seed: int = 0,
    period_s: float = 0.05,
    endpoints: tuple[Endpoint, ...] = ENDPOINTS,
    bites: bool = True,
    leaked: int = 0,
    calls: int = 4,
    **more: object,
) -> ScenarioRecord:
    """One scenario, simulated and judged as a run is. `more` replaces fields
    afterwards.
    """
    fault, _, target = name.partition("@")
    series = {e.series: _series(e, period_s) for e in endpoints}
    step_s = period_s / max(1, len(endpoints))
    samples = {
        e.series: samples_of(e, server if bites else "lit", seed, period_s, i * step_s)
        for i, e in enumerate(endpoints)
    }
    gone = server == "gone"
    stuck = tuple(
        CallRecord(
            n=n,
            name="register",
            began_s=round(-0.3 + 0.02 * (n % 12), 3),
            ended_s=None if gone else round(CLOSED_S + 0.02 + 0.003 * (n % 50), 3),
            outcome="pending" if gone else "answered",
        )
        for n in range(calls if bites else 0)
    )
    raw = ScenarioRecord(
        name=name,
        target=target,
        fault=FaultRecord(name=fault, process="registry"),
        expected=expected,
        bite=_bite(bites),
        stuck=StuckCalls(
            started=len(stuck),
            pending_in_window=len(stuck),
            ended_after_release=0 if gone else len(stuck),
            calls=stuck,
        ),
        leaks=LeakRecord(
            mappings=leaked,
            before=Resources(mappings=2, processes=2, threads=19, fds=41),
            after=Resources(mappings=2 + leaked, processes=2, threads=19, fds=41),
            settled_s=0.21,
        ),
        duration_s=5.62,
        reproduce=f"wedge run {name} --seed 0",
        summary="a thread of the registry's process keeps the GIL",
        stands_for="PegaFlow 0.22.3: four stuck registers, every endpoint dark",
        window=FaultWindow(
            judged_until_s=JUDGED_S,
            closed_s=CLOSED_S,
            opened_at="2026-01-01T12:00:01Z",
            marks_s=dict(MARKS_S),
            baseline_s=(BASELINE_S, ARM_S),
            recovered_s=(RECOVERED_S, END_S),
        ),
        series=series,
        samples=samples,
        prober=ProberHealth(
            probes=sum(map(len, samples.values())),
            late_p50_ms=0.06,
            late_p99_ms=0.4,
            late_max_ms=1.9,
            cpu_share=0.08,
        ),
        stacks=(Stack(process="registry", pid=4711, source="faulthandler", text=STACK),)
        if bites and not gone
        else (),
        target_log=("INFO pegaref.supervisor device 0: gil_held for 1.0 s",),
        phase_durations_s={
            "start": 1.1,
            "baseline": 0.8,
            "arm": 0.08,
            "bite": 0.72,
            "watch": 2.405,
            "release": 0.045,
            "recover": 1.55,
        },
    )
    guards = (
        proof("baseline lit", True, "all probes answered"),
        proof("bite", bites, "1 hit, held for 2.81 s" if bites else "deliver was never called in 10.0 s"),
        claim("stuck calls", True, f"{len(stuck)} of {len(stuck)} pending in the window"),
        claim(
            "no leaks",
            not leaked,
            f"{leaked} shared memory mappings left" if leaked else "nothing left behind",
        ),
    )
    return msgspec.structs.replace(judge(msgspec.structs.replace(raw, guards=guards)), **more)


def report(*scenarios: ScenarioRecord, **more: object) -> Report:
    """A run of these scenarios, or of one of each kind."""
    chosen = scenarios or one_of_each()
    whole = Report(
        seed=0,
        duration_s=31.4,
        scenarios=chosen,
        pooled=pool(chosen),
        suite=SuiteRecord(
            name="default", file="default.toml", jobs=2, passed=all(s.verdict == "pass" for s in chosen)
        ),
        host=Host(platform="Linux 6.1 x86_64", python="3.11.7", cores=2),
        started_at="2026-01-01T12:00:00Z",
        version="0.1.0",
    )
    return msgspec.structs.replace(whole, **more)


def one_of_each() -> tuple[ScenarioRecord, ...]:
    """Two lit passes, two controls that went dark as they had to, a failure with a leak, and an unproven
    one.
    """
    stall = FaultRecord(
        name="call.stall",
        process="registry",
        params={"site": "torch.cuda:empty_cache", "gil": "released"},
        trigger={"hits": "1..4"},
    )
    drop = FaultRecord(name="call.drop", process="registry", params={"site": "deliver", "what": "result"})
    return (
        scenario(controls=("gil.hold@pegaref-inline",)),
        scenario("gil.hold@pegaref-inline", server="stalled", expected="dark", seed=1),
        scenario("call.stall@pegaref-thread", seed=2, fault=stall, controls=("call.stall@pegaref-pool",)),
        scenario("process.kill@pegaref-inline", server="gone", expected="dark", seed=3, after="gone"),
        scenario("call.stall@pegaref-pool", server="stalled", seed=4, leaked=1, fault=stall),
        scenario("call.drop@pegaref-process", bites=False, seed=5, fault=drop),
    )


def many(count: int, samples_each: int) -> Report:
    """A big run: `count` scenarios of about `samples_each` samples; an eighth of them fail."""
    period_s = (END_S - BASELINE_S) * len(ENDPOINTS) / samples_each
    servers: tuple[Server, ...] = ("lit", "lit", "lit", "stalled", "lit", "gone", "lit", "lit")
    placements = ("inline", "pool", "thread", "process")
    return report(
        *(
            scenario(
                f"call.stall-{n // 4}@pegaref-{placements[n % 4]}",
                server=servers[n % 8],
                expected="dark" if servers[n % 8] == "gone" else "lit",
                seed=n,
                period_s=period_s,
            )
            for n in range(count)
        )
    )


def _series(endpoint: Endpoint, period_s: float) -> Series:
    return Series(
        endpoint=endpoint.name,
        kind=endpoint.kind,
        connection=endpoint.connection,
        address="127.0.0.1:9091" if endpoint.kind == "http" else "127.0.0.1:50055",
        budget_s=BUDGET_S,
        period_s=period_s,
        watched=endpoint.watched,
        role=endpoint.role,
    )


def _bite(bites: bool) -> Bite:
    if not bites:
        return Bite(state="never_hit", times_s={"armed": -0.72, "never_hit": 9.3})
    return Bite(
        hits=1,
        evidence=("the agent stopped answering 312 ms after arming", "the thread is inside poll(), GIL held"),
        held_s=2.81,
        state="released",
        times_s={"armed": -0.72, "hit": -0.41, "biting": BITES_S, "released": CLOSED_S + 0.004},
    )


STACK = """\
Thread 0x00007f3c2a7fc6c0 (most recent call first):
  File "<agent>", line 88 in hold
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f3c33fff740 (most recent call first):
  File "pegaref/actor/tensors.py", line 141 in drop_instance
  File "pegaref/actor/loop.py", line 73 in serve
  File "pegaref/actor/child.py", line 58 in main
"""
