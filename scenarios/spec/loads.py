"""The loads of a row: traffic besides its calls and the probes, from before the window opens until it closes.

Every load is bounded in count and in time, and must be seen to be there while the window is open, or the row
proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from scenarios.errors import did_you_mean, nearest
from scenarios.spec.target import CommandProbe, HttpProbe, Target

Count = Annotated[int, Meta(ge=1, le=20_000)]
Rate = Annotated[float, Meta(gt=0, le=10_000)]
Seconds = Annotated[float, Meta(gt=0, le=600)]

_Probe = Annotated[str, Meta(description="A probe of the target file, whose address it goes to.")]
_Held = Annotated[
    Annotated[int, Meta(ge=0, le=20_000)] | None,
    Meta(
        description="How many of them must be open all the time: all unless given, 0 for a server that "
        "closes "
        "each of them in time."
    ),
]


class Storm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="storm", tag_field="kind"):
    """Calls on a fixed schedule, whatever happened to those before them.

    A call's `needs` are called before it, and everything is undone after it.
    """

    call: Annotated[str, Meta(description="A call of the target file.")]
    rate_hz: Annotated[Rate, Meta(description="Calls started per second.")] = 50.0
    at_most: Annotated[
        Count,
        Meta(description="The most calls under way at once; starts beyond that are counted as held back."),
    ] = 200
    deadline_s: Annotated[
        Seconds | None,
        Meta(description="Seconds after which a call is given up; the call's own unless given."),
    ] = None
    hold_s: Annotated[
        Seconds | None,
        Meta(description="Seconds that a stream is held open; the call's own unless given."),
    ] = None


class Scrape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="scrape", tag_field="kind"):
    """Kept-alive connections that ask again as soon as they are answered."""

    probe: Annotated[str, Meta(description="An HTTP probe of the target file, which they ask.")]
    connections: Annotated[Count, Meta(description="How many connections there are.")] = 20
    rate_hz: Annotated[
        Rate, Meta(description="The most requests per second, of all connections together.")
    ] = 500.0


class Idle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="idle", tag_field="kind"):
    """Connections that send nothing. If the server closes one, it is counted and opened again."""

    probe: _Probe
    count: Annotated[Count, Meta(description="How many connections are made.")] = 2000
    held: _Held = None


class SlowLoris(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="slow-loris", tag_field="kind"):
    """Connections that send a request's head byte by byte and never finish it. If the server closes one, it
    is counted and opened again."""

    probe: _Probe
    count: Annotated[Count, Meta(description="How many connections are made.")] = 200
    every_s: Annotated[
        float, Meta(ge=0.02, le=60, description="Seconds between two bytes of one connection.")
    ] = 0.2
    held: _Held = None


class Clients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="client", tag_field="kind"):
    """Real processes of the target's clients, killed (SIGKILL) in the window.

    What a killed client shared with the server must be out of the server's memory in time.
    """

    client: Annotated[
        str, Meta(description='A `[[client]]` of the target file, one with `when = "scenario"`.')
    ]
    count: Annotated[int, Meta(ge=1, le=64, description="How many processes are started.")] = 1
    start: Annotated[
        Literal["before", "biting"],
        Meta(description="Whether they start before the fault is armed, or when it bites."),
    ] = "biting"
    kill: Annotated[
        bool,
        Meta(
            description="Whether each is killed in the window, `for_s` seconds after it has printed its line "
            "and is connected; otherwise they are ended when the window closes."
        ),
    ] = True
    for_s: Annotated[float, Meta(ge=0, le=60, description="Seconds that it lives before it is killed.")] = 0.3
    stuck: Annotated[
        bool,
        Meta(
            description="Whether it must print nothing more before it is killed, in the middle of its work."
        ),
    ] = False
    connected: Annotated[
        bool, Meta(description="Whether it must be connected to the server before it is killed.")
    ] = True
    released_within_s: Annotated[
        Seconds,
        Meta(
            description="Seconds after the kill, or after the fault's release if that is later, within which "
            "what it shared must be out of the server's memory."
        ),
    ] = 5.0
    args: Annotated[
        tuple[str, ...], Meta(description="More arguments, behind the command of the target file.")
    ] = ()


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
    probe = probes.get(load.probe)
    if isinstance(probe, CommandProbe) or (probe is not None and (probe.address or "").startswith("unix:")):
        return f"probe {load.probe!r} is not over TCP, as the connections of a load are"
    if isinstance(load, Scrape) and isinstance(probe, HttpProbe) and probe.method != "GET":
        return f"probe {load.probe!r} asks by {probe.method}, and a scrape by GET"
    if not isinstance(load, Scrape) and load.held is not None and load.held > load.count:
        return f"held = {load.held} is more than count = {load.count}"
    return _unknown(target, "probe", load.probe, probes)


def _unknown(target: Target, what: str, name: str, known: Collection[str]) -> str | None:
    return None if name in known else has_no(target, what, name, known)


def has_no(target: Target, what: str, name: str, known: Iterable[str]) -> str:
    """That the target has nothing of that name, and what it has, or has that is near."""
    known = list(known)
    hint = did_you_mean(nearest(name, known)) or f"; it has {', '.join(known) or 'none'}"
    return f"target {target.name} has no {what} named {name!r}{hint}"
