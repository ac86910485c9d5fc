"""A suite file: rows of fault × traffic × expectation, multiplied by targets.

The descriptions of the keys are the only ones: the tables of `docs/suite-file.md` are made from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from scenarios.record import Expectation
from scenarios.spec.loads import Load, Seconds
from scenarios.spec.target import Positive

After = Literal["recovers", "respawns", "gone"]
CallsDo = Literal["pending", "error", "answered", "ended"]

_Fault = Annotated[str, Meta(description="One of `wedge faults`.")]
_Params = Annotated[
    dict[str, Any],
    Meta(
        description="The fault's parameters; a `site` is a name of the target file, or `module:qualname`.",
    ),
]
_Process = Annotated[
    str | None,
    Meta(
        description="The process that is broken, by its name in the target file; the main one unless given."
    ),
]
_Trigger = Annotated[
    dict[str, Any],
    Meta(
        description="Which calls a call fault acts on: `on_hit`, `hits`, `times`, `p`, `seed`, "
        "`match`; every "
        "one unless given."
    ),
]


class SuiteHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the suite is called, and the targets that its rows run on."""

    name: Annotated[str, Meta(description="The suite's name, for people.")]
    summary: Annotated[str, Meta(description="One line about the suite, for people.")] = ""
    targets: Annotated[
        tuple[str, ...],
        Meta(description="Target files, relative to this one, or names of shipped targets."),
    ] = ()


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds. `window_s` must be longer than every budget, or a dark endpoint could not be told from a slow
    one. The `_within_s` are deadlines, not waits: each ends with the event it waits for."""

    baseline_s: Annotated[
        Positive, Meta(description="How long every endpoint must be lit before the fault.")
    ] = 0.8
    window_s: Annotated[Positive, Meta(description="The fault window: longer than every probe's budget.")] = (
        2.2
    )
    window_max_s: Annotated[
        Positive, Meta(description="How long the window stays open at most, if it waits for something.")
    ] = 12.0
    admits_within_s: Annotated[
        Positive | None,
        Meta(
            description="How soon a server whose calls hang must say that it is not ready, instead of the "
            "target's own `admits_within_s`. The window stays open for it, if `window_max_s` allows that."
        ),
    ] = None
    bite_within_s: Annotated[Positive, Meta(description="Until the fault is proven to bite.")] = 10.0
    end_within_s: Annotated[Positive, Meta(description="Until the calls have ended after the release.")] = (
        30.0
    )
    recover_within_s: Annotated[
        Positive,
        Meta(description="Until the endpoints, a replaced process, and the calls work again."),
    ] = 30.0
    settle_within_s: Annotated[Positive, Meta(description="Until the server holds no more than before.")] = (
        8.0
    )
    lease_s: Annotated[Positive, Meta(description="The lease, after which the fault ends by itself.")] = 30.0


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls made under the fault, all at once. All of them must end after the release, in any case."""

    call: Annotated[str | None, Meta(description="A call of the target file; its first unless given.")] = None
    count: Annotated[
        int, Meta(ge=0, le=10_000, description="How many calls are made, all at once; 0 for none.")
    ] = 4
    calls: Annotated[
        CallsDo,
        Meta(
            description="What they must do: be `pending` when the window closes; end in an `error` or be "
            "`answered` inside it; or only have `ended` after the release, which every call must in any case."
        ),
    ] = "pending"
    deadline_s: Annotated[
        Seconds | None,
        Meta(description="Seconds after which a call is given up; the call's own unless given."),
    ] = None
    error: Annotated[str | None, Meta(description="A regular expression that every error must match.")] = None
    within_s: Annotated[
        Seconds | None, Meta(description="Seconds after its beginning within which each must end.")
    ] = None
    starts: Annotated[
        Literal["open", "said"],
        Meta(
            description="In `beside` only: start when the window opens, or once everything in `says` has "
            "been said."
        ),
    ] = "open"


class FurtherFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further fault that bites at the same time, armed after the row's own and released before it."""

    fault: _Fault
    params: _Params = {}
    process: _Process = None
    trigger: _Trigger = {}


class Flap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fault comes and goes while the window is open. It must bite each time, and at least twice."""

    held_s: Annotated[Seconds, Meta(description="Seconds that it bites, each time.")]
    free_s: Annotated[Seconds, Meta(description="Seconds that it is released before it is armed again.")]


class Assertion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an endpoint must say. It is asked ten times a second."""

    probe: Annotated[str, Meta(description="A probe of the target file.")]
    status: Annotated[
        int | str, Meta(description='An HTTP status, or a serving status such as `"NOT_SERVING"`.')
    ] = 200
    body: Annotated[str | None, Meta(description="A regular expression found in the HTTP body.")] = None
    when: Annotated[
        Literal["eventually", "always", "after"],
        Meta(
            description="`eventually`: at least once in the window, which stays open for it; `always`: every "
            "time; `after`: once the fault is released."
        ),
    ] = "eventually"


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SIGTERM when the window has closed, with the fault still biting. The server and every process of it
    must have ended in time.
    """

    within_s: Annotated[Seconds, Meta(description="Seconds within which all of it must have ended.")] = 10.0
    code: Annotated[int, Meta(description="The server's exit code.")] = 0


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the product of faults and targets.

    `expect` and `after` are one value, or one per target with `*` for the others.
    """

    name: Annotated[str, Meta(description="The scenario is `name@target`.")]
    fault: _Fault
    expect: Annotated[
        Expectation | dict[str, Expectation],
        Meta(
            description="What must be seen: `lit`, `dark`, `partial` (some of several processes answer and "
            "some do not) or `lying` (calls hang, and readiness says ready); one value, or one per target "
            'with `"*"` for the others.',
        ),
    ]
    summary: Annotated[str, Meta(description="What is done, for people.")] = ""
    stands_for: Annotated[str, Meta(description="The report or rule that it stands for, for people.")] = ""
    params: _Params = {}
    process: _Process = None
    trigger: _Trigger = {}
    traffic: Annotated[Traffic, Meta(description="The calls under the fault; 4 stuck ones unless given.")] = (
        Traffic()
    )
    calls: Annotated[
        dict[str, CallsDo], Meta(description="What the calls must do, per target, over what `traffic` says.")
    ] = {}
    beside: Annotated[
        tuple[Traffic, ...],
        Meta(
            description="Further calls in the window, each like `traffic`; answered calls are undone "
            "after it."
        ),
    ] = ()
    bites: Annotated[
        Literal["alone", "on-traffic"],
        Meta(
            description="Whether the fault bites alone, or only on traffic; then the calls start before the "
            "bite is proven."
        ),
    ] = "alone"
    breaks: Annotated[
        Literal["reached", "one"],
        Meta(
            description='With `bites = "on-traffic"` and several processes of that name: every process that '
            "the calls happen to reach, or `one`: it is kept in the first in which it bites."
        ),
    ] = "reached"
    also: Annotated[
        tuple[FurtherFault, ...],
        Meta(description="Further faults at the same time; each has to bite."),
    ] = ()
    flap: Annotated[Flap | None, Meta(description="The fault comes and goes; it has to bite each time.")] = (
        None
    )
    load: Annotated[
        tuple[Load, ...], Meta(description="Traffic besides the calls and the probes, see below.")
    ] = ()
    says: Annotated[tuple[Assertion, ...], Meta(description="What endpoints must say, see below.")] = ()
    stop: Annotated[
        Stop | None,
        Meta(
            description="Send SIGTERM when the window has closed and the fault still bites; all of the "
            'server\'s processes must end in time. Needs `after = "gone"`.'
        ),
    ] = None
    ends_by: Annotated[
        Literal["release", "server"],
        Meta(
            description="Whether the harness releases the fault, or the server replaces the wedged process "
            "while the fault is armed."
        ),
    ] = "release"
    after: Annotated[
        After | dict[str, After],
        Meta(
            description="What the server does after the release: it recovers, another process replaces the "
            'wedged one (`respawns`), or it is gone; one value, or one per target with `"*"` for the others.'
        ),
    ] = "recovers"
    targets: Annotated[
        tuple[str, ...],
        Meta(
            description="The row's own targets: some of the suite's, or further ones; the suite's "
            "unless given."
        ),
    ] = ()
    controls: Annotated[
        tuple[str, ...],
        Meta(
            description="Targets on which the row must go dark (or be partial, or lie, as is expected of "
            "them) in the same run; otherwise its lit verdicts prove nothing."
        ),
    ] = ()
    controls_row: Annotated[
        str | None,
        Meta(description="The row of the suite whose scenarios are the controls; this one unless given."),
    ] = None
    because: Annotated[str, Meta(description="Why a row has no controls.")] = ""


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole suite file."""

    suite: Annotated[SuiteHeader, Meta(description="What the suite is called, and its targets.")]
    row: Annotated[tuple[Row, ...], Meta(description="What is broken, and what must be seen.")]
    timing: Annotated[Timing, Meta(description="How long the phases last.")] = Timing()
