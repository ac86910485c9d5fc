"""Tells a hanging actor from a slow or idle one, and names the kind of hang, from outside the actor.

Only changes of the counters count, and time is counted in polls. A late poll (because this process was
stopped or starved) adds two intervals at most, so the detector never blames the actor for its own pause.
"""

from __future__ import annotations

from dataclasses import dataclass

from pegaref.messages import Pulse
from pegaref.registry.link import Vitals
from pegaref.registry.snapshot import Hang

BEAT_LOST_AFTER_S = 1.0  # ten beats
POLLS_PER_WEDGE = 8
OVERDUE_AT_POLL = 2
LONGEST_POLL_INTERVAL_S = 0.25


def poll_interval_s(wedge_after_s: float) -> float:
    """Seconds between polls, short enough to see a wedge soon after `wedge_after_s`."""
    return min(LONGEST_POLL_INTERVAL_S, wedge_after_s / POLLS_PER_WEDGE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one poll found. `hang` is None if the actor does not hang."""

    hang: Hang | None
    still_s: float  # without progress on the command in flight
    reply_overdue: bool  # the actor reports the request as finished, but its answer has not come


class HangDetector:
    """Watches one epoch of one actor; a respawned actor gets a new detector."""

    def __init__(self, vitals: Vitals, *, wedge_after_s: float, start_within_s: float, now_s: float) -> None:
        self._vitals = vitals
        self._wedge_after_s = wedge_after_s
        self._start_within_s = start_within_s
        self._poll_interval_s = poll_interval_s(wedge_after_s)
        self._polled_s = now_s
        self._pulse = Pulse(0, 0, 0, 0)
        self._in_flight = 0
        self._started = False
        self._beat_still_s = 0.0
        self._still_s = 0.0
        self._polls_done = 0  # polls in a row that found the same command finished
        self._polls_uninterruptible = 0

    def poll(self, now_s: float, *, in_flight: int, started: bool) -> Finding:
        """Read the vitals once.

        `in_flight` is the serial of the request that the actor has (0: none). `started` is true once the
        actor has sent Ready.
        """
        passed_s = min(now_s - self._polled_s, 2 * self._poll_interval_s)
        self._polled_s = now_s
        pulse, before = self._vitals.pulse(), self._pulse
        self._pulse = pulse
        self._beat_still_s = 0.0 if pulse.beat != before.beat else self._beat_still_s + passed_s
        if started and not self._started:  # the time in which torch was loaded is no hang
            self._started, self._beat_still_s, self._still_s = True, 0.0, 0.0
        busy = in_flight != 0 or not started
        moved = (pulse.started, pulse.finished, pulse.progress, in_flight) != (
            before.started,
            before.finished,
            before.progress,
            self._in_flight,
        )
        self._still_s = 0.0 if moved or not busy else self._still_s + passed_s
        done = in_flight != 0 and in_flight == self._in_flight and pulse.finished == in_flight
        self._in_flight = in_flight
        self._polls_done = self._polls_done + 1 if done else 0
        return Finding(self._hang(started), self._still_s, reply_overdue=self._polls_done >= OVERDUE_AT_POLL)

    def _hang(self, started: bool) -> Hang | None:
        patience_s = self._wedge_after_s if started else self._start_within_s
        if max(self._still_s, self._beat_still_s) < patience_s:
            self._polls_uninterruptible = 0
            return None
        states = self._vitals.states()
        if states and set(states) <= {"Z", "X"}:
            return Hang.DEAD
        if set(states) & {"T", "t"}:
            return Hang.STOPPED
        self._polls_uninterruptible = self._polls_uninterruptible + 1 if "D" in states else 0
        if self._polls_uninterruptible >= 2:
            return Hang.UNKILLABLE
        beat_lost_s = min(BEAT_LOST_AFTER_S, self._wedge_after_s)
        return Hang.GIL_HELD if self._beat_still_s >= beat_lost_s else Hang.STALLED
