"""A plan, run once or again and again, with its progress shown."""

from __future__ import annotations

import dataclasses
import os

from msgspec.structs import replace
from rich.console import Console

from scenarios.record import Report, Turn
from scenarios.record.stability import stability, turn, turn_in_words
from scenarios.run.run import Plan
from scenarios.run.run import run as run_plan
from scenarios.terminal.live import progress


async def repeated(plan: Plan, times: int, console: Console) -> tuple[Report, tuple[str, ...]]:
    """Run the plan `times` times, each with the next seed; the report of the first run that did not pass, or
    else of the last, and what could not run at all.

    With more than one run the report says how steady the verdicts were.
    """
    kept: Report | None = None
    turns: list[Turn] = []
    troubles: tuple[str, ...] = ()
    for n in range(times):
        once = dataclasses.replace(plan, seed=plan.seed + n)
        with progress(console, len(plan.scenarios), brief=times > 1) as told:
            found, troubles = await run_plan(once, told)
        turns.append(turn(found, os.getloadavg()[0]))
        if times > 1:
            console.print(f"run {n + 1} of {times}: {turn_in_words(turns[-1])}", highlight=False)
        if kept is None or kept.suite.passed:
            kept = found
        if troubles:  # what could not run now cannot run the next time
            break
    assert kept is not None
    return (replace(kept, stability=stability(turns)) if times > 1 else kept), troubles
