"""The calls of a scenario: those piled up under the fault, those beside them, and what both had to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

from scenarios.run.facts import Facts
from scenarios.run.rounds import Rounds
from scenarios.spec import Call, Scenario
from scenarios.spec.suite import CallsDo, Traffic
from scenarios.traffic.caller import Caller
from scenarios.traffic.concurrent_calls import ConcurrentCalls


class Calls:
    """All calls of one scenario. Piles that were started are in the facts."""

    def __init__(self, scenario: Scenario, caller: Caller, facts: Facts) -> None:
        self._timing, self._facts = scenario.timing, facts
        count = scenario.row.traffic.count
        self._piled = (
            _Set(caller, scenario.call, range(1, count + 1), scenario.row.traffic, scenario.calls)
            if scenario.call is not None and count
            else None
        )
        self._beside = [
            _Set(
                caller,
                beside.call,
                range(beside.first, beside.first + beside.traffic.count),
                beside.traffic,
                beside.traffic.calls,
            )
            for beside in scenario.beside
        ]

    async def warm_up(self) -> None:
        """Each call that works on a healthy server, once around. Raises `SetupFailed`."""
        for calls in self._sets():
            if calls is self._piled or calls.wanted == "answered":
                await calls.rounds.whole()

    async def set_up(self) -> None:
        """What the calls need before them. Raises `SetupFailed`."""
        for calls in self._sets():
            await calls.rounds.set_up()

    def pile_up(self) -> None:
        """Start the row's own calls."""
        if self._piled is not None:
            self._facts.pile = self._piled.start()
            self._facts.mark("piled up")

    def start_beside(self, *, said: bool) -> None:
        """Start the calls beside them: at once those that wait for nothing, and the others when the endpoints
        have said what they had to."""
        for calls in self._beside:
            if calls.pile is None and (calls.traffic.starts == "open" or said):
                calls.start()
        self._facts.beside = tuple(calls.pile for calls in self._beside if calls.pile is not None)

    def done(self) -> bool:
        """Whether the calls have done what the window has to stay open for."""
        return all(
            calls.pile is not None and (calls.wanted in ("pending", "ended") or calls.pile.pending == 0)
            for calls in self._sets()
        )

    def judge(self) -> None:
        """What they have done, now that the window closes."""
        facts = self._facts
        for calls in self._sets():
            own = calls is self._piled
            which = "the calls" if own else f"{calls.call.name} beside them"
            pile = calls.pile
            if pile is None:
                facts.claim(f"{which} began", False, "what they waited for was not said")
                continue
            if own:
                facts.pending_in_window = pile.pending
            counts = _counted(pile)
            if calls.wanted == "pending":
                facts.prove(f"{which} were stuck", pile.pending == pile.started, counts)
            elif calls.wanted == "error":
                facts.claim(f"{which} ended in an error", pile.errors == pile.started, counts)
            elif calls.wanted == "answered":
                facts.claim(f"{which} were answered", pile.answered == pile.started, counts)
            self._judge_further(calls, pile, which)

    async def ended(self) -> None:
        """All of them have to end, now that the fault is gone."""
        piles = [calls.pile for calls in self._sets() if calls.pile is not None]
        if not piles:
            return
        ended = [await pile.ended(self._timing.end_within_s) for pile in piles]
        self._facts.mark("calls ended")
        started, pending = sum(pile.started for pile in piles), sum(pile.pending for pile in piles)
        detail = f"{started - pending} of {started} ended"
        self._facts.claim("the calls ended after release", all(ended), detail)

    async def take_back(self) -> None:
        """Undo what was set up and what was answered."""
        for calls in self._sets():
            await calls.rounds.take_back(calls.answered())

    async def again(self) -> tuple[str, int] | None:
        """The row's own call with the same keys: its name, and how many. Raises `SetupFailed`."""
        if self._piled is None:
            return None
        return self._piled.call.name, await self._piled.rounds.again(self._timing.recover_within_s)

    async def abandon(self) -> None:
        """Cancel what is still under way."""
        for calls in self._sets():
            if calls.pile is not None:
                await calls.pile.abandon()

    def _sets(self) -> Iterable[_Set]:
        return [*([self._piled] if self._piled is not None else []), *self._beside]

    def _judge_further(self, calls: _Set, pile: ConcurrentCalls, which: str) -> None:
        traffic = calls.traffic
        if traffic.error is not None:
            others = [
                record.detail
                for record in pile.records(0.0)
                if record.outcome == "error" and not re.search(traffic.error, record.detail)
            ]
            detail = "; ".join(dict.fromkeys(others)) or f"{pile.errors} errors like {traffic.error!r}"
            self._facts.claim(f"{which} were told why", not others and pile.errors > 0, detail)
        if traffic.within_s is not None:
            took = pile.longest_s()
            soon = pile.pending == 0 and took <= traffic.within_s
            detail = f"the slowest took {took:.2f} s of {traffic.within_s:g} s"
            self._facts.claim(f"{which} ended soon", soon, detail)


class _Set:
    """One call for some numbers."""

    def __init__(self, caller: Caller, call: Call, numbers: range, traffic: Traffic, wanted: CallsDo) -> None:
        self.call, self.numbers, self.traffic, self.wanted = call, numbers, traffic, wanted
        self.rounds = Rounds(caller, call, numbers)
        self.pile: ConcurrentCalls | None = None
        self._caller = caller

    def start(self) -> ConcurrentCalls:
        self.pile = ConcurrentCalls(
            self._caller, self.call, len(self.numbers), self.traffic.deadline_s, first=self.numbers.start
        )
        return self.pile

    def answered(self) -> set[int]:
        records = self.pile.records(0.0) if self.pile is not None else ()
        return {record.n for record in records if record.outcome == "answered"}


def _counted(pile: ConcurrentCalls) -> str:
    counts = f"of {pile.started}: {pile.pending} pending, {pile.answered} answered, {pile.errors} in error"
    errors = pile.errors_in_words()
    return f"{counts} ({errors})" if errors else counts
