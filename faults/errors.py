"""Everything that can go wrong in the fault layer, as one tree.

Every message says what was wrong and what would be right. Exceptions carry the values they mention, so that
nobody needs to match on text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_SILENT_SHOWN = 3


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that look most like `name`, best first, at most three."""
    return tuple(get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5))


def _hint(near: Sequence[str], otherwise: str) -> str:
    return f"did you mean {' or '.join(near)}?" if near else otherwise


class FaultsError(Exception):
    """Root of the tree. `str()` is the message for a person."""


class UnknownFault(FaultsError):
    """Raised by `Controller.arm` when no fault of the catalogue has that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.near = name, nearest(name, known)
        super().__init__(f"no fault is called {name!r}; {_hint(self.near, '`wedge faults` lists them all')}")


class UnknownParameter(FaultsError):
    """Raised by `Controller.arm` when the fault takes no parameter of that name, or one it needs is
    missing.
    """

    def __init__(self, fault: str, name: str, known: Iterable[str], *, missing: bool = False) -> None:
        known = tuple(known)
        self.fault, self.name, self.near = fault, name, nearest(name, known)
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        super().__init__(
            f"{fault} needs the parameter {name!r}; give it as {name}=…"
            if missing
            else f"{fault} has no parameter {name!r}; {_hint(self.near, takes)}"
        )


class BadParameter(FaultsError):
    """Raised by `Controller.arm` when a parameter's value is not one the fault can use."""

    def __init__(self, fault: str, name: str, value: object, expected: str) -> None:
        self.fault, self.name, self.value, self.expected = fault, name, value, expected
        super().__init__(f"{fault}: {name}={value!r} cannot be used; expected {expected}")


class BadTrigger(FaultsError):
    """Raised by `Controller.arm` when a trigger's keyword or value is unknown, or the fault takes none."""

    def __init__(self, fault: str, message: str) -> None:
        self.fault = fault
        super().__init__(f"{fault}: {message}")


class UnknownSite(FaultsError):
    """Raised by arming when `module:qualname` names nothing callable in the target, or a name no site has."""

    def __init__(self, site: str, reason: str, near: Sequence[str] = ()) -> None:
        self.site, self.reason, self.near = site, reason, tuple(near)
        super().__init__(f"site {site!r}: {reason}; {_hint(near, 'a site is written module:qualname')}")


class UnknownSelector(FaultsError):
    """Raised when a process is asked for by a name that the controller does not know."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = tuple(known)
        self.name, self.near = name, nearest(name, known)
        knows = f"the known ones are {', '.join(known)}" if known else "none was given to the controller"
        super().__init__(f"no process selector is called {name!r}; {_hint(self.near, knows)}")


class NoSuchProcess(FaultsError):
    """Raised when no process with an agent matches a selector in time.

    `seen` are the processes with an agent, `silent` Python processes that were launched and have none, each
    with the reason.
    """

    def __init__(self, wanted: str, seen: Sequence[str], silent: Sequence[str], waited_s: float) -> None:
        self.wanted, self.seen, self.silent, self.waited_s = wanted, tuple(seen), tuple(silent), waited_s
        there = f"connected are {'; '.join(seen)}" if seen else "no process has connected"
        remedy = "start the target with `wedge exec` or Controller.environment()"
        if silent:
            more = f"; and {len(silent) - _SILENT_SHOWN} more" if len(silent) > _SILENT_SHOWN else ""
            remedy = f"running without an agent: {'; '.join(silent[:_SILENT_SHOWN])}{more}; {remedy}"
        elif not seen:
            remedy += ", and without python's -I, -E or -S"
        else:
            remedy = "`wedge status` shows them whole"
        super().__init__(f"no process matches {wanted} after {waited_s:g} s; {there}; {remedy}")


class ProcessGone(FaultsError):
    """Raised when a process ended before it answered a request."""

    def __init__(self, pid: int, asked: str) -> None:
        self.pid, self.asked = pid, asked
        super().__init__(f"process {pid} went away before it answered {asked!r}; is it still meant to run?")


class NotAnswered(FaultsError):
    """Raised when a process lives but its agent does not answer: it is stopped, overloaded, or its GIL is
    held."""

    def __init__(self, pid: int, asked: str, waited_s: float) -> None:
        self.pid, self.asked, self.waited_s = pid, asked, waited_s
        super().__init__(
            f"process {pid} did not answer {asked!r} within {waited_s:g} s: it is stopped, starved, or its "
            "GIL is held; release what breaks it first"
        )


class ArmFailed(FaultsError):
    """Raised by arming when the target refused; nothing stays armed anywhere."""

    def __init__(self, fault: str, pid: int, reason: str) -> None:
        self.fault, self.pid, self.reason = fault, pid, reason
        super().__init__(f"{fault} could not be armed in process {pid}, and is armed nowhere: {reason}")


class NotArmed(FaultsError):
    """Raised when a fault is asked for something that it can do only while armed."""

    def __init__(self, fault: str, wanted: str) -> None:
        self.fault = fault
        super().__init__(f"{fault} is not armed, so it cannot be {wanted}; enter it with `async with` first")


class NeverHit(FaultsError):
    """Raised by `Fault.wait_biting` when nothing ran into the fault in time: what follows would prove
    nothing.
    """

    def __init__(self, fault: str, waited_s: float, found: Sequence[str]) -> None:
        self.fault, self.waited_s, self.found = fault, waited_s, tuple(found)
        super().__init__(
            f"{fault} did not bite within {waited_s:g} s ({'; '.join(found) or 'nothing reached it'}); check "
            "its site and its process, and that traffic goes there"
        )


class LeaseTooLong(FaultsError):
    """Raised by `Controller.arm` when a lease is not positive or is over the limit."""

    def __init__(self, lease_s: float, limit_s: float) -> None:
        self.lease_s, self.limit_s = lease_s, limit_s
        super().__init__(
            f"a lease of {lease_s:g} s is refused; it must be over 0 s and at most {limit_s:g} s"
        )


class LaunchFailed(FaultsError):
    """Raised by `Controller.launch` when the command cannot be started."""

    def __init__(self, command: Sequence[str], reason: str) -> None:
        self.command, self.reason = tuple(command), reason
        super().__init__(f"cannot start {' '.join(command) or 'an empty command'}: {reason}")


class NotOpen(FaultsError):
    """Raised when a controller is used outside its `async with`."""

    def __init__(self) -> None:
        super().__init__("the controller is not open; use it inside `async with Controller() as c:`")


class BrokenPlugin(FaultsError):
    """Raised when a fault's file, a plugin's above all, lacks something that the catalogue needs."""

    def __init__(self, origin: str, reason: str) -> None:
        self.origin, self.reason = origin, reason
        super().__init__(
            f"the fault in {origin} cannot be used: {reason}; "
            "`pydoc faults.catalogue` tells what a fault's file has"
        )


class SessionError(FaultsError):
    """Raised by the commands when there is no session to talk to, or more than one and none was named."""

    def __init__(self, message: str, sessions: Sequence[str] = ()) -> None:
        self.sessions = tuple(sessions)
        super().__init__(message)
