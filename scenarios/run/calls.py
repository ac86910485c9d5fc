"""The calls of a scenario: those that are stuck under the fault, the extra calls beside them, and what both
had to do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence

from scenarios.errors import CallFailed, SetupFailed
from scenarios.judge import claim, proof
from scenarios.record import CallRecord, Guard, StuckCalls
from scenarios.spec import Call, Scenario
from scenarios.spec.suite import CallsDo, Traffic
from scenarios.traffic.caller import Caller
from scenarios.traffic.concurrent_calls import ConcurrentCalls

_RETRY_S = 0.05
_REPEATED_AT_MOST = 64
"""So many keys of a large number of calls are tried again: from the first to the last, evenly spread."""


class ScenarioCalls:
    """All calls of one scenario: the row's own, which mostly have to be stuck, and the extra ones."""

    def __init__(self, scenario: Scenario, caller: Caller) -> None:
        self._timing, self._expected = scenario.timing, scenario.calls
        self._hang_by_themselves = scenario.hangs_by_itself and scenario.calls != "answered"
        count = scenario.row.traffic.count
        self._stuck = (
            _Batch(caller, scenario.call, range(1, count + 1), scenario.row.traffic, scenario.calls)
            if scenario.call is not None and count
            else None
        )
        self._extra = [
            _Batch(
                caller,
                beside.call,
                range(beside.first, beside.first + beside.traffic.count),
                beside.traffic,
                beside.traffic.calls,
            )
            for beside in scenario.beside
        ]

    async def warm_up(self) -> None:
        """Make each call, with its `needs` and `undo`, once on the healthy server, but for those that hang on
        it by themselves. Raises `SetupFailed`."""
        for batch in self._batches():
            own = batch is self._stuck and not self._hang_by_themselves
            if own or batch.wanted == "answered":
                await batch.cycle.run_once()

    async def set_up(self) -> None:
        """Make the calls that these calls need first. Raises `SetupFailed`."""
        for batch in self._batches():
            await batch.cycle.set_up()

    def start_stuck(self) -> bool:
        """Start the row's own calls; False if it has none."""
        if self._stuck is not None:
            self._stuck.start()
        return self._stuck is not None

    def start_extra(self, *, asserted: bool) -> None:
        """Start the extra calls that have not begun: those that wait for nothing, and the others too once the
        assertions were met (`asserted`)."""
        for batch in self._extra:
            if batch.pile is None and (batch.traffic.starts == "open" or asserted):
                batch.start()

    @property
    def done(self) -> bool:
        """Whether the calls have done what the window has to stay open for."""
        return all(
            batch.pile is not None and (batch.wanted in ("pending", "ended") or batch.pile.pending == 0)
            for batch in self._batches()
        )

    @property
    def stuck_since_s(self) -> float | None:
        """When the last of the row's own calls began, if they have to be stuck and all of them still are;
        None otherwise."""
        batch = self._stuck
        if batch is None or batch.wanted != "pending" or batch.pile is None:
            return None
        return batch.pile.last_began_s if batch.pile.pending == batch.pile.started else None

    @property
    def pending(self) -> int:
        """How many of the row's own calls have not ended."""
        return self._stuck.pile.pending if self._stuck is not None and self._stuck.pile is not None else 0

    def window_guards(self, in_part: str = "") -> tuple[Guard, ...]:
        """The guards on the calls when the window closes. `in_part`: in words, that some of the processes
        that take them are sound: those that reach one are answered."""
        return tuple(guard for batch in self._batches() for guard in self._window_guards(batch, in_part))

    async def wait_ended(self) -> Guard | None:
        """Wait, after the release, until all calls have ended; returns the claim that they have. None without
        calls."""
        piles = [batch.pile for batch in self._batches() if batch.pile is not None]
        if not piles:
            return None
        ended = [await pile.ended(self._timing.end_within_s) for pile in piles]
        started, pending = sum(pile.started for pile in piles), sum(pile.pending for pile in piles)
        detail = f"{started - pending} of {started} ended"
        return claim("the calls ended after release", all(ended), detail)

    async def undo(self) -> None:
        """Undo what was set up and what was answered."""
        for batch in self._batches():
            await batch.cycle.undo(batch.answered())

    async def repeat(self) -> tuple[str, int] | None:
        """Make the row's own calls once more with the same keys: their name, and how many; None without any.
        Raises `SetupFailed`."""
        if self._stuck is None or self._hang_by_themselves:
            return None
        return self._stuck.call.name, await self._stuck.cycle.repeat(self._timing.recover_within_s)

    async def abandon(self) -> None:
        """Cancel the calls that are still under way."""
        for batch in self._batches():
            if batch.pile is not None:
                await batch.pile.abandon()

    def stuck(self, origin_s: float, pending_in_window: int) -> StuckCalls:
        """The row's own calls for the report, with times relative to `origin_s`."""
        pile = self._stuck.pile if self._stuck is not None else None
        if pile is None:
            return StuckCalls(expected=self._expected)
        return StuckCalls(
            started=pile.started,
            pending_in_window=pending_in_window,
            ended_after_release=pile.started - pile.pending,
            expected=self._expected,
            calls=pile.records(origin_s),
        )

    def extra_records(self, origin_s: float) -> tuple[CallRecord, ...]:
        """The extra calls for the report, with times relative to `origin_s`."""
        piles = (batch.pile for batch in self._extra if batch.pile is not None)
        return tuple(call for pile in piles for call in pile.records(origin_s))

    def _batches(self) -> Iterable[_Batch]:
        return [*([self._stuck] if self._stuck is not None else []), *self._extra]

    def _window_guards(self, batch: _Batch, in_part: str) -> Iterator[Guard]:
        which = "the calls" if batch is self._stuck else f"{batch.call.name} beside them"
        pile = batch.pile
        if pile is None:
            yield claim(f"{which} began", False, "what they waited for was not said")
            return
        counts = _counted(pile)
        if batch.wanted == "pending":
            stuck = pile.pending == pile.started or (bool(in_part) and not pile.errors)
            yield proof(f"{which} were stuck", stuck, f"{counts}; {in_part}" if in_part else counts)
        elif batch.wanted == "error":
            yield claim(f"{which} ended in an error", pile.errors == pile.started, counts)
        elif batch.wanted == "answered":
            yield claim(f"{which} were answered", pile.answered == pile.started, counts)
        traffic = batch.traffic
        if traffic.error is not None:
            others = [
                record.detail
                for record in pile.records(0.0)
                if record.outcome == "error" and not re.search(traffic.error, record.detail)
            ]
            detail = "; ".join(dict.fromkeys(others)) or f"{pile.errors} errors like {traffic.error!r}"
            yield claim(f"{which} were told why", not others and pile.errors > 0, detail)
        if traffic.within_s is not None:
            took = pile.longest_s()
            soon = pile.pending == 0 and took <= traffic.within_s
            detail = f"the slowest took {took:.2f} s of {traffic.within_s:g} s"
            yield claim(f"{which} ended soon", soon, detail)


class _Batch:
    """One call for some numbers, all started at once."""

    def __init__(self, caller: Caller, call: Call, numbers: range, traffic: Traffic, wanted: CallsDo) -> None:
        self.call, self.numbers, self.traffic, self.wanted = call, numbers, traffic, wanted
        self.cycle = _CallCycle(caller, call, numbers)
        self.pile: ConcurrentCalls | None = None
        self._caller = caller

    def start(self) -> None:
        self.pile = ConcurrentCalls(
            self._caller, self.call, len(self.numbers), self.traffic.deadline_s, first=self.numbers.start
        )

    def answered(self) -> set[int]:
        records = self.pile.records(0.0) if self.pile is not None else ()
        return {record.n for record in records if record.outcome == "answered"}


class _CallCycle:
    """A call with its `needs` before it and its `undo` after it, for each of these numbers, all at the same
    time. Raises `SetupFailed` if a call that had to succeed did not."""

    def __init__(self, caller: Caller, call: Call, numbers: Sequence[int]) -> None:
        self._caller, self._call, self._numbers = caller, call, numbers
        self._chain = caller.chain(call)

    async def run_once(self) -> None:
        """Set up, call, undo; for the first few numbers, since one is like the next."""
        first = self._numbers[:_REPEATED_AT_MOST]
        await _for_each(self._perform, first)
        await _for_each(self._undo, first)

    async def set_up(self) -> None:
        """Make only the calls that these calls need first."""
        if self._chain:
            await _for_each(self._make_needed, self._numbers)

    async def undo(self, answered: Collection[int]) -> None:
        """Undo the set-up and the calls that were answered. Calls that ended in an error are not undone: they
        must have left nothing behind."""
        await _for_each(self._undo, [n for n in self._numbers if self._chain or n in answered])

    async def repeat(self, within_s: float) -> int:
        """Run the whole cycle with the same keys, after `undo`; returns how many. A server that has just come
        back may refuse for up to `within_s`."""
        step = -(-len(self._numbers) // _REPEATED_AT_MOST)
        chosen = self._numbers[::step] if step else ()

        async def once_more(n: int) -> None:
            await self._retry(n, within_s)
            await self._undo(n)

        await _for_each(once_more, chosen)
        return len(chosen)

    async def _retry(self, n: int, within_s: float) -> None:
        give_up_s = time.monotonic() + within_s
        while True:
            try:
                return await self._perform(n)
            except SetupFailed:
                if time.monotonic() > give_up_s:
                    raise
            if self._chain:  # it may have come as far as that
                await self._undo(n)
            await asyncio.sleep(_RETRY_S)

    async def _perform(self, n: int) -> None:
        await self._make_needed(n)
        await self._make(self._call, n)

    async def _make_needed(self, n: int) -> None:
        for call in self._chain:
            await self._make(call, n)

    async def _make(self, call: Call, n: int) -> None:
        try:
            await self._caller.make(call, n)
        except CallFailed as error:
            raise SetupFailed(f"call {call.name} number {n} had to succeed: {error}") from error

    async def _undo(self, n: int) -> None:
        await self._caller.undo(self._call, n, self._call.deadline_s)


async def _for_each(action: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Run `action` for all numbers at the same time and to the end, then raise the first failure."""
    for result in await asyncio.gather(*(action(n) for n in numbers), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _counted(pile: ConcurrentCalls) -> str:
    counts = f"of {pile.started}: {pile.pending} pending, {pile.answered} answered, {pile.errors} in error"
    errors = pile.errors_in_words()
    return f"{counts} ({errors})" if errors else counts
