"""A suite file: rows of fault × traffic × expectation, multiplied by targets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from scenarios.spec.loads import Load

Expectation = Literal["lit", "dark"]
After = Literal["recovers", "respawns", "gone"]
CallsDo = Literal["pending", "error", "answered", "ended"]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]


class SuiteHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`targets`: names of shipped targets, or paths relative to the suite's folder."""

    name: str
    summary: str = ""
    targets: tuple[str, ...] = ()


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds. `window_s` must be longer than every budget, or a dark endpoint could not be told from a slow
    one. The `_within_s` are deadlines, not waits: each ends with the event it waits for."""

    baseline_s: float = 0.8
    window_s: float = 2.2
    window_max_s: float = 8.0
    bite_within_s: float = 10.0
    end_within_s: float = 30.0
    recover_within_s: float = 30.0
    settle_within_s: float = 8.0
    lease_s: float = 30.0


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls made under the fault, all at once. `call` is one of the target's, by default its first.

    `calls` is what they must do: still be `pending` when the window closes, end in an `error` or be
    `answered` inside the window, or (`ended`) nothing of the kind. All of them must end after release, in
    any case. `error`: a regex that every error must match. `within_s`: each must end so soon after it began.
    `deadline_s` overrides the call's. `starts`: when the window opens (the row's own traffic: when the fault
    bites), or when the endpoints have said what `says` wants of them.
    """

    call: str | None = None
    count: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 4
    calls: CallsDo = "pending"
    deadline_s: Seconds | None = None
    error: str | None = None
    within_s: Seconds | None = None
    starts: Literal["open", "said"] = "open"


class FurtherFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further fault that bites at the same time, armed after the row's own and released before it."""

    fault: str
    params: dict[str, Any] = {}
    process: str | None = None
    trigger: dict[str, Any] = {}


class Flap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fault comes and goes while the window is open: it bites for `held_s`, is released for `free_s`, and
    is armed again. Every coming must bite, and there must be two at least."""

    held_s: Seconds
    free_s: Seconds


class Assertion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an endpoint must say, asked ten times a second. `probe` is one of the target's.

    `status` is an HTTP status, or a serving status such as `NOT_SERVING`; `body` a regex found in the HTTP
    body. `when`: at least once in the window, which stays open for it (`eventually`); every time (`always`);
    or once the fault is released (`after`).
    """

    probe: str
    status: int | str = 200
    body: str | None = None
    when: Literal["eventually", "always", "after"] = "eventually"


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the window has closed, and with the fault still biting, the server is asked to end (SIGTERM). It
    must have ended with this exit code within so many seconds, and every process of it with it."""

    within_s: Seconds = 10.0
    code: int = 0


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the product.

    `expect` and `after`: one value, or one per target with `*` for the others; `calls` overrides the
    traffic's per target. `targets` are those of the row alone: some of the suite's, or further ones.
    `controls` are targets on which this row (or the one named in `controls_row`) must go dark in the same
    run, or the row's lit verdicts prove nothing; `because` says why a row has none. `bites`: `alone`, or only
    `on-traffic` (then the calls start before the bite is proven).

    `beside` are further calls, made in the window; what they were answered is undone after it. `also` are
    further faults. `stop` needs `after = "gone"`. `ends_by`: the harness releases the fault, or the server
    itself replaces the process that is wedged, while the fault is still armed."""

    name: str
    fault: str
    expect: Expectation | dict[str, Expectation]
    summary: str = ""
    stands_for: str = ""
    params: dict[str, Any] = {}
    process: str | None = None
    trigger: dict[str, Any] = {}
    traffic: Traffic = Traffic()
    calls: dict[str, CallsDo] = {}
    beside: tuple[Traffic, ...] = ()
    bites: Literal["alone", "on-traffic"] = "alone"
    also: tuple[FurtherFault, ...] = ()
    flap: Flap | None = None
    load: tuple[Load, ...] = ()
    says: tuple[Assertion, ...] = ()
    stop: Stop | None = None
    ends_by: Literal["release", "server"] = "release"
    after: After | dict[str, After] = "recovers"
    targets: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    controls_row: str | None = None
    because: str = ""


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole suite file."""

    suite: SuiteHeader
    row: tuple[Row, ...]
    timing: Timing = Timing()
