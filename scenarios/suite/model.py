"""A suite file: rows of fault × traffic × expectation, multiplied by targets."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Expectation = Literal["lit", "dark"]
After = Literal["recovers", "respawns", "gone"]
CallsDo = Literal["pending", "error", "answered", "ended"]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    """The calls piled up under the fault. `call` is one of the target's, by default its first.

    `calls` is what they must do: still be `pending` when the window closes, end in an `error` or be
    `answered` inside the window, or (`ended`) nothing of the kind. All of them must end after release, in
    any case. `deadline_s` overrides the call's.
    """

    call: str | None = None
    count: int = 4
    calls: CallsDo = "pending"
    deadline_s: float | None = None


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the product.

    `expect` and `after`: one value, or one per target with `*` for the others; `calls` overrides the
    traffic's per target. `targets` narrows the suite's list. `controls` are targets on which this row (or
    the one named in `controls_row`) must go dark in the same run, or the row's lit verdicts prove nothing;
    `because` says why a row has none. `bites`: `alone`, or only `on-traffic` (then the calls start before
    the bite is proven)."""

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
    bites: Literal["alone", "on-traffic"] = "alone"
    after: After | dict[str, After] = "recovers"
    targets: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    controls_row: str | None = None
    because: str = ""


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole suite file."""

    suite: Header
    row: tuple[Row, ...]
    timing: Timing = Timing()
