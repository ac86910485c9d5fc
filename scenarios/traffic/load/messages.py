"""What the runner and a load's process say to each other: one JSON line each, times in `time.monotonic()`."""

from __future__ import annotations

import msgspec

from scenarios.spec import Target
from scenarios.spec.loads import Idle, Scrape, SlowLoris, Storm

GeneratedLoad = Storm | Scrape | Idle | SlowLoris
"""The loads that are made of connections and calls; clients are processes of their own."""

UP_WITHIN_S = 10.0


class BeginLoads(msgspec.Struct, frozen=True, tag="begin"):
    """Begin these loads of a target that runs; its file lies in `folder`, `names` are its placeholders."""

    folder: str
    spec: Target
    names: dict[str, str]
    loads: tuple[GeneratedLoad, ...]


class OpenWindow(msgspec.Struct, frozen=True, tag="window"):
    """The window opens: answer with a `Tallied`, and take what is fewest from here on."""


class StopLoads(msgspec.Struct, frozen=True, tag="stop"):
    """The window closes: take the last tally, then end everything and close every connection."""


class CleanUp(msgspec.Struct, frozen=True, tag="clean-up"):
    """The fault is released: undo what the calls may have left behind."""

    within_s: float


LoadCommand = BeginLoads | OpenWindow | StopLoads | CleanUp


class LoadTally(msgspec.Struct, frozen=True):
    """One load so far. `started`: calls, requests, or connections tried. `answered`: those that were, or
    connections made. `errors`: those that failed otherwise. `open`: connections, or calls under way, and
    `least_open` the fewest at once since the window opened. `closed`: connections that the server closed.
    `throttled`: starts for which there was no room. `silent`: open connections that have not yet done
    what they are there for (a first request, a first byte). `sent_bytes`: by slow connections.
    `established`: our ends of its connections as the kernel has them, `accepted`: the server's ends, those
    still in its backlog left out; None where they are not to be seen (another network namespace).
    """

    started: int = 0
    answered: int = 0
    errors: int = 0
    open: int = 0
    least_open: int = 0
    closed: int = 0
    throttled: int = 0
    silent: int = 0
    sent_bytes: int = 0
    established: int = 0
    accepted: int | None = None
    said: tuple[str, ...] = ()


class Up(msgspec.Struct, frozen=True, tag="up"):
    """Every load has begun as far as it goes within `UP_WITHIN_S`."""


class Tallied(msgspec.Struct, frozen=True, tag="tallied"):
    """All loads, in the order they were given, when the window opened or closed."""

    now_s: float
    tallies: tuple[LoadTally, ...]
    cpu_s: float


class LoadsStopped(msgspec.Struct, frozen=True, tag="stopped"):
    """Everything is ended and closed."""


class Cleaned(msgspec.Struct, frozen=True, tag="cleaned"):
    """What could be undone is; `left` says what could not."""

    left: tuple[str, ...]


class CannotLoad(msgspec.Struct, frozen=True, tag="cannot"):
    """The loads cannot be made on this machine; the process ends."""

    problem: str


LoadReport = Up | Tallied | LoadsStopped | Cleaned | CannotLoad
