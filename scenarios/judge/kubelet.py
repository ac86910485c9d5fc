"""Replay samples through Kubernetes' probe rules: would the pod have been restarted, or taken out of
rotation?

The rules (https://kubernetes.io/docs/concepts/workloads/pods/probes/): a probe every `periodSeconds`,
failed when it has no answer within `timeoutSeconds`, or an HTTP status outside 200..399, or a gRPC status
other than SERVING; `failureThreshold` failures in a row restart the container (liveness) or make the pod
unready (readiness), one success makes it ready again.

A fault window of 2 seconds cannot hold three probes 10 seconds apart. So the window is repeated end to end
to an outage of `(failure_threshold + 1) * period_s`, long enough for the threshold to be reached at any
phase. That assumes that the fault would have gone on as it was seen, no better and no worse, and the report
says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec.structs import replace

from scenarios.judge.latency import due_between, gaps
from scenarios.record import KubeletReplay, KubeletRules, Sample, ScenarioRecord, Series

Role = Literal["liveness", "readiness"]
ROLES: tuple[Role, Role] = ("liveness", "readiness")

_SERVING = 1


def replay(
    series: Mapping[str, Series],
    samples: Mapping[str, Sequence[Sample]],
    window_s: float,
    rules: KubeletRules | None = None,
    readiness_rules: KubeletRules | None = None,
    source: str | None = None,
    asked: Mapping[Role, str] | None = None,
    reasons: Mapping[Role, str] | None = None,
) -> KubeletReplay:
    """What a kubelet would have done to the samples in `[0, window_s]`.

    `asked` names the series that the kubelet asks for each role; without it, those whose endpoint has the
    role, over fresh connections where there are such, as a kubelet's are. A role for which there are
    `reasons` not to replay it, or whose series is not what a kubelet would ask, has no figure. Where not
    given, `rules` are Kubernetes' defaults, and `readiness_rules` are `rules`.
    """
    given = KubeletReplay() if source is None else KubeletReplay(source=source)
    rules = rules or given.rules
    names: dict[Role, str | None] = {}
    without: dict[Role, str] = dict(reasons or {})
    for role in ROLES:
        name = names[role] = _series_of_role(series, role) if asked is None else asked.get(role)
        if name is not None and (reason := series[name].not_replayed):
            without[role] = f"{name} {reason}"
        elif name is None and given.source == KubeletReplay().source:
            without.setdefault(role, f'no endpoint has role = "{role}"')
    liveness, readiness = (None if role in without else names[role] for role in ROLES)
    longest = max((rules, readiness_rules or rules), key=_outage_s)
    outage_s = max(window_s, _outage_s(longest))
    extrapolated = outage_s > window_s
    return replace(
        given,
        liveness_restarts=None
        if "liveness" in without
        else _trips(series, samples, liveness, window_s, outage_s, rules),
        readiness_flips=None
        if "readiness" in without
        else _trips(series, samples, readiness, window_s, outage_s, readiness_rules or rules),
        not_replayed={str(role): reason for role, reason in without.items()},
        liveness_series=liveness,
        readiness_series=readiness,
        rules=rules,
        readiness_rules=readiness_rules,
        window_s=round(window_s, 3),
        assumed_fault_s=round(outage_s, 3),
        extrapolated=extrapolated,
        note=(
            f"{window_s:.1f} s of samples, repeated as if the fault had lasted {outage_s:.0f} s"
            if extrapolated
            else f"{window_s:.1f} s of samples, as they were"
        ),
    )


def recorded_series(scenario: ScenarioRecord) -> dict[Role, str] | None:
    """The series that a recorded replay took the kubelet to ask, by role; None where nothing is recorded."""
    asked: dict[Role, str | None] = {
        "liveness": scenario.kubelet.liveness_series,
        "readiness": scenario.kubelet.readiness_series,
    }
    return {role: name for role, name in asked.items() if name is not None} or None


def recorded_reasons(scenario: ScenarioRecord) -> dict[Role, str]:
    """Why a recorded replay has no figure, by role."""
    return {
        role: scenario.kubelet.not_replayed[role] for role in ROLES if role in scenario.kubelet.not_replayed
    }


def with_probe_rules(
    scenario: ScenarioRecord,
    rules: Mapping[Role, KubeletRules],
    probes: Mapping[Role, str],
    source: str,
    reasons: Mapping[Role, str] | None = None,
) -> ScenarioRecord:
    """The scenario with its samples replayed through the rules of one deployment.

    `probes` names, for each role, the target's endpoint that the deployment's kubelet asks; a role
    without one is not probed at all, or (`reasons`) cannot be replayed.
    """
    roles = {probe: role for role, probe in probes.items()}
    series = {name: replace(one, role=roles.get(one.endpoint)) for name, one in scenario.series.items()}
    if scenario.window.closed_s is None:
        return replace(scenario, series=series)
    window_s, liveness, readiness = scenario.window.closed_s, rules.get("liveness"), rules.get("readiness")
    asked: dict[Role, str] = {}
    for role, probe in probes.items():  # one endpoint may serve both roles
        name = _fresh_first(series, [name for name, one in series.items() if one.endpoint == probe])
        if name is not None:
            asked[role] = name
    found = replay(
        series, scenario.samples, window_s, liveness or readiness, readiness, source, asked, reasons
    )
    return replace(scenario, series=series, kubelet=found)


def _outage_s(rules: KubeletRules) -> float:
    return (rules.failure_threshold + 1) * rules.period_s


def succeeds(sample: Sample, kind: str, rules: KubeletRules) -> bool:
    """Whether a kubelet takes this sample for a success. It measures from the send, as a kubelet would."""
    if sample.sent_s is None or sample.ended_s is None or sample.outcome not in ("ok", "wrong"):
        return False
    if sample.ended_s - sample.sent_s > rules.timeout_s:
        return False
    if kind == "tcp":
        return True
    return 200 <= sample.status < 400 if kind == "http" else sample.status == _SERVING


def _fresh_first(series: Mapping[str, Series], names: Sequence[str]) -> str | None:
    return next((name for name in names if series[name].connection == "fresh"), names[0] if names else None)


def _series_of_role(series: Mapping[str, Series], role: Role) -> str | None:
    return _fresh_first(series, [name for name, one in series.items() if one.role == role])


def _trips(
    series: Mapping[str, Series],
    samples: Mapping[str, Sequence[Sample]],
    name: str | None,
    window_s: float,
    outage_s: float,
    rules: KubeletRules,
) -> int:
    """How often the threshold is reached in the outage, for the worst phase of the probes in the window."""
    if name is None or window_s <= 0:
        return 0
    sent = [_as_series_for(s, series[name].kind) for s in due_between(samples.get(name, ()), 0.0, window_s)]
    dark = any(b - a > series[name].budget_s and b == window_s for a, b in gaps(sent, 0.0, window_s))
    inside = [s for s in sent if dark or _decided(s, window_s, rules)]
    if not inside:
        return 0
    good = [_answered(s, window_s) and succeeds(s, series[name].kind, rules) for s in inside]
    phases = [sample.at_s for sample in inside if sample.at_s < rules.period_s]
    return max((_count(inside, good, phase, window_s, outage_s, rules) for phase in phases), default=0)


def _as_series_for(sample: Sample, kind: str) -> Sample:
    """The sample as a kubelet would see it. Over TCP a kubelet only connects and waits for no answer."""
    if kind != "tcp" or sample.sent_s is None:
        return sample
    return replace(sample, sent_s=sample.at_s, ended_s=sample.sent_s, outcome="ok")


def _answered(sample: Sample, window_s: float) -> bool:
    """Whether the answer came inside the window; one that came with the release says nothing about a fault
    that continues."""
    return sample.ended_s is not None and sample.ended_s <= window_s


def _decided(sample: Sample, window_s: float, rules: KubeletRules) -> bool:
    """Whether the sample was answered, or waited as long as a kubelet waits, inside the window. In a series
    that was dark to the window's end all samples are decided: a fault that continues keeps it dark."""
    asked_s = sample.at_s if sample.sent_s is None else sample.sent_s
    if sample.outcome == "timeout" and sample.ended_s is not None:
        return min(sample.ended_s, window_s) - asked_s >= rules.timeout_s
    return _answered(sample, window_s) or window_s - asked_s >= rules.timeout_s


def _count(
    inside: Sequence[Sample],
    good: Sequence[bool],
    phase_s: float,
    window_s: float,
    outage_s: float,
    rules: KubeletRules,
) -> int:
    trips = failed = 0
    at_s = phase_s
    while at_s < outage_s:
        wanted = at_s % window_s
        index = min(range(len(inside)), key=lambda i: abs(inside[i].at_s - wanted))
        failed = 0 if good[index] else failed + 1
        if failed == rules.failure_threshold:
            trips += 1
        at_s += rules.period_s
    return trips
