"""What a test asks for (`@pytest.mark.wedge(target=…, fault=…, …)`), as scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from faults import FaultsError, Selector, UnknownFault, fault_info, validate
from scenarios.errors import CouldNotRun, did_you_mean, nearest
from scenarios.spec import LoadedTarget, Row, Scenario, Timing, target_file
from scenarios.spec.suite import After, CallsDo, Expectation, Traffic
from scenarios.spec.target_file import find


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario, in a test's words.

    `target` is a file, relative to the test's folder or to where pytest runs, or a shipped name. `call` is
    the target's call to pile up `count` times, by default its first; `calls` is what they must do. `control`
    is a target known to be bad, on which the same must go dark, or a lit verdict proves nothing. `params` are
    the fault's; so is every keyword that is not one of these. `timing` changes the phases' lengths.
    """

    target: str
    fault: str
    expect: Expectation = "lit"
    process: str | None = None
    params: dict[str, Any] = {}
    trigger: dict[str, Any] = {}
    call: str | None = None
    count: int = 4
    calls: CallsDo | None = None
    deadline_s: float | None = None
    after: After = "recovers"
    control: str | None = None
    timing: dict[str, float] = {}
    seed: int = 0

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Asked:
        """From keywords. Raises `CouldNotRun`."""
        known = {field.name for field in msgspec.structs.fields(cls)}
        params = {**words.get("params", {}), **{k: v for k, v in words.items() if k not in known}}
        value = {**{k: v for k, v in words.items() if k in known}, "params": params}
        value = {k: str(v) if isinstance(v, Path) else v for k, v in value.items()}
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise CouldNotRun(f"wedge(…): {error}") from None


def scenarios_for(asked: Asked, beside: Path) -> tuple[Scenario, ...]:
    """The scenario, and behind it the same one on its control. Raises `CouldNotRun` for anything unknown."""
    loaded = target_file.load(find(asked.target, beside=beside))
    timing = _timing(asked)
    controls: tuple[Scenario, ...] = ()
    if asked.control is not None:
        control = target_file.load(find(asked.control, beside=beside))
        controls = (_scenario(asked, control, "dark", timing, ()),)
    names = tuple(control.name for control in controls)
    return (_scenario(asked, loaded, asked.expect, timing, names), *controls)


def _scenario(
    asked: Asked, loaded: LoadedTarget, expected: Expectation, timing: Timing, controls: tuple[str, ...]
) -> Scenario:
    known = {call.name: call for call in loaded.target.call}
    if asked.call is not None and asked.call not in known:
        hint = did_you_mean(nearest(asked.call, known)) or f"; it has {', '.join(known) or 'none'}"
        raise CouldNotRun(f"wedge(…): target {loaded.name} has no call named {asked.call!r}{hint}")
    _refuse_unknown(asked, loaded)
    fault = fault_info(asked.fault)
    calls: CallsDo = asked.calls or ("answered" if fault.is_control else "pending")
    count = asked.count if known else 0
    row = Row(
        name=asked.fault,
        fault=asked.fault,
        expect=expected,
        params=asked.params,
        process=asked.process,
        trigger=asked.trigger,
        traffic=Traffic(asked.call, count, calls, asked.deadline_s),
        bites="on-traffic" if fault.triggers and count else "alone",
        after=asked.after,
    )
    return Scenario(
        name=f"{asked.fault}@{loaded.name}",
        row=row,
        target=loaded,
        expected=expected,
        after=asked.after,
        calls=calls,
        call=(known[asked.call] if asked.call else next(iter(known.values()))) if count else None,
        controls=controls,
        timing=timing,
    )


def _refuse_unknown(asked: Asked, loaded: LoadedTarget) -> None:
    """Now, and not after the server has started, say what the fault layer would refuse."""
    selectors = {
        name: Selector(s.cmdline, s.imports, s.parent, s.main) for name, s in loaded.target.processes.items()
    }
    try:
        validate(
            asked.fault,
            process=asked.process,
            params=asked.params,
            trigger=asked.trigger,
            processes=selectors,
            sites=loaded.target.sites,
        )
    except UnknownFault as error:
        raise CouldNotRun(f"wedge(…): {error}") from None
    except FaultsError as error:
        raise CouldNotRun(f"wedge(…) on target {loaded.name}: {error}") from None


def _timing(asked: Asked) -> Timing:
    known = {field.name for field in msgspec.structs.fields(Timing)}
    for name in asked.timing:
        if name not in known:
            hint = did_you_mean(nearest(name, known)) or f"; there are {', '.join(sorted(known))}"
            raise CouldNotRun(f"wedge(…): timing has no {name!r}{hint}")
    return msgspec.structs.replace(Timing(), **asked.timing)
