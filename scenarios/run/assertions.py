"""The assertions on endpoints under a fault and after it: each endpoint is asked ten times a second, and its
answers are compared with the row's assertions."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from msgspec.structs import replace

from scenarios.judge import claim, proof
from scenarios.prober.messages import HttpSeries
from scenarios.prober.series import probed_series
from scenarios.record import AssertionRecord, Guard, relative
from scenarios.spec import GrpcProbe, HttpProbe
from scenarios.spec.placeholders import fill
from scenarios.spec.scenario import ProbeAssertion
from scenarios.spec.suite import Assertion

if TYPE_CHECKING:
    import grpc.aio

    from scenarios.prober.http import HttpProber

_EVERY_S = 0.1
_END_WITHIN_S = 0.5
_FEWEST_ASKED = 5
"""An endpoint that was asked fewer times than this says too little about `always`."""

_SHOWN = 200
_USER_AGENT = "wedge-assertion"
"""By which a server's log tells these requests from the probes."""

_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class _NoAnswer(Exception):
    """An endpoint was asked, and nothing came back; the message is the kind of error."""


@dataclass(slots=True)
class _Answers:
    """What one endpoint answered in the stretch that counts for its assertion. `other` is the last answer
    that did not meet it."""

    say: Assertion
    asked: int = 0
    met: int = 0
    first_met_s: float | None = None
    last: str = "nothing"
    other: str = ""
    answered: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class AssertionResult:
    """Whether assertions were met, as guards and as records for the report."""

    guards: tuple[Guard, ...]
    records: tuple[AssertionRecord, ...]


class EndpointAssertions:
    """Asks inside the context; every connection is closed at its end. It waits for each answer, at most the
    probe's budget, before it asks again."""

    def __init__(self, wanted: Sequence[ProbeAssertion], names: Mapping[str, str]) -> None:
        self._wanted, self._names = wanted, names
        self._heard = [_Answers(one.say) for one in wanted]
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        self._stretch: Literal["window", "after"] | None = None
        self._http: dict[tuple[str, int | str], HttpProber] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._ask(one.probe, heard))
            for one, heard in zip(self._wanted, self._heard, strict=True)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        if self._tasks:  # grpc may keep the connection of a call that was cancelled
            await asyncio.wait(self._tasks, timeout=_END_WITHIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for prober in self._http.values():
            await prober.close()
        for channel in self._channels.values():
            await channel.close(None)
        if self._channels:
            self._channels.clear()
            gc.collect()  # grpc lets go of some connections only when they are collected

    def open(self) -> None:
        """The window opens: what is answered from now on counts."""
        self._stretch = "window"

    @property
    def met(self) -> bool:
        """Whether every `eventually` assertion was met in the window."""
        return all(heard.met for heard in self._heard if heard.say.when == "eventually")

    def close(self, opened_s: float) -> AssertionResult:
        """Close the window that opened at `opened_s`; returns the result of its assertions."""
        self._stretch = None
        guards: list[Guard] = []
        for heard in self._heard:
            if heard.say.when == "eventually":
                guards.append(claim(_guard_name(heard.say), heard.met > 0, _found(heard, opened_s)))
            elif heard.say.when == "always":
                asked = heard.asked >= _FEWEST_ASKED
                guards.append(proof(f"{heard.say.probe} was asked", asked, f"{heard.asked} times"))
                always = heard.met == heard.asked
                guards.append(claim(_guard_name(heard.say), always, _found(heard, opened_s)))
        records = (_record(heard, opened_s) for heard in self._heard if heard.say.when != "after")
        return AssertionResult(tuple(guards), tuple(records))

    async def wait_met_after(self, opened_s: float, within_s: float) -> AsyncIterator[AssertionResult]:
        """After the release: wait for the `after` assertions, at most `within_s` for all of them; yields a
        result for each. `opened_s` is when the window opened."""
        awaited = [heard for heard in self._heard if heard.say.when == "after"]
        released_s = time.monotonic()
        self._stretch = "after" if awaited else None
        for heard in awaited:
            while not heard.met and (left_s := released_s + within_s - time.monotonic()) > 0:
                heard.answered.clear()
                try:
                    async with asyncio.timeout(left_s):
                        await heard.answered.wait()
                except TimeoutError:
                    break
            guard = claim(_guard_name(heard.say), heard.met > 0, _found(heard, released_s))
            yield AssertionResult((guard,), (_record(heard, opened_s),))

    async def _ask(self, probe: HttpProbe | GrpcProbe, heard: _Answers) -> None:
        due_s = time.monotonic()
        while not self._ending:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s = max(due_s + _EVERY_S, time.monotonic())
            counts = self._counts(heard)
            try:
                async with asyncio.timeout(probe.budget_s):
                    status, body = await self._answer(probe, heard.say.status)
                said, good = f"{status} {body}".strip(), _fits(heard.say, status, body)
            except TimeoutError:
                said, good = f"nothing within {probe.budget_s:g} s", False
            except _NoAnswer as error:
                said, good = f"nothing ({error})", False
            if counts and self._counts(heard):
                heard.asked += 1
                heard.met += good
                heard.last = said[:_SHOWN]
                if good and heard.first_met_s is None:
                    heard.first_met_s = time.monotonic()
                if not good:
                    heard.other = said[:_SHOWN]
            heard.answered.set()

    def _counts(self, heard: _Answers) -> bool:
        return self._stretch is not None and (self._stretch == "after") == (heard.say.when == "after")

    async def _answer(self, probe: HttpProbe | GrpcProbe, status: int | str) -> tuple[int | str, str]:
        """The status and the body. Raises `_NoAnswer`."""
        if isinstance(probe, GrpcProbe):
            return await self._serving_status(probe), ""
        return await self._response(probe, status)

    async def _serving_status(self, probe: GrpcProbe) -> str:
        import grpc.aio  # most rows assert nothing, and these packages take long to load
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        address = fill(probe.address, self._names)
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        request = health_pb2.HealthCheckRequest(service=probe.service)
        try:
            answer = await health_pb2_grpc.HealthStub(self._channels[address]).Check(request)
        except grpc.aio.AioRpcError as error:
            raise _NoAnswer(type(error).__name__) from error
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def _response(self, probe: HttpProbe, status: int | str) -> tuple[int, str]:
        """A redirect is an answer, and not followed, if that is what has to be said."""
        import h11

        from scenarios.prober.http import HttpProber

        key = (probe.name, status)
        if key not in self._http:
            series = probed_series(probe, "kept", 0.0, self._names)
            assert isinstance(series, HttpSeries)
            assert isinstance(status, int)
            named = any(name.lower() == "user-agent" for name in series.headers)
            headers = series.headers if named else {"User-Agent": _USER_AGENT, **series.headers}
            good = (*series.status, status)
            self._http[key] = HttpProber(0, replace(series, status=good, headers=headers))
        try:
            answer = await self._http[key].answer()
        except (OSError, h11.ProtocolError) as error:
            raise _NoAnswer(type(error).__name__) from error
        return answer.status, answer.body.decode(errors="replace")


def _fits(say: Assertion, status: int | str, body: str) -> bool:
    return status == say.status and (say.body is None or re.search(say.body, body) is not None)


def _guard_name(say: Assertion) -> str:
    body = f" with {say.body!r}" if say.body is not None else ""
    when = {"eventually": "said", "always": "always said", "after": "said after release"}[say.when]
    return f"{say.probe} {when} {say.status}{body}"


def _found(heard: _Answers, since_s: float) -> str:
    counts = f"{heard.met} of {heard.asked} times"
    if heard.say.when == "always":
        return f"{counts}; also {heard.other}" if heard.other else counts
    if heard.first_met_s is not None:
        return f"{counts}, first after {heard.first_met_s - since_s:.2f} s"
    return f"{counts}; at last {heard.last}"


def _record(heard: _Answers, opened_s: float) -> AssertionRecord:
    say = heard.say
    return AssertionRecord(
        probe=say.probe,
        status=say.status,
        body=say.body,
        when=say.when,
        asked=heard.asked,
        met=heard.met,
        first_met_s=relative(heard.first_met_s, opened_s),
        last=heard.last,
    )
