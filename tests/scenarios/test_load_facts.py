"""Whether a load was there, from its tallies alone: each thing that can be missing is told."""

from __future__ import annotations

import msgspec
import pytest

from scenarios.spec.loads import Idle, Scrape, SlowLoris, Storm
from scenarios.traffic.load.facts import LoadFacts, facts
from scenarios.traffic.load.messages import GeneratedLoad, LoadTally

_WINDOW_S = 2.0
_KEPT = LoadTally(started=100, answered=100, open=100, least_open=100, established=100, accepted=100)
_SLOW = msgspec.structs.replace(_KEPT, sent_bytes=2000)
_SCRAPED = msgspec.structs.replace(_KEPT, started=500, answered=499)
_STORMED = LoadTally(started=110, answered=105, open=5)


def judged(load: GeneratedLoad, closed: LoadTally) -> LoadFacts:
    return facts(load, LoadTally(), closed, _WINDOW_S, ())


@pytest.mark.parametrize(
    ("load", "closed"),
    [
        (Idle("p", 100), _KEPT),
        (Idle("p", 100, held=50), msgspec.structs.replace(_KEPT, least_open=50, closed=50)),
        (SlowLoris("p", 100, every_s=0.1), _SLOW),
        (SlowLoris("p", 100, held=0), msgspec.structs.replace(_SLOW, least_open=0, sent_bytes=1, closed=100)),
        (Scrape("p", 100), _SCRAPED),
        (Scrape("p", 100), msgspec.structs.replace(_KEPT, started=100, answered=0)),
        (Storm("c", rate_hz=50), _STORMED),
        (Storm("c", rate_hz=50, at_most=5), LoadTally(started=5, open=5, throttled=95)),
    ],
)
def test_a_load_that_was_there_counts(load: GeneratedLoad, closed: LoadTally) -> None:
    assert judged(load, closed).sustained, judged(load, closed).detail


@pytest.mark.parametrize(
    ("load", "closed", "missing"),
    [
        (Idle("p", 101), _KEPT, "only 100 connections could be made"),
        (Idle("p", 100), msgspec.structs.replace(_KEPT, least_open=99), "only 99 of 100 were open"),
        (Idle("p", 100), msgspec.structs.replace(_KEPT, established=98), "only 98 of 100 were open"),
        (SlowLoris("p", 100, every_s=0.1), msgspec.structs.replace(_SLOW, sent_bytes=900), "too few bytes"),
        (
            SlowLoris("p", 100, held=0),
            msgspec.structs.replace(_SLOW, least_open=0, sent_bytes=0),
            "too few bytes were sent",
        ),
        (Scrape("p", 100), msgspec.structs.replace(_SCRAPED, least_open=79), "at one time 79 of 100"),
        (Scrape("p", 100), msgspec.structs.replace(_KEPT, started=0, answered=0), "nothing was asked"),
        (
            Scrape("p", 100),
            msgspec.structs.replace(_SCRAPED, answered=0, errors=500),
            "not one request was answered as the probe expects",
        ),
        (Storm("c", rate_hz=50), LoadTally(started=40, answered=40), "too few calls were started"),
        (Storm("c", rate_hz=50), LoadTally(started=101, errors=100, open=1), "not one call was answered"),
        (Storm("c", rate_hz=50), LoadTally(), "not one call was answered"),
    ],
)
def test_what_was_missing_is_told(load: GeneratedLoad, closed: LoadTally, missing: str) -> None:
    found = judged(load, closed)
    assert not found.sustained
    assert missing in found.detail


def test_what_failed_is_told_with_the_reason() -> None:
    closed = msgspec.structs.replace(_KEPT, errors=3, said=("refused (x3)",))
    assert judged(Idle("p", 100), closed).detail.endswith("; errors: refused (x3)")
