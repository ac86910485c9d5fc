"""A test's plain dictionary of who owns what on a server, and the check of a server against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LOOSE = 0  # the session of what is registered without one

OK = "OK"
NOT_NOW = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})  # what a device that hangs may answer


class Fate(StrEnum):
    """What is known about a registration."""

    HELD = "held"  # it must be there
    GOING = "going"  # it may be there until its device is quiet, and not after that
    UNKNOWN = "unknown"  # either, until the device is quiet: then the kernel's word is taken


class Violation(AssertionError):
    """Raised when the server did something that it must not do."""


@dataclass(slots=True)
class Registration:
    """One register. `memory` is the shared memory's name, which no other register has."""

    memory: str
    instance: str
    session: int
    rank: int
    device: int
    layers: int
    nbytes: int  # of one layer
    fate: Fate = Fate.UNKNOWN
    in_flight: bool = False  # its caller still waits for the answer

    def __str__(self) -> str:
        session = "no session" if self.session == LOOSE else f"session {self.session}"
        answer = ", in flight" * self.in_flight
        where = f"rank {self.rank} on device {self.device}"
        return f"{self.memory}: {self.instance!r} {where}, {session}: {self.fate}{answer}"

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What no two held registrations share."""
        return self.instance, self.session, self.rank, self.device

    @property
    def context(self) -> Context:
        """How /instances shows it."""
        return Context(
            self.instance, self.session == LOOSE, self.rank, self.layers, self.layers * self.nbytes
        )


@dataclass(frozen=True, slots=True, order=True)
class Context:
    """One context of /instances. Session generations are compared by whether there is one."""

    instance: str
    loose: bool
    rank: int
    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One device at one moment: /instances, /metrics, and the kernel's list of what its actor has mapped."""

    contexts: tuple[Context, ...] = ()
    settled: bool = True
    counted: tuple[int, int, int] = (0, 0, 0)  # contexts, tensors, bytes
    in_flight: int = 0
    mapped: frozenset[str] = frozenset()


@dataclass(slots=True)
class Model:
    """The registrations by the name of their memory, the open sessions, and which devices hang how."""

    registrations: dict[str, Registration] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    _loose: set[str] = field(default_factory=set)
    _last_session: int = LOOSE

    # ---- what happened

    def submitted(self, memory: str, instance: str, rank: int, device: int, layers: int, nbytes: int) -> None:
        """A register is on its way; it belongs to the instance's open session, if there is one."""
        session = self.sessions.get(instance, LOOSE)
        registration = Registration(memory, instance, session, rank, device, layers, nbytes, in_flight=True)
        self.registrations[memory] = registration

    def answered(self, memory: str, code: str, *, waited: bool = False) -> None:
        """Its caller got this status; `waited`: through a fault, and perhaps its end.

        Raises Violation for a status that it cannot have.
        """
        mine = self.registrations[memory]
        mine.in_flight = False
        others = [other for other in self.registrations.values() if other.key == mine.key]
        rivals = [other for other in others if other is not mine]
        if code == OK and mine.session == LOOSE:
            self._loose.add(mine.instance)
        if mine.fate is Fate.GOING:  # dropped, or left by its caller, while it was in flight: nothing is lost
            return
        allowed = self._may_answer(mine, rivals, waited=waited)
        if code not in allowed:
            raise Violation(f"{mine.key} was answered with {code}; it may be {' or '.join(sorted(allowed))}")
        if code == OK:
            mine.fate = Fate.HELD
            self._remove(rival for rival in rivals if rival.fate is not Fate.HELD and not rival.in_flight)
        elif code == "DEADLINE_EXCEEDED":
            mine.fate = Fate.UNKNOWN
        else:
            mine.fate = Fate.GOING

    def _may_answer(self, mine: Registration, rivals: list[Registration], *, waited: bool) -> set[str]:
        fates = {rival.fate for rival in rivals}
        may = set[str]()
        if Fate.HELD not in fates:
            may.add(OK)
        if fates & {Fate.HELD, Fate.UNKNOWN}:
            may.add("ALREADY_EXISTS")
        if waited:
            return may | NOT_NOW
        match self.faults.get(mine.device):
            case None:
                return may
            case "gil.hold":  # nothing runs there, so nothing can be done there
                return set(NOT_NOW)
            case _:
                return may | NOT_NOW

    def left(self, memory: str) -> None:
        """Its caller has gone while it was in flight."""
        self.registrations[memory].fate = Fate.GOING

    def drop(self, *, instance: str | None = None, device: int | None = None, done: bool) -> None:
        """A cleanup was `done`, or is queued, for an instance (None: all) on a device (None: all)."""
        self._loose = set[str]() if instance is None else self._loose - {instance}
        self._drop(
            lambda one: (
                (instance is None or one.instance == instance) and (device is None or one.device == device)
            ),
            done=done,
        )

    def opened(self, instance: str) -> None:
        """A session was opened; an older one of the instance is superseded, and what is loose stays."""
        older = self.sessions.get(instance)
        self._last_session += 1
        self.sessions[instance] = self._last_session
        if older is not None:
            self._drop(lambda one: one.key[:2] == (instance, older), done=False)

    def closed(self, instance: str) -> None:
        """The instance's session ended; what is loose goes with it."""
        ended = {self.sessions.pop(instance)}
        if instance in self._loose:
            self._loose.discard(instance)
            ended.add(LOOSE)
        self._drop(lambda one: one.instance == instance and one.session in ended, done=False)

    def _drop(self, concerned: Callable[[Registration], bool], *, done: bool) -> None:
        doomed = [one for one in self.registrations.values() if concerned(one)]
        for one in doomed:
            one.fate = Fate.GOING
        if done:
            self._remove(one for one in doomed if not one.in_flight)

    def _remove(self, gone: Iterable[Registration]) -> None:
        for registration in tuple(gone):
            del self.registrations[registration.memory]

    # ---- what must be seen

    def on(self, device: int) -> tuple[Registration, ...]:
        """The registrations that may be on the device."""
        return tuple(one for one in self.registrations.values() if one.device == device)

    def may_wait(self, instance: str) -> bool:
        """Whether a cleanup of the instance may have to wait for a device that hangs."""
        return any(
            one.instance == instance and one.device in self.faults for one in self.registrations.values()
        )

    def contradiction(self, device: int, seen: Seen) -> str:
        """What the device shows although it must not, or hides although it must not; '' when all is well."""
        return self._while_broken(device, seen) if device in self.faults else self._when_quiet(device, seen)

    def settle(self, device: int, seen: Seen) -> None:
        """The device is quiet and agrees: nothing there is unknown any more."""
        for one in self.on(device):
            if one.memory in seen.mapped:
                one.fate = Fate.HELD
            else:
                self._remove([one])

    def _while_broken(self, device: int, seen: Seen) -> str:
        here = self.on(device)
        must = Counter(one.context for one in here if one.fate is Fate.HELD)
        # What is being registered is shown without its tensors, so only its name is compared.
        may = Counter((one.instance, one.session == LOOSE, one.rank) for one in here)
        shown = Counter(seen.contexts)
        return _told(
            {
                "lost (not in /instances)": must - shown,
                "lost (not mapped)": {one.memory for one in here if one.fate is Fate.HELD} - seen.mapped,
                "orphan (in /instances)": {
                    context for context in shown if (context.instance, context.loose, context.rank) not in may
                },
                "orphan (mapped)": seen.mapped - {one.memory for one in here},
            }
        )

    def _when_quiet(self, device: int, seen: Seen) -> str:
        here = [
            one
            for one in self.on(device)
            if one.fate is Fate.HELD or (one.fate is Fate.UNKNOWN and one.memory in seen.mapped)
        ]
        must, shown = Counter(one.context for one in here), Counter(seen.contexts)
        counted = (len(here), sum(c.tensors for c in must.elements()), sum(c.bytes for c in must.elements()))
        memory = {one.memory for one in here}
        return _told(
            {
                "lost (not in /instances)": must - shown,
                "lost (not mapped)": memory - seen.mapped,
                "orphan (in /instances)": shown - must,
                "orphan (mapped)": seen.mapped - memory,
                "two held under one key": {
                    key for key, times in Counter(one.key for one in here).items() if times > 1
                },
                "/metrics has (contexts, tensors, bytes)": (
                    [] if seen.counted == counted else [f"{seen.counted} instead of {counted}"]
                ),
                "not quiet": [f"{seen.in_flight} in flight"] * bool(seen.in_flight),
                "not settled": ["a context of /instances"] * (not seen.settled),
            }
        )


def _told(findings: Mapping[str, Iterable[object]]) -> str:
    return "; ".join(
        f"{what}: {', '.join(map(str, found))}" for what, those in findings.items() if (found := list(those))
    )
