"""Whether a server whose calls hang admits it: the rule, as a pure function of its readiness probes.

*Ready* is what a load balancer goes on sending work to: an HTTP status of 200 to 299, the serving status
SERVING, a connection that was accepted, a command that ended with status 0; whatever else `expect` allows. A
probe that got no answer does not say ready either. A server that calls are stuck in, and whose
readiness says ready for as long as it had to admit that, and never anything else, is lying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed

from msgspec.structs import replace

from scenarios.judge.observation import Observation
from scenarios.record import Admission, Sample, Series

_SERVING = 1


def readiness_series(series: Mapping[str, Series]) -> tuple[str, ...]:
    """The series that say whether the server is ready: of each endpoint with that role the one over fresh
    connections, as a kubelet's are, or else the one that there is."""
    asked: dict[str, str] = {}
    for name, one in series.items():
        if one.role == "readiness" and (one.endpoint not in asked or one.connection == "fresh"):
            asked[one.endpoint] = name
    return tuple(asked.values())


def admission(
    given: Admission,
    series: Mapping[str, Series],
    samples: Mapping[str, Sequence[Sample]],
    known_until_s: float,
) -> Admission:
    """What the readiness probes show, knowing only what was known at `known_until_s`. Times are on the clock
    of the samples."""
    asked = {name: series[name] for name in given.series if name in series}
    blank = replace(given, took_s=None, detail="", outcome="nothing stuck")
    if not asked:
        return replace(blank, outcome="unwatched", detail='no probe has role = "readiness"')
    if given.stuck_s is None:
        return blank
    named, stuck_s = ", ".join(asked), given.stuck_s
    deadline_s = stuck_s + given.within_s
    answers = sorted(
        (sample.ended_s, sample.at_s, _says_ready(sample, asked[name].kind))
        for name in asked
        for sample in samples.get(name, ())
        if sample.ended_s is not None and sample.ended_s <= known_until_s and sample.outcome != "cut"
    )
    before = [ready for ended_s, _, ready in answers if ended_s < given.armed_s]
    if before and not any(before):
        return replace(blank, outcome="unready", detail=f"{named} was not ready before the fault either")
    since = [answer for answer in answers if stuck_s <= answer[0] <= deadline_s]
    unready_s = next((ended_s for ended_s, _, ready in since if not ready), None)
    if unready_s is not None:
        took_s = round(unready_s - stuck_s, 3)
        detail = f"{named} was not ready {took_s:.2f} s after the last call was stuck"
        return replace(blank, outcome="admitted", took_s=took_s, detail=detail)
    watched_s = max(0.0, min(known_until_s, deadline_s) - stuck_s)
    asked_since = [answer for answer in since if answer[1] >= stuck_s]
    if not asked_since:
        detail = f"{named} gave no answer in {watched_s:.1f} s after the last call was stuck"
        return replace(blank, outcome="undecided", detail=detail)
    if known_until_s < deadline_s:
        detail = (
            f"not watched long enough: {named} said ready until {watched_s:.1f} s after the last call was "
            f"stuck, and has {given.within_s:g} s to admit it (admits_within_s)"
        )
        return replace(blank, outcome="undecided", detail=detail)
    detail = (
        f"the calls hang, and {named} said ready {len(asked_since)} times of {len(asked_since)} in "
        f"{given.within_s:g} s"
    )
    return replace(blank, outcome="lying", detail=detail)


def with_admission(seen: Observation, found: Admission | None) -> Observation:
    """What was seen, in the light of what the server admitted: dark is dark, whatever it says of itself;
    otherwise a server that lies is lying, whatever else its endpoints did."""
    if found is None or found.outcome != "lying" or seen.observed == "dark":
        return seen
    return changed(seen, observed="lying", detail=found.detail)


def _says_ready(sample: Sample, kind: str) -> bool:
    if kind == "http":
        return 200 <= sample.status < 300
    if kind == "grpc":
        return sample.outcome in ("ok", "wrong") and sample.status == _SERVING
    return sample.outcome == "ok"
