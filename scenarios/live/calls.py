"""Calls of the target made by hand, one by one, each with its `needs` before it and its `undo` after it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scenarios.errors import ScenariosError
from scenarios.spec import Call, Target
from scenarios.traffic.caller import Caller


@dataclass(slots=True)
class _PendingCall:
    """One of them: `step` is the call that it is in now. Times are `time.monotonic()` seconds."""

    call: str
    n: int
    began_s: float
    step: str


@dataclass(frozen=True, slots=True)
class CallTally:
    """The counts of one call: how many are under way, since when and in which step, and how the others
    ended."""

    call: str
    pending: int
    oldest_s: float
    steps: tuple[str, ...]
    answered: int
    last_s: float | None
    errors: int
    error: str


@dataclass(slots=True)
class _Outcomes:
    answered: int = 0
    last_s: float | None = None
    errors: int = 0
    error: str = ""


class ManualCalls:
    """Makes calls one by one, each with a number of its own, and counts how they end."""

    def __init__(self, target: Target, caller: Caller) -> None:
        self._caller = caller
        self._by_name = {call.name: call for call in target.call}
        self._made: list[_PendingCall] = []
        self._ended = {name: _Outcomes() for name in self._by_name}
        self._number = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What can be called, in the target's order."""
        return tuple(self._by_name)

    async def make(self, name: str) -> None:
        """Make a call, wait for its answer, and undo it. Never raises for a server's answer."""
        call = self._by_name[name]
        self._number += 1
        made = _PendingCall(name, self._number, time.monotonic(), name)
        self._made.append(made)
        try:
            await self._answered(call, made)
            chain = (call, *reversed(self._caller.chain(call)))
            made.step = next((step.undo for step in chain if step.undo is not None), name)
            await self._caller.undo(call, made.n, call.deadline_s)
        finally:
            self._made.remove(made)

    async def _answered(self, call: Call, made: _PendingCall) -> None:
        ended = self._ended[call.name]
        try:
            for step in (*self._caller.chain(call), call):
                made.step, began_s = step.name, time.monotonic()
                await self._caller.make(step, made.n)
            ended.answered, ended.last_s = ended.answered + 1, time.monotonic() - began_s
        except ScenariosError as error:
            where = f"{made.step}: " if made.step != call.name else ""
            ended.errors, ended.error = ended.errors + 1, f"{where}{error}"

    def tallies(self) -> tuple[CallTally, ...]:
        """The counts of every call that was made so far."""
        now_s = time.monotonic()
        told = []
        for name in self._by_name:
            pending = [made for made in self._made if made.call == name]
            ended = self._ended[name]
            if pending or ended.answered or ended.errors:
                oldest_s = max((now_s - made.began_s for made in pending), default=0.0)
                steps = tuple(dict.fromkeys(made.step for made in pending))
                told.append(
                    CallTally(
                        name, len(pending), oldest_s, steps,
                        ended.answered, ended.last_s, ended.errors, ended.error,
                    )
                )  # fmt: skip
        return tuple(told)
