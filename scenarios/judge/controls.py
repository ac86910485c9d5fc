"""Controls: a wedge that no known-bad target felt proves nothing about a good one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scenarios.judge.verdict import judged, proof
from scenarios.record.model import Observed, Scenario

GUARD = "controls went dark"


def with_controls(
    scenarios: Iterable[Scenario], controls: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[Scenario, ...], tuple[str, ...], tuple[str, ...]]:
    """The scenarios judged again in the light of their controls, the suite's failures, and the controls that
    were not in this run (so that nothing is said about the wedges that lean on them).

    A lit verdict whose control did not go dark becomes unproven, and the suite fails and says so.
    """
    scenarios = tuple(scenarios)
    seen: dict[str, Observed] = {scenario.name: scenario.observed for scenario in scenarios}
    failures: dict[str, list[str]] = {}
    missing: dict[str, None] = {}
    out: list[Scenario] = []
    for scenario in scenarios:
        needed = controls.get(scenario.name, ())
        absent = [name for name in needed if name not in seen]
        missing.update(dict.fromkeys(absent))
        bright = [name for name in needed if name in seen and seen[name] != "dark"]
        for name in bright:
            failures.setdefault(name, []).append(scenario.name)
        present = [name for name in needed if name in seen]
        if not present:
            out.append(scenario)
            continue
        guard = proof(
            GUARD,
            not bright,
            "; ".join(f"the control {name} was {seen[name]}, not dark" for name in bright)
            or f"{', '.join(present)} went dark in the same run",
        )
        others = [g for g in scenario.guards if g.name != GUARD]
        out.append(judged(scenario, [*others, guard], scenario.observed))
    return (
        tuple(out),
        tuple(
            f"the control {name} was {seen[name]}, not dark: it vouches for {', '.join(wedges)}"
            for name, wedges in failures.items()
        ),
        tuple(missing),
    )
