"""The report of a run, schema `wedge-report/1`: the one value that every renderer is written on.

Keys may be added, none is renamed or removed. Units are in the names (`_s` seconds, `_ms` milliseconds).
All times inside a scenario are seconds relative to the moment its fault window opened, so `0.0` is the first
instant at which the endpoints were judged, and what happened before is negative. `null` means "there is no
such number" (no probe was answered, the process never got there); it never means zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from scenarios.record.figures import Distribution as Distribution
from scenarios.record.figures import Lane as Lane
from scenarios.record.figures import Latency as Latency
from scenarios.record.figures import Outcome as Outcome
from scenarios.record.figures import Phases as Phases
from scenarios.record.figures import Pooled as Pooled
from scenarios.record.figures import Ratio as Ratio
from scenarios.record.figures import Sample as Sample
from scenarios.record.stability import Stability

SCHEMA: Final = "wedge-report/1"

Observed = Literal["lit", "dark", "unproven"]
Verdict = Literal["pass", "fail", "unproven"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The fault as it was armed. `is_control`: it breaks nothing, as `noop`."""

    name: str
    params: dict[str, object] = {}
    process: str | None = None
    trigger: dict[str, object] = {}
    is_control: bool = False


class Bite(msgspec.Struct, frozen=True, kw_only=True):
    """Proof that the fault bit. `times_s`: when it reached each state, relative to the window."""

    hits: int = 0
    evidence: tuple[str, ...] = ()
    held_s: float | None = None
    state: str = ""
    times_s: dict[str, float] = {}


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A further fault that bit at the same time, and the proof of it."""

    fault: Fault
    bite: Bite


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint had to say in the window (`eventually`, `always`) or `after` the release: asked so
    often, and so often it did. `first_met_s` is when it first did, and `last` what it said last."""

    probe: str
    status: int | str
    body: str | None = None
    when: Literal["eventually", "always", "after"] = "eventually"
    asked: int = 0
    met: int = 0
    first_met_s: float | None = None
    last: str = ""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic besides the calls and the probes. `name`: the call, probe or client it was made of. `there`: it
    was what it should be for as long as the window was open; `detail` says by what that is known. `open`: at
    the window's end; `closed`: connections that the server closed, or clients that were killed."""

    kind: str
    name: str
    started: int = 0
    answered: int = 0
    errors: int = 0
    open: int = 0
    closed: int = 0
    there: bool = False
    detail: str = ""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """How the server ended when it was asked to under the fault: its exit code (None: not in time), the
    seconds until it and every process of it had ended, and how many had not."""

    code: int | None
    took_s: float
    left: int = 0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One stuck call: `answered`, `error` (what it said is in `detail`), or `pending` when nothing came."""

    n: int
    name: str
    began_s: float
    ended_s: float | None
    outcome: Literal["answered", "error", "pending"]
    detail: str = ""


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """The calls piled up under the fault. `expected`: what they had to do for the verdict to be a pass."""

    started: int = 0
    pending_in_window: int = 0
    ended_after_release: int = 0
    expected: Literal["pending", "error", "answered", "ended"] = "pending"
    calls: tuple[Call, ...] = ()


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that had to hold. A `proof` that did not hold makes the scenario unproven, a `claim` makes it
    fail. `detail` says what was found, either way."""

    name: str
    kind: Literal["proof", "claim"]
    held: bool
    detail: str = ""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the fault window and of the phases around it, in order. `opened_s` is always 0.0.

    Probes meant to start in `[opened_s, judged_until_s]` decide whether it was lit; `closed_s` is when the
    last of them had its answer, or when darkness was proven."""

    opened_s: float = 0.0
    judged_until_s: float | None = None
    closed_s: float | None = None
    opened_at: str | None = None
    marks_s: dict[str, float] = {}


class KubeletRules(msgspec.Struct, frozen=True, kw_only=True):
    """Kubernetes' probe settings that samples are replayed through; its own defaults."""

    timeout_s: float = 1.0
    period_s: float = 10.0
    failure_threshold: int = 3


class Kubelet(msgspec.Struct, frozen=True, kw_only=True):
    """What a kubelet would have done. `liveness_restarts`: restarts of the container; `readiness_flips`:
    times it would have been taken out of rotation.

    A fault window of seconds cannot hold 3 probes 10 s apart, so both are extrapolated: the window is
    repeated end to end until it is `assumed_fault_s` long, which is only right if the fault would have gone
    on as it was seen. `note` says so in words. `rules` are those of liveness, and of readiness too unless
    `readiness_rules` has others; `source` is where they come from.
    """

    liveness_restarts: int = 0
    readiness_flips: int = 0
    liveness_lane: str | None = None
    readiness_lane: str | None = None
    rules: KubeletRules = KubeletRules()
    readiness_rules: KubeletRules | None = None
    source: str = "Kubernetes' defaults"
    window_s: float = 0.0
    assumed_fault_s: float = 0.0
    extrapolated: bool = True
    note: str = ""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the target holds, summed over its processes. `mappings` counts shared memory mappings only:
    private ones come and go with the allocator and say nothing about a tensor left behind."""

    mappings: int = 0
    processes: int = 0
    threads: int = 0
    fds: int = 0


class Leaks(Resources, frozen=True, kw_only=True):
    """What the target held after recovery and not before (never below zero). `allowed` is what the target
    file lets pass; `settled_s` how long it took to come down."""

    before: Resources | None = None
    after: Resources | None = None
    allowed: Resources = Resources()
    settled_s: float | None = None
    details: tuple[str, ...] = ()


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A stack of the wedged process, as text, with the tool it came from."""

    process: str
    pid: int
    source: str
    text: str


class Prober(msgspec.Struct, frozen=True, kw_only=True):
    """The prober's own health: how late it started its probes and what it cost. A late prober makes a
    scenario unproven, since its gaps would be its own."""

    probes: int = 0
    late_p50_ms: float | None = None
    late_p99_ms: float | None = None
    late_max_ms: float | None = None
    cpu_share: float = 0.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario, judged. `reasons` says why the verdict is not `pass`; empty when it is. `tries`: 2 when
    the machine had been too busy to tell, and this is what came of it when it was run again, alone."""

    name: str
    target: str
    fault: Fault
    expected: Literal["lit", "dark"]
    observed: Observed
    verdict: Verdict
    bite: Bite = Bite()
    stuck: Stuck = Stuck()
    phases: Phases = Phases()
    kubelet: Kubelet = Kubelet()
    leaks: Leaks = Leaks()
    duration_s: float = 0.0
    reproduce: str = ""
    reasons: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    summary: str = ""
    stands_for: str = ""
    after: Literal["recovers", "respawns", "gone"] = "recovers"
    window: Window = Window()
    lanes: dict[str, Lane] = {}
    samples: dict[str, tuple[Sample, ...]] = {}
    dark_gaps: dict[str, tuple[tuple[float, float], ...]] = {}
    ratios: dict[str, Ratio] = {}
    prober: Prober = Prober()
    stacks: tuple[Stack, ...] = ()
    also: tuple[Broken, ...] = ()
    beside: tuple[Call, ...] = ()
    said: tuple[Said, ...] = ()
    loads: tuple[Loaded, ...] = ()
    stopped: Stopped | None = None
    target_log: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    phase_durations_s: dict[str, float] = {}
    tries: int = 1


class NotRun(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario that was not run, and why: the target has not what its row names, the row is for others, or
    this machine cannot run the target."""

    name: str
    target: str
    reason: str


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """The run as a whole. `failures` are reasons that belong to no single scenario, such as controls that
    stayed lit; `missing_controls` were not selected for this run, so nothing vouches for their wedges;
    `not_run` are the report's `not_run`, as `name: reason`."""

    name: str = ""
    file: str = ""
    jobs: int = 1
    passed: bool = False
    failures: tuple[str, ...] = ()
    missing_controls: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran."""

    platform: str = ""
    python: str = ""
    cores: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run. `not_run`: what was left out of it, with the reasons. `pooled`: by target and lane, the
    latencies of its scenarios taken together."""

    schema: Literal["wedge-report/1"] = SCHEMA
    seed: int = 0
    duration_s: float = 0.0
    scenarios: tuple[Scenario, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    pooled: dict[str, dict[str, Pooled]] = {}
    suite: Suite = Suite()
    host: Host = Host()
    started_at: str = ""
    version: str = ""
    stability: Stability | None = None


def encode(report: Report) -> bytes:
    """The report as JSON, indented by one space, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def decode(data: bytes) -> Report:
    """Read a report written by `encode` (unknown keys are ignored). Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(data, type=Report)


def write(report: Report, path: Path) -> None:
    """Write the report so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(encode(report))
    part.replace(path)
