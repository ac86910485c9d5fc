"""The report of a run, schema `wedge-report/1`: the one value that the judge fills in and every renderer
shows.

Keys may be added; none is renamed or removed. Units are in the names (`_s` seconds, `_ms` milliseconds).
All times inside a scenario are seconds relative to the moment its fault window opened, so `0.0` is the first
instant at which the endpoints were judged, and what happened before is negative. `null` means "there is no
such number" (no probe was answered, the process never got there); it never means zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from scenarios.record.measurements import (
    LatencyRatio,
    PhaseLatencies,
    PooledLatency,
    Sample,
    Series,
    SeriesState,
)

SCHEMA: Final = "wedge-report/1"

Expectation = Literal["lit", "dark", "partial", "lying"]
"""What a row may expect of a target: see the glossary for each word."""

Observed = Literal["lit", "dark", "partial", "lying", "unproven"]
Verdict = Literal["pass", "fail", "unproven"]


class FaultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A fault as it was armed: its parameters, the target's process that it was armed in (None: the main
    one), and the trigger that says which hits it acts on. `is_control`: it breaks nothing, as `noop`."""

    name: str
    params: dict[str, object] = {}
    process: str | None = None
    trigger: dict[str, object] = {}
    is_control: bool = False


class Bite(msgspec.Struct, frozen=True, kw_only=True):
    """Proof that a fault bit. `hits`: how often its site was hit. `evidence`: what was seen from outside, a
    line each. `held_s`: for how long it bit. `state`: the last that it was in. `times_s`: when it reached
    each of its states."""

    hits: int = 0
    evidence: tuple[str, ...] = ()
    held_s: float | None = None
    state: str = ""
    times_s: dict[str, float] = {}


class SimultaneousFault(msgspec.Struct, frozen=True, kw_only=True):
    """A further fault that bit at the same time, and the proof of it."""

    fault: FaultRecord
    bite: Bite


class AssertionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint `probe` had to answer: `status`, and a body that the pattern `body` is found in.

    `when`: at least once in the window (`eventually`), every time in it (`always`), or at least once `after`
    the release. It was asked `asked` times in that stretch and answered so `met` times, first at
    `first_met_s`. `last` is its last answer.
    """

    probe: str
    status: int | str
    body: str | None = None
    when: Literal["eventually", "always", "after"] = "eventually"
    asked: int = 0
    met: int = 0
    first_met_s: float | None = None
    last: str = ""


class LoadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic besides the calls and the probes. `name`: the call, probe or client it was made of.

    `started`, `answered` and `errors` count calls, requests, connections or clients. `open`: how many of them
    were under way when the window closed. `closed`: connections that the server closed, or clients that were
    killed. `there`: the load was what it should be for as long as the window was open; `detail` says how that
    is known, or what was missing.
    """

    kind: str
    name: str
    started: int = 0
    answered: int = 0
    errors: int = 0
    open: int = 0
    closed: int = 0
    there: bool = False
    detail: str = ""


class ServerStop(msgspec.Struct, frozen=True, kw_only=True):
    """How the server ended when it was asked to while the fault bit: its exit code (None: it did not exit in
    time), the seconds until it and all of its processes had ended, and how many of them had not."""

    code: int | None
    took_s: float
    left: int = 0


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call, number `n` of those named `name`: `answered` as it should be, ended in an `error`, or
    `pending` when it never ended. `detail` is the answer or the error."""

    n: int
    name: str
    began_s: float
    ended_s: float | None
    outcome: Literal["answered", "error", "pending"]
    detail: str = ""


class StuckCalls(msgspec.Struct, frozen=True, kw_only=True):
    """The calls made under the fault. `pending_in_window`: how many had not ended when the window closed.
    `ended_after_release`: how many had ended when the scenario was over. `expected`: what they had to do in
    the window for the verdict to be a pass."""

    started: int = 0
    pending_in_window: int = 0
    ended_after_release: int = 0
    expected: Literal["pending", "error", "answered", "ended"] = "pending"
    calls: tuple[CallRecord, ...] = ()


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the server admitted, by a readiness probe, that its calls hang.

    `within_s` is the time that it has for that; `series` are those that say whether it is ready; `armed_s`
    is when the fault was armed, `stuck_s` when the last of the stuck calls was stuck (None: nothing was). The
    judge works out the rest: `took_s`, the time to admit; and the `outcome`. `admitted`: not ready was said
    in time. `lying`: it was not, and ready was. `undecided`: the window closed before that could be told.
    `unready`: not ready was said before the fault too, so that it means nothing. `unwatched`: no probe has
    the role of readiness. `nothing stuck`: there was nothing to admit. `detail` says it in words.
    """

    within_s: float
    series: tuple[str, ...] = ()
    armed_s: float = 0.0
    stuck_s: float | None = None
    took_s: float | None = None
    outcome: Literal["admitted", "lying", "undecided", "unready", "unwatched", "nothing stuck"] = (
        "nothing stuck"
    )
    detail: str = ""


class ProcessesBroken(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the processes that serve the watched endpoints the fault bit in: their process ids. `broken`
    holds those that do not serve, too."""

    serving: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()

    @property
    def serving_broken(self) -> int:
        """How many of those that serve were broken."""
        return len(set(self.serving) & set(self.broken))

    @property
    def in_part(self) -> bool:
        """Whether some of those that serve were broken, and others were not."""
        return 0 < self.serving_broken < len(self.serving)

    @property
    def words(self) -> str:
        """`1 of 2 serving processes was broken`; empty where no more than one serves, or none was broken."""
        many, count = len(self.serving), self.serving_broken
        if many < 2 or not count:
            return ""
        return f"{count} of {many} serving processes {'was' if count == 1 else 'were'} broken"


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that had to hold. A `proof` that did not hold makes the scenario unproven, a `claim` makes it
    fail. `detail` says what was found, either way.

    `by`: the `run` found it out and it stands as recorded, or the `judge` worked it out from the record and
    does so again whenever the record is judged. `about`: what it speaks of. `machine`: whether the machine
    that ran the test had time for the target, the prober and the judge. Those of the judge: `watch`, what the
    probes showed; `probes`, whether there were enough of them; `expectation`, whether that is what the row
    expects; `controls`, whether the scenario's controls went dark.
    """

    name: str
    kind: Literal["proof", "claim"]
    held: bool
    detail: str = ""
    by: Literal["run", "judge"] = "run"
    about: Literal["target", "machine", "watch", "probes", "expectation", "controls"] = "target"


class FaultWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the fault window and of the phases around it. `opened_s` is always 0.0.

    Probes meant to start in `[opened_s, judged_until_s]` decide whether the target was lit. `closed_s` is
    when the last of them had its answer, or when darkness was proven; None when the scenario never got there.
    `opened_at` is the opening in ISO 8601. `marks_s`: when each phase began, and moments inside them.
    `baseline_s` and `recovered_s` are the stretches that the latencies before and after the fault were
    measured in.
    """

    opened_s: float = 0.0
    judged_until_s: float | None = None
    closed_s: float | None = None
    opened_at: str | None = None
    marks_s: dict[str, float] = {}
    baseline_s: tuple[float, float] | None = None
    recovered_s: tuple[float, float] | None = None


class KubeletRules(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a Kubernetes probe that samples are replayed through. The defaults are Kubernetes'."""

    timeout_s: float = 1.0
    period_s: float = 10.0
    failure_threshold: int = 3


class KubeletReplay(msgspec.Struct, frozen=True, kw_only=True):
    """What a kubelet would have done. `liveness_restarts`: how often it would have restarted the container;
    `readiness_flips`: how often it would have taken the pod out of rotation. Either is None where that cannot
    be said, and `not_replayed` says why, by role.

    A fault window of seconds cannot hold 3 probes 10 s apart, so both are extrapolated: the window is
    repeated end to end until it is `assumed_fault_s` long, which is only right if the fault would have gone
    on as it was seen. `note` says so. `rules` are those of liveness, and of readiness too unless
    `readiness_rules` has others; `source` is where they come from. The two series are those that the kubelet
    is taken to ask, None where it asks none.
    """

    liveness_restarts: int | None = None
    readiness_flips: int | None = None
    not_replayed: dict[str, str] = {}
    liveness_series: str | None = msgspec.field(default=None, name="liveness_lane")
    readiness_series: str | None = msgspec.field(default=None, name="readiness_lane")
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


class LeakRecord(Resources, frozen=True, kw_only=True):
    """What the target held after recovery and not `before` (never below zero). `allowed` is what its target
    file permits; `settled_s` how long it took to come down; `details` name what is too much, a line each."""

    before: Resources | None = None
    after: Resources | None = None
    allowed: Resources = Resources()
    settled_s: float | None = None
    details: tuple[str, ...] = ()


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A stack of the wedged process, as text. `source` is what read it."""

    process: str
    pid: int
    source: str
    text: str


class ProberHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How late the prober started its probes, and its share of one core. A late prober makes a scenario
    unproven, since the gaps it saw would be its own."""

    probes: int = 0
    late_p50_ms: float | None = None
    late_p99_ms: float | None = None
    late_max_ms: float | None = None
    cpu_share: float = 0.0


class ScenarioRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario.

    The run leaves it raw: what was done, the samples, and the guards that only the run could find out. The
    judge fills in `observed`, `verdict`, `reasons`, `states`, `phases`, `dark_gaps`, `ratios`, `kubelet`,
    what is left of `admission` (None in reports of before it was judged), and the guards that are its own.

    `pinned`: what the target's `[expect]` says of the row, where it does. `reasons` says why the verdict is
    not `pass` and is empty when it is. `states`: by series, how it took the fault. `dark_gaps`:
    by watched series, the stretches without an expected answer that were longer than its budget. `beside`:
    the calls made besides the stuck ones. `also`: the faults that bit besides `fault`.
    `said`: what endpoints had to answer. `stopped`: how the server ended, if it was asked to under the fault.
    `stands_for`: the incident that the row reproduces. `target_log`: the end of the target's output, kept
    when the verdict is not `pass`. `controls`: the names of the scenarios that have to go dark in the same
    run. `tries` is 2 when the machine was too busy for the first try to tell anything; the record is then
    that of the second, which ran alone.
    """

    name: str
    target: str
    fault: FaultRecord
    expected: Expectation
    pinned: str = ""
    observed: Observed = "unproven"
    verdict: Verdict = "unproven"
    bite: Bite = Bite()
    stuck: StuckCalls = StuckCalls()
    admission: Admission | None = None
    processes: ProcessesBroken = ProcessesBroken()
    phases: PhaseLatencies = PhaseLatencies()
    kubelet: KubeletReplay = KubeletReplay()
    leaks: LeakRecord = LeakRecord()
    duration_s: float = 0.0
    reproduce: str = ""
    reasons: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    summary: str = ""
    stands_for: str = ""
    after: Literal["recovers", "respawns", "gone"] = "recovers"
    window: FaultWindow = FaultWindow()
    series: dict[str, Series] = msgspec.field(default_factory=dict, name="lanes")
    samples: dict[str, tuple[Sample, ...]] = {}
    states: dict[str, SeriesState] = {}
    dark_gaps: dict[str, tuple[tuple[float, float], ...]] = {}
    ratios: dict[str, LatencyRatio] = {}
    prober: ProberHealth = ProberHealth()
    stacks: tuple[Stack, ...] = ()
    also: tuple[SimultaneousFault, ...] = ()
    beside: tuple[CallRecord, ...] = ()
    said: tuple[AssertionRecord, ...] = ()
    loads: tuple[LoadRecord, ...] = ()
    stopped: ServerStop | None = None
    target_log: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    phase_durations_s: dict[str, float] = {}
    tries: int = 1


class NotRun(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario that was not run, and why: the target lacks what its row names, the row is for other
    targets, or this machine cannot run the target."""

    name: str
    target: str
    reason: str


class SuiteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The suite that was run, and the verdict on the run as a whole.

    `passed`: every scenario passed and there are no `failures`. `failures` are reasons that belong to no
    single scenario: controls that stayed lit. `missing_controls` were not selected for this run, so nothing
    vouches for the scenarios that name them. `not_run` repeats the report's own, as `name: reason`.
    """

    name: str = ""
    file: str = ""
    jobs: int = 1
    passed: bool = False
    failures: tuple[str, ...] = ()
    missing_controls: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the Python that the judge ran on. `cores` is 0 when unknown."""

    platform: str = ""
    python: str = ""
    cores: int = 0


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One run of several. `load` is the machine's load average over the minute at its end; `failures` are
    those of the suite, apart from its scenarios'."""

    seed: int
    duration_s: float
    load: float
    verdicts: dict[str, str]
    failures: tuple[str, ...] = ()


class Stability(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, in order. `flips`: by scenario, how often its verdict differed from that of the run before.
    `failing`: by scenario, in how many runs it did not pass. Both leave out scenarios with none."""

    turns: tuple[Turn, ...]
    flips: dict[str, int] = {}
    failing: dict[str, int] = {}

    @property
    def verdicts(self) -> int:
        """How many verdicts were given in all."""
        return sum(len(turn.verdicts) for turn in self.turns)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run. `not_run`: what was left out of it, with the reasons. `pooled`: by target and series,
    the latencies of its scenarios added up. `stability` is there when the suite was run more than once."""

    schema: Literal["wedge-report/1"] = SCHEMA
    seed: int = 0
    duration_s: float = 0.0
    scenarios: tuple[ScenarioRecord, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    pooled: dict[str, dict[str, PooledLatency]] = {}
    suite: SuiteRecord = SuiteRecord()
    host: Host = Host()
    started_at: str = ""
    version: str = ""
    stability: Stability | None = None


def encode(report: Report) -> bytes:
    """The report as JSON, indented by one space, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def decode(data: bytes) -> Report:
    """Read a report written by `encode`. Unknown keys are ignored, and what an older report does not say of
    its guards and of its fault is filled in. Raises `msgspec.ValidationError`."""
    report = msgspec.json.decode(data, type=Report)
    return msgspec.structs.replace(report, scenarios=tuple(map(_completed, report.scenarios)))


def write(report: Report, path: Path) -> None:
    """Write the report so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(encode(report))
    part.replace(path)


_JUDGES_OWN: Final[dict[str, Literal["watch", "probes", "expectation", "controls"]]] = {
    "watched": "watch",
    "enough probes": "probes",
    "stayed lit": "expectation",
    "went dark": "expectation",
    "had to stay lit": "expectation",
    "had to go dark": "expectation",
    "as expected": "expectation",
    "controls went dark": "controls",
}
"""The judge's guards, by name: older reports do not say who filed a guard. The run files none of these."""


def _completed(record: ScenarioRecord) -> ScenarioRecord:
    fault = record.fault
    if fault.name == "noop":  # the only control that older reports can have
        fault = msgspec.structs.replace(fault, is_control=True)
    return msgspec.structs.replace(record, fault=fault, guards=tuple(map(_marked, record.guards)))


def _marked(guard: Guard) -> Guard:
    about = _JUDGES_OWN.get(guard.name)
    if about is None or guard.by == "judge":
        return guard
    return msgspec.structs.replace(guard, by="judge", about=about)
