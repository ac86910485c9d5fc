"""From a scenario's record to its verdict. Pure, so a stored report can be judged again.

`pass` iff observed equals expected, the stuck calls really were stuck, all of them ended after release, and
nothing leaked. A *proof* that is missing (the fault did not bite, the baseline was not lit, too few
samples, a late prober, controls that stayed lit) makes a scenario `unproven`; a *claim* that does not hold
makes it `fail`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from scenarios.report.model import Guard, Observed, Scenario, Verdict

EXPECTATION = "as expected"


def proof(name: str, held: bool, detail: str) -> Guard:
    """A guard without which nothing is proven."""
    return Guard(name=name, kind="proof", held=held, detail=detail)


def claim(name: str, held: bool, detail: str) -> Guard:
    """A guard that the target itself has to hold."""
    return Guard(name=name, kind="claim", held=held, detail=detail)


def judged(scenario: Scenario, guards: Iterable[Guard], light: Observed) -> Scenario:
    """The scenario with `observed`, `verdict`, `guards` and `reasons` filled in.

    `light` is what the watch saw; it counts only when every proof held.
    """
    guards = tuple(guards)
    missing = [guard for guard in guards if guard.kind == "proof" and not guard.held]
    observed: Observed = "unproven" if missing else light
    if not missing:
        expectation = claim(
            EXPECTATION, observed == scenario.expected, _difference(scenario, observed, guards)
        )
        guards = (*(g for g in guards if g.name != EXPECTATION), expectation)
    broken = [guard for guard in guards if not guard.held]
    verdict: Verdict = "unproven" if missing else "fail" if broken else "pass"
    return msgspec.structs.replace(
        scenario,
        observed=observed,
        verdict=verdict,
        guards=guards,
        reasons=tuple(f"{guard.name}: {guard.detail}" for guard in broken),
    )


def _difference(scenario: Scenario, observed: Observed, guards: tuple[Guard, ...]) -> str:
    seen = next((guard.detail for guard in guards if guard.name == "watched"), "")
    if observed == "unproven":
        return f"expected {scenario.expected}, but it was neither lit nor dark ({seen})"
    return f"expected {scenario.expected}, observed {observed}" + (f" ({seen})" if seen else "")
