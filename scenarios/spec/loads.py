"""The loads of a row: traffic besides its calls and the probes, from before the window opens until it closes.

Every load is bounded in count and in time, and must be seen to be there while the window is open, or the row
proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from scenarios.errors import did_you_mean, nearest
from scenarios.spec.target import HttpProbe, Target

Count = Annotated[int, msgspec.Meta(ge=1, le=20_000)]
Held = Annotated[int, msgspec.Meta(ge=0, le=20_000)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=10_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]


class Storm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="storm", tag_field="kind"):
    """`rate_hz` calls of the target's `call` a second, open loop: started on schedule however those before
    fared, but never more than `at_most` at once (a start that finds no room is counted as held back).
    What a call needs is called before it, and undone after it. `deadline_s` and `hold_s` (for how long a
    stream is held open) override the call's."""

    call: str
    rate_hz: Rate = 50.0
    at_most: Count = 200
    deadline_s: Seconds | None = None
    hold_s: Seconds | None = None


class Scrape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="scrape", tag_field="kind"):
    """`connections` kept-alive connections that ask the http probe `probe` again as soon as they are
    answered, together at most `rate_hz` times a second."""

    probe: str
    connections: Count = 20
    rate_hz: Rate = 500.0


class Idle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="idle", tag_field="kind"):
    """`count` connections to the address of `probe` that never send a byte. One that the server closes is
    counted and opened again; `held` is how many of them must be open all the time: by default all, and 0 for
    a server that closes each of them in time."""

    probe: str
    count: Count = 2000
    held: Held | None = None


class SlowLoris(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="slow-loris", tag_field="kind"):
    """`count` connections to the address of `probe`, each sending the head of a request that never ends,
    one byte every `every_s`. As with `idle`: one that the server closes is counted and opened again."""

    probe: str
    count: Count = 200
    every_s: Annotated[float, msgspec.Meta(ge=0.02, le=60)] = 0.2
    held: Held | None = None


class Clients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="client", tag_field="kind"):
    """`count` real processes of the target's `[[client]]` named `client` (one with `when = "scenario"`).

    They start `before` the fault is armed, or when it is `biting`. With `kill` each is killed (SIGKILL) in
    the window, once it has printed its line, is connected to the server (unless `connected` is false), and
    `for_s` more have passed; otherwise they are ended when the window closes. `stuck`: it must say nothing
    more before that, for it was to be killed in the middle of what it began. What a killed client shared
    with the server must be out of the server's memory `released_within_s` after the kill, or after the
    fault's release if that is later.
    """

    client: str
    count: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    start: Literal["before", "biting"] = "biting"
    kill: bool = True
    for_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.3
    stuck: bool = False
    connected: bool = True
    released_within_s: Seconds = 5.0


Load = Storm | Scrape | Idle | SlowLoris | Clients


def problem(load: Load, target: Target) -> str | None:
    """What about the load does not fit the target, in words for after the key; None where it fits."""
    match load:
        case Storm():
            calls = {call.name: call for call in target.call}
            if load.hold_s is not None and load.call in calls and calls[load.call].until == "end":
                return (
                    f'call {load.call!r} is answered by its end (`until = "end"`): there is nothing to hold'
                )
            return _unknown(target, "call", load.call, calls)
        case Clients():
            known = {client.name: client for client in target.client}
            if load.client in known and known[load.client].when != "scenario":
                return f'client {load.client!r} starts with the server: give it `when = "scenario"`'
            return _unknown(target, "client", load.client, known)
    probes = {probe.name: probe for probe in target.probe}
    if isinstance(load, Scrape) and load.probe in probes and not isinstance(probes[load.probe], HttpProbe):
        return f"probe {load.probe!r} is not over HTTP, as a scrape is"
    if not isinstance(load, Scrape) and load.held is not None and load.held > load.count:
        return f"held = {load.held} is more than count = {load.count}"
    return _unknown(target, "probe", load.probe, probes)


def _unknown(target: Target, what: str, name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    if name in names:
        return None
    hint = did_you_mean(nearest(name, names)) or f"; it has {', '.join(names) or 'none'}"
    return f"target {target.name} has no {what} named {name!r}{hint}"
