"""From a scenario's record to its verdict. Pure, so a stored report can be judged again.

`pass` iff observed equals expected, the stuck calls really were stuck, all of them ended after release, and
nothing leaked. A *proof* that is missing (the fault did not bite, the baseline was not lit, too few
samples, a late prober, controls that stayed lit) makes a scenario `unproven`; a *claim* that does not hold
makes it `fail`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from scenarios.record.model import Guard, Observed, Scenario, Verdict

HELD: Final = {"lit": "stayed lit", "dark": "went dark"}
BROKEN: Final = {"lit": "had to stay lit", "dark": "had to go dark"}
"""The claim that the watch itself decides: its name by what was expected, when it held and when not."""
EXPECTATIONS: Final = frozenset({*HELD.values(), *BROKEN.values(), "as expected"})
"""Every name that this claim has in a stored report; the last is an older one."""


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
        held = observed == scenario.expected
        name = (HELD if held else BROKEN)[scenario.expected]
        expectation = claim(name, held, _difference(scenario, observed, guards))
        guards = (*(g for g in guards if g.name not in EXPECTATIONS), expectation)
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
    if observed == scenario.expected:
        return seen
    found = {"lit": "it stayed lit", "dark": "it went dark", "unproven": "it was neither lit nor dark"}[
        observed
    ]
    return f"{found} ({seen})" if seen else found
