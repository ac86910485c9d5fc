"""Turns a test's request (`@pytest.mark.wedge(target=…, fault=…, …)`) into scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from faults import FaultsError, UnknownFault, fault_info, validate
from scenarios.errors import CouldNotRun, did_you_mean, nearest
from scenarios.record import Expectation
from scenarios.server.server import selectors
from scenarios.spec import LoadedTarget, Row, Scenario, Timing, target_file
from scenarios.spec.loads import has_no
from scenarios.spec.suite import After, CallsDo, Traffic
from scenarios.spec.target_file import find


class ScenarioRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario, in a test's words: `docs/test-your-own-server.md` has a table of them. Every keyword that
    is none of these is a parameter of the fault.
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
    def from_keywords(cls, keywords: Mapping[str, Any]) -> ScenarioRequest:
        """The request that these keywords make. Raises `CouldNotRun` for one of the wrong type."""
        known = {field.name for field in msgspec.structs.fields(cls)}
        params = {**keywords.get("params", {}), **{k: v for k, v in keywords.items() if k not in known}}
        value = {**{k: v for k, v in keywords.items() if k in known}, "params": params}
        value = {k: str(v) if isinstance(v, Path) else v for k, v in value.items()}
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise CouldNotRun(f"wedge(…): {error}") from None


def scenarios_for(request: ScenarioRequest, beside: Path) -> tuple[Scenario, ...]:
    """The scenario, and behind it the same one on its control. Raises `CouldNotRun` for anything unknown."""
    loaded = target_file.load(find(request.target, beside=beside))
    timing = _timing(request)
    controls: tuple[Scenario, ...] = ()
    if request.control is not None:
        control = target_file.load(find(request.control, beside=beside))
        controls = (_scenario(request, control, "dark", timing, ()),)
    names = tuple(control.name for control in controls)
    return (_scenario(request, loaded, request.expect, timing, names), *controls)


def _scenario(
    request: ScenarioRequest,
    loaded: LoadedTarget,
    expected: Expectation,
    timing: Timing,
    controls: tuple[str, ...],
) -> Scenario:
    known = {call.name: call for call in loaded.spec.call}
    if request.call is not None and request.call not in known:
        raise CouldNotRun(f"wedge(…): {has_no(loaded.spec, 'call', request.call, known)}")
    _refuse_unknown(request, loaded)
    fault = fault_info(request.fault)
    calls: CallsDo = request.calls or ("answered" if fault.is_control else "pending")
    count = request.count if known else 0
    row = Row(
        name=request.fault,
        fault=request.fault,
        expect=expected,
        params=request.params,
        process=request.process,
        trigger=request.trigger,
        traffic=Traffic(request.call, count, calls, request.deadline_s),
        bites="on-traffic" if fault.triggers and count else "alone",
        after=request.after,
    )
    return Scenario(
        name=f"{request.fault}@{loaded.name}",
        row=row,
        target=loaded,
        expected=expected,
        after=request.after,
        calls=calls,
        call=(known[request.call] if request.call else next(iter(known.values()))) if count else None,
        controls=controls,
        timing=timing,
        seeks_site=True,
    )


def _refuse_unknown(request: ScenarioRequest, loaded: LoadedTarget) -> None:
    """Raise what the fault layer would refuse, before the server is started."""
    try:
        validate(
            request.fault,
            process=request.process,
            params=request.params,
            trigger=request.trigger,
            processes=selectors(loaded),
            sites=loaded.spec.sites,
        )
    except UnknownFault as error:
        raise CouldNotRun(f"wedge(…): {error}") from None
    except FaultsError as error:
        raise CouldNotRun(f"wedge(…) on target {loaded.name}: {error}") from None


def _timing(request: ScenarioRequest) -> Timing:
    known = {field.name for field in msgspec.structs.fields(Timing)}
    for name in request.timing:
        if name not in known:
            hint = did_you_mean(nearest(name, known)) or f"; there are {', '.join(sorted(known))}"
            raise CouldNotRun(f"wedge(…): timing has no {name!r}{hint}")
    return msgspec.structs.replace(Timing(), **request.timing)
