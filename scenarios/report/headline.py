"""What the servers did, in one sentence for somebody who passes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scenarios.record import Expectation, Report, ScenarioRecord
from scenarios.report.numbers import count

_DID: Final[tuple[tuple[Expectation, str], ...]] = (
    ("dark", "went dark"),
    ("lying", "lied"),
    ("partial", "answered in part"),
    ("lit", "stayed lit"),
)
"""From the worst to the best."""


def sentence(report: Report) -> str:
    """`good stayed lit under 13 of 13 faults and admitted each within 1.2 s; bad went dark under 9 of 12.`

    A clause for each target, in the order of the run: the worst that it did, and under how many of the faults
    that bit. Empty where nothing ran.
    """
    targets = dict.fromkeys(scenario.target for scenario in report.scenarios)
    clauses = [_clause(t, [s for s in report.scenarios if s.target == t]) for t in targets]
    return "; ".join(clauses) + "." if clauses else ""


def _clause(target: str, scenarios: Sequence[ScenarioRecord]) -> str:
    broken = [s for s in scenarios if not s.fault.is_control]
    seen = [s for s in broken if s.observed != "unproven"]
    if not broken:
        lit = all(scenario.observed == "lit" for scenario in scenarios)
        return f"{target} {'stayed lit' if lit else 'did not stay lit'} with nothing broken"
    if not seen:
        return f"of {target} nothing is proven under {count(len(broken), 'fault')}"
    did = [(words, n) for word, words in _DID if (n := sum(s.observed == word for s in seen))]
    worst = [(words, n) for words, n in did if words != "stayed lit"] or did
    told = [s for s in seen if any(s.observed == word and said in dict(worst) for word, said in _DID)]
    words = " and ".join(
        f"{words} under {n} of {count(len(seen), 'fault')}" if i == 0 else f"{words} under {n}"
        for i, (words, n) in enumerate(worst)
    )
    missed = sum(s.verdict == "fail" and s.observed == s.expected for s in seen)
    neither = len(broken) - len(seen)
    return (
        f"{target} {words}{_in_part(told)}{_admitted(seen)}"
        + (f", and did not come out of {missed} as it had to" if missed else "")
        + (f" ({neither} unproven)" if neither else "")
    )


def _in_part(seen: Sequence[ScenarioRecord]) -> str:
    """How many of its processes were broken, where it was some of them each time."""
    counts = {(s.processes.serving_broken, len(s.processes.serving)) for s in seen}
    if not all(s.processes.in_part for s in seen):
        return ""
    if len(counts) == 1:
        ((some, of),) = counts
        return f" with {some} of its {of} processes broken"
    return " with some of its processes broken"


def _admitted(seen: Sequence[ScenarioRecord]) -> str:
    """How soon it said that its calls hang, where it said so every time."""
    known = [s.admission for s in seen if s.admission is not None and s.observed != "dark"]
    stuck = [one for one in known if one.stuck_s is not None and one.outcome in ("admitted", "lying")]
    took_s = [one.took_s for one in stuck if one.took_s is not None]
    if not took_s or len(took_s) < len(stuck):
        return ""
    what = "the one whose calls hung" if len(took_s) == 1 else f"each of the {len(took_s)} whose calls hung"
    return f" and admitted {what} within {max(took_s):.1f} s"
